"""SQLite: opening the database with its migrations, and messages as rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from roomful.archive.base import ArchiveUnavailable, Erasure
from roomful.cluster.cursor import ShardName
from roomful.shard.base import Entry, Envelope, RoomId, UserId

__all__ = [
    "COLUMNS",
    "connect",
    "entries_of",
    "entry_of",
    "insert",
    "migrate",
    "without_erased",
]

COLUMNS: Final = 'room, "offset", event, id, user_id, timestamp_ms, body, attachments'

BUSY_MS: Final = 10_000
"""How long a connection waits for another one's transaction."""

_WIDTH: Final = 9
_ROWS: Final = 64
"""Rows of one statement: Python lets go of its lock for a statement, not for a row."""

_STATEMENT_BYTES: Final = 256 << 10
"""
Bodies of one statement: SQLite copies them, and a statement that is kept for the next time keeps
the copies, of 64 rows of the largest messages some 64 MB.
"""

_INSERT: Final = (
    'INSERT INTO message (shard, room, "offset", event, id, user_id, timestamp_ms, body, '
    "attachments) VALUES {} ON CONFLICT DO NOTHING"
)
_ONE: Final = "(" + ",".join("?" * _WIDTH) + ")"
_INSERT_ONE: Final = _INSERT.format(_ONE)
_INSERT_MANY: Final = _INSERT.format(",".join([_ONE] * _ROWS))

_packed = msgspec.msgpack.Encoder().encode
_unpacked = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode


def connect(path: Path) -> sqlite3.Connection:
    """
    Open the database for one thread at a time.

    A commit is in the hands of the system, so it survives the process; only a checkpoint is on
    the disk for certain (synchronous NORMAL).
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -4096")
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """
    Bring the schema to this version's.

    Raises:
        ArchiveUnavailable: it is that of a newer one.
    """
    directory = files("roomful.archive") / "migrations" / "sqlite"
    scripts = sorted(file.name for file in directory.iterdir() if file.name.endswith(".sql"))
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise ArchiveUnavailable(
            f"the messages were kept by a newer Roomful (schema {version}, here {len(scripts)})",
            temporary=False,
        )
    for number, name in enumerate(scripts[version:], version + 1):
        script = (directory / name).read_text()
        connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _row(shard: ShardName, entry: Entry) -> tuple[Any, ...]:
    envelope = entry.envelope
    return (
        shard,
        envelope.room,
        entry.offset,
        envelope.event,
        envelope.id,
        envelope.user,
        envelope.timestamp,
        envelope.body,
        _packed(envelope.attachments) if envelope.attachments else None,
    )


def insert(connection: sqlite3.Connection, shard: ShardName, entries: Sequence[Entry]) -> None:
    """Insert *entries* that are not there, within the transaction that is open."""
    for first in range(0, len(entries), _ROWS):
        some = entries[first : first + _ROWS]
        rows = [_row(shard, entry) for entry in some]
        if len(some) == _ROWS and sum(one.envelope.size for one in some) <= _STATEMENT_BYTES:
            connection.execute(_INSERT_MANY, [value for row in rows for value in row])
            continue
        for row in rows:
            connection.execute(_INSERT_ONE, row)


def entry_of(row: Sequence[Any]) -> Entry:
    """Give the entry of a row of COLUMNS."""
    room, offset, event, name, user, timestamp, body, attachments = row
    envelope = Envelope(
        RoomId(room),
        event,
        name,
        UserId(user),
        timestamp,
        body,
        _unpacked(attachments) if attachments else (),
    )
    return Entry(offset, envelope)


def entries_of(rows: Iterable[Sequence[Any]]) -> list[Entry]:
    """Give the entries of rows of COLUMNS."""
    return [entry_of(row) for row in rows]


def without_erased(connection: sqlite3.Connection, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Give *entries* without those that someone wanted gone before they came here."""
    oldest = min(entry.envelope.timestamp for entry in entries)
    rows = connection.execute(
        'SELECT at_ms, by, room, "offset", user_id FROM erasure WHERE at_ms >= ?', (oldest,)
    ).fetchall()
    if not rows:
        return entries
    erasures = [Erasure(*row) for row in rows]
    return [entry for entry in entries if not any(one.covers(entry) for one in erasures)]
