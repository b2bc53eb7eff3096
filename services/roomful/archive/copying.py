"""
A batch into PostgreSQL: binary COPY straight into the partitioned table.

A batch that has something in it that is there already (an archiver died between commit and
acknowledgement) is refused by the key as a whole, and goes the longer way once: COPY into a
temporary table, INSERT of what is new. docs/adr/0017-archive.md has the rates of both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import psycopg

from roomful.archive.base import Erasure, Letter, Stored
from roomful.archive.connections import Rows
from roomful.cluster.cursor import ShardName
from roomful.shard.message import Entry

__all__ = ["ERASURE_LOCK", "Row", "bury", "store"]

logger = logging.getLogger("roomful.archive")

COLUMNS: Final = 'room, "offset", shard, timestamp_ms, event, id, user_id, body, attachments'
TYPES: Final = ("text", "int8", "text", "int8", "text", "text", "text", "bytea", "bytea[]")

ERASURE_LOCK: Final = "hashtextextended('roomful.erasure', 0)"
"""Shared by those who store, alone for those who erase: no batch passes an erasure unseen."""

_STAGE: Final = "CREATE TEMPORARY TABLE roomful_staging (LIKE roomful.message) ON COMMIT DROP"
_MERGE: Final = (
    f"INSERT INTO roomful.message ({COLUMNS}) SELECT {COLUMNS} FROM pg_temp.roomful_staging "  # noqa: S608
    "ON CONFLICT DO NOTHING"
)

Row = tuple[Any, ...]


def _row(shard: ShardName, entry: Entry) -> Row:
    envelope = entry.envelope
    return (
        envelope.room,
        entry.offset,
        shard,
        envelope.timestamp,
        envelope.event,
        envelope.id,
        envelope.user,
        envelope.body,
        list(envelope.attachments) or None,
    )


async def store(connection: Rows, shard: ShardName, entries: Sequence[Entry]) -> Stored:
    """
    Store *entries* in transactions of *connection*, all of them or what can be.

    Raises:
        psycopg.Error: but no DataError: such a message is buried.
    """
    try:
        return Stored(await _insert(connection, shard, entries, is_staged=False))
    except psycopg.errors.UniqueViolation:
        pass
    except psycopg.DataError as exc:
        return await _split(connection, shard, entries, exc)
    try:
        return Stored(await _insert(connection, shard, entries, is_staged=True))
    except psycopg.DataError as exc:
        return await _split(connection, shard, entries, exc)


async def _insert(
    connection: Rows, shard: ShardName, entries: Sequence[Entry], *, is_staged: bool
) -> int:
    """Store *entries* in one transaction; gives how many were new."""
    oldest = min(entry.envelope.timestamp for entry in entries)
    async with connection.transaction():
        # The snapshot of the second statement is taken after the lock of the first.
        erased = await connection.execute(
            f"SELECT pg_advisory_xact_lock_shared({ERASURE_LOCK});"  # noqa: S608 - a number
            'SELECT at_ms, by, room, "offset", user_id FROM roomful.erasure '
            f"WHERE at_ms >= {oldest:d}"
        )
        erased.nextset()
        erasures = [Erasure(*row) for row in await erased.fetchall()]
        if erasures:
            entries = [one for one in entries if not any(past.covers(one) for past in erasures)]
        table = "roomful.message"
        if is_staged:
            await connection.execute(_STAGE)
            table = "pg_temp.roomful_staging"
        async with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(TYPES)
            for entry in entries:
                await copy.write_row(_row(shard, entry))
        if is_staged:
            return (await connection.execute(_MERGE)).rowcount
    return len(entries)


async def _split(
    connection: Rows, shard: ShardName, entries: Sequence[Entry], exc: psycopg.DataError
) -> Stored:
    """Store the halves of a batch in which something is that PostgreSQL does not take."""
    if len(entries) == 1:
        reason = str(exc).split("\n", 1)[0]
        logger.error("message buried", extra={"shard": shard, "offset": entries[0].offset})
        raw = msgspec.msgpack.encode(entries[0])
        await bury(connection, [Letter(shard, entries[0].offset, raw, reason)])
        return Stored(0, 1)
    half = len(entries) // 2
    one = await store(connection, shard, entries[:half])
    other = await store(connection, shard, entries[half:])
    return Stored(one.new + other.new, one.letters + other.letters)


async def bury(connection: Rows, letters: Sequence[Letter]) -> None:
    """Keep *letters*; repeating it changes nothing."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            'INSERT INTO roomful.dead_letter (shard, "offset", reason, raw) '
            "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [(one.shard, one.offset, one.reason.replace("\0", ""), one.raw) for one in letters],
        )
