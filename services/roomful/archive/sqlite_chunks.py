"""
SQLite: opening the database with its migrations, and messages in chunks.

A chunk is a row with up to CHUNK_ENTRIES messages of one room, as MessagePack: what gives messages
their place works for many at once, and SQLite's own work is for a row. Chunks of a room do not
overlap, so their order is the room's. A chunk that is small still takes in what comes next, so a
quiet room does not have a row for each message.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from roomful.archive.base import ArchiveUnavailable, Erasure
from roomful.cluster.cursor import ShardName
from roomful.shard.message import Entry, RoomId

__all__ = [
    "COLUMNS",
    "Chunk",
    "backward",
    "connect",
    "forward",
    "insert",
    "migrate",
    "newest_first",
    "rewrite",
    "transaction",
    "without_erased",
]

BUSY_MS: Final = 10_000
"""How long a connection waits for another one's transaction."""

CHUNK_ENTRIES: Final = 128
CHUNK_BYTES: Final = 64 << 10
"""A chunk has no more, unless it is a single message."""
SMALL_BYTES: Final = 1 << 10
"""A chunk below this takes in what comes next."""

HIGHEST: Final = 2**63 - 1

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Entry]).decode


class Chunk(NamedTuple):
    """A row of COLUMNS."""

    number: int
    room: str
    first: int
    last: int
    shard: str
    oldest_ms: int
    newest_ms: int
    packed: bytes

    def entries(self) -> list[Entry]:
        """Give the messages, in offset order."""
        return _unpack(self.packed)


COLUMNS: Final = "number, room, first, last, shard, oldest_ms, newest_ms, entries"


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


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do the block's writes all, or none of them if it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have ended it already, as when the disk is full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


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


# Writing -----------------------------------------------------------------------------------------


def insert(connection: sqlite3.Connection, shard: ShardName, entries: Iterable[Entry]) -> int:
    """
    Insert *entries* of *shard* that are not there; gives how many those are.

    To be called within a transaction that may write, so that no chunk changes meanwhile.
    """
    by_room: dict[RoomId, list[Entry]] = {}
    for entry in entries:
        room = entry.envelope.room
        if room in by_room:
            by_room[room].append(entry)
        else:
            by_room[room] = [entry]
    return sum(_insert_in(connection, shard, room, new) for room, new in by_room.items())


def _insert_in(
    connection: sqlite3.Connection, shard: ShardName, room: RoomId, new: list[Entry]
) -> int:
    new.sort(key=_offset)
    taken = _overlapping(connection, room, new[0].offset, new[-1].offset)
    count = len(new)
    if taken:
        kept = {_place(one, shard): one for chunk in taken for one in _told(chunk, shard)}
        before = len(kept)
        for one in new:
            kept.setdefault(_place(one, shard), one)
        count = len(kept) - before
        if not count:
            return 0
        new = sorted(kept.values(), key=_offset)
        numbers = [(chunk.number,) for chunk in taken]
        connection.executemany("DELETE FROM chunk WHERE number = ?", numbers)
    else:
        if count > 1:
            unique = {one.offset: one for one in reversed(new)}
            if len(unique) < count:
                count = len(unique)
                new = sorted(unique.values(), key=_offset)
        new = new[_append(connection, shard, room, new) :]
    connection.executemany(
        "INSERT INTO chunk (room, first, last, shard, oldest_ms, newest_ms, entries) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        # One after the other: all of them packed would be all messages once more.
        (_row(room, shard, some) for some in _cut(new)),
    )
    return count


def _overlapping(
    connection: sqlite3.Connection, room: RoomId, first: int, last: int
) -> list[Chunk]:
    query = f"SELECT {COLUMNS} FROM chunk WHERE room = ? AND last >= ? ORDER BY last"  # noqa: S608
    found = []
    for row in connection.execute(query, (room, first)):
        if row[2] > last:
            break
        found.append(Chunk(*row))
    return found


def _append(
    connection: sqlite3.Connection, shard: ShardName, room: RoomId, new: Sequence[Entry]
) -> int:
    """Let the chunk before *new* take in the first of them if it is small; gives how many."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM chunk WHERE number = (SELECT number FROM chunk "  # noqa: S608
        "WHERE room = ? AND last < ? ORDER BY last DESC LIMIT 1) "
        "AND length(entries) < ? AND shard = ?",
        (room, new[0].offset, SMALL_BYTES, shard),
    ).fetchone()
    if row is None:
        return 0
    chunk = Chunk(*row)
    entries = chunk.entries()
    longer = next(_cut([*entries, *new]))
    if len(longer) > len(entries):
        rewrite(connection, chunk, longer)
    return len(longer) - len(entries)


def _told(chunk: Chunk, shard: ShardName) -> list[Entry]:
    """Give the messages of *chunk* as they are in one of *shard*."""
    entries = chunk.entries()
    if chunk.shard == shard:
        return entries
    born = ShardName(chunk.shard)
    return [
        Entry(one.offset, one.envelope, None if one.origin == shard else one.origin or born)
        for one in entries
    ]


def _place(entry: Entry, shard: str) -> tuple[int, str]:
    return entry.offset, entry.origin or shard


def _offset(entry: Entry) -> int:
    return entry.offset


def _cut(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut *entries* into what one chunk holds."""
    some: list[Entry] = []
    size = 0
    for entry in entries:
        size += entry.envelope.size
        # One offset, born on two shards, stays together: chunks do not overlap.
        is_full = len(some) >= CHUNK_ENTRIES or size > CHUNK_BYTES
        if some and is_full and some[-1].offset != entry.offset:
            yield some
            some, size = [], entry.envelope.size
        some.append(entry)
    if some:
        yield some


def _row(
    room: RoomId, shard: str, entries: Sequence[Entry]
) -> tuple[str, int, int, str, int, int, bytes]:
    times = [one.envelope.timestamp for one in entries]
    first, last = entries[0].offset, entries[-1].offset
    return room, first, last, shard, min(times), max(times), _pack(entries)


def rewrite(connection: sqlite3.Connection, chunk: Chunk, kept: Sequence[Entry]) -> None:
    """Leave *kept* of *chunk*'s messages; within a transaction that may write."""
    if not kept:
        connection.execute("DELETE FROM chunk WHERE number = ?", (chunk.number,))
        return
    _, *values = _row(RoomId(chunk.room), chunk.shard, kept)
    connection.execute(
        "UPDATE chunk SET first = ?, last = ?, shard = ?, oldest_ms = ?, newest_ms = ?, "
        "entries = ? WHERE number = ?",
        (*values, chunk.number),
    )


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


# Reading -----------------------------------------------------------------------------------------


def forward(
    connection: sqlite3.Connection, room: RoomId, after: int, before: int = HIGHEST
) -> Iterator[Entry]:
    """Give the messages of *room* between the offsets *after* and *before*, oldest first."""
    query = f"SELECT {COLUMNS} FROM chunk WHERE room = ? AND last > ? ORDER BY last"  # noqa: S608
    for row in connection.execute(query, (room, after)):
        for entry in Chunk(*row).entries():
            if entry.offset >= before:
                return
            if entry.offset > after:
                yield entry


def backward(
    connection: sqlite3.Connection, room: RoomId, after: int, before: int = HIGHEST
) -> Iterator[Entry]:
    """Give the same, newest first."""
    # The chunk that *before* is in, and those before it.
    query = (
        f"SELECT {COLUMNS} FROM chunk WHERE room = ?1 AND last <= coalesce("  # noqa: S608
        "(SELECT last FROM chunk WHERE room = ?1 AND last >= ?2 ORDER BY last LIMIT 1), ?2) "
        "ORDER BY last DESC"
    )
    for row in connection.execute(query, (room, before)):
        for entry in reversed(Chunk(*row).entries()):
            if entry.offset <= after:
                return
            if entry.offset < before:
                yield entry


def newest_first(connection: sqlite3.Connection, shard: str) -> Iterator[Entry]:
    """Give all messages that were born on *shard*, over all rooms, newest first."""
    # The index has all that this needs; the chunks themselves are read one by one.
    numbers = connection.execute("SELECT number, last FROM chunk ORDER BY last DESC")
    one = f"SELECT {COLUMNS} FROM chunk WHERE number = ? AND shard = ?"  # noqa: S608
    # What is below the newest of the chunks to come has to wait for those.
    waiting: list[Entry] = []
    for number, last in numbers:
        waiting.sort(key=_offset)
        while waiting and waiting[-1].offset > last:
            yield waiting.pop()
        for row in connection.execute(one, (number, shard)):
            waiting += [entry for entry in Chunk(*row).entries() if entry.origin is None]
    waiting.sort(key=_offset)
    yield from reversed(waiting)
