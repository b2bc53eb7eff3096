"""The archive of a cluster: PostgreSQL (12 or newer), also behind PgBouncer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from roomful.archive.base import (
    Erasure,
    Kept,
    Letter,
    Rule,
    Stored,
    cut_page,
    fitting,
)
from roomful.archive.connections import Connections
from roomful.archive.copying import ERASURE_LOCK, bury, store
from roomful.archive.partitions import retain
from roomful.archive.retention import lost_rooms
from roomful.cluster.cursor import ShardName
from roomful.shard.base import Page, Replay
from roomful.shard.message import Entry, Envelope, RoomId, UserId

__all__ = ["PostgresArchive"]

logger = logging.getLogger("roomful.archive")

COLUMNS: Final = (
    'm.room, m."offset", m.event, m.id, m.user_id, m.timestamp_ms, m.body, m.attachments'
)
BY_USER: Final = 'user_id COLLATE "C"'
"""As the index has it (migration 0003)."""
HIGHEST: Final = 2**63 - 1
PIECE: Final = 5_000
"""Rows of one statement of what is long."""
LONG_S: Final = 3600.0
"""Seconds for a statement that deletes what may be very much."""
READ_ROWS: Final = 1_000
"""Rows of one read; what a client missed comes in as many as it takes."""


class PostgresArchive:
    """Implements Archive."""

    def __init__(self, url: str, *, connections: int = 4, timeout_s: float = 10.0) -> None:
        """Connect when there is something to do; *timeout_s* is for one call, in seconds."""
        self.connections = Connections(url, connections, timeout_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.connections.aclose()

    # Storing --------------------------------------------------------------------------------

    async def store(self, shard: ShardName, entries: Sequence[Entry]) -> Stored:
        """Keep *entries* of *shard*."""
        if not entries:
            return Stored(0)
        async with self.connections.use() as connection:
            return await store(connection, shard, entries)

    async def bury(self, letters: Sequence[Letter]) -> None:
        """Keep dead letters."""
        async with self.connections.use() as connection:
            await bury(connection, letters)

    # Reading --------------------------------------------------------------------------------

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of *room*."""
        is_forward = after is not None
        name = "page_after" if is_forward else "page_before"
        query = f"SELECT {COLUMNS} FROM roomful.{name}(%s, %s, %s, %s) m"  # noqa: S608
        low, high = -1 if after is None else after, HIGHEST if before is None else before
        async with self.connections.use() as connection:
            found = await connection.execute(
                query.encode(), (room, low, min(high, HIGHEST), limit + 1), binary=True
            )
            rows = await found.fetchall()
        return cut_page([_entry(row) for row in rows], limit, is_forward=is_forward)

    async def read(
        self, shard: ShardName, rooms: Mapping[RoomId, int], span: range, limit_bytes: int
    ) -> Replay:
        """Give what *rooms* got on *shard* in *span*."""
        after, last = span.start - 1, span.stop - 1
        query = (
            f"SELECT {COLUMNS} FROM unnest(%s::text[], %s::int8[]) AS wanted (room, after), "  # noqa: S608
            "LATERAL (SELECT * FROM roomful.message n WHERE n.room = wanted.room "
            'AND n."offset" > wanted.after AND n."offset" <= %s '
            'ORDER BY n."offset" LIMIT %s) m ORDER BY m."offset" LIMIT %s'
        )
        starts = [max(after, joined) for joined in rooms.values()]
        async with self.connections.use() as connection:
            found = await connection.execute(
                "SELECT pattern, newest FROM roomful.retained WHERE shard = %s AND newest > %s",
                (shard, after),
            )
            holes = lost_rooms(rooms, await found.fetchall())
            if holes:
                return Replay((), after, is_complete=False, holes=holes)
            found = await connection.execute(
                query.encode(),
                (list(rooms), starts, last, READ_ROWS, READ_ROWS),
                binary=True,
            )
            rows = await found.fetchall()
        entries, is_whole = fitting(map(_entry, rows), limit_bytes)
        is_complete = is_whole and len(rows) < READ_ROWS
        return Replay(entries, last if is_complete else entries[-1].offset, is_complete)

    # Letting go -----------------------------------------------------------------------------

    async def erase(self, erasure: Erasure) -> int:
        """Make what *erasure* covers gone."""
        async with self.connections.use() as connection, connection.transaction():
            # Batches on their way end first, and later ones see the erasure.
            await connection.execute(f"SELECT pg_advisory_xact_lock({ERASURE_LOCK})")
            found = await connection.execute(
                'INSERT INTO roomful.erasure (at_ms, by, room, "offset", user_id) '
                "VALUES (%s, %s, %s, %s, %s) RETURNING number",
                (erasure.at_ms, erasure.by, erasure.room, erasure.offset, erasure.user),
            )
            row = await found.fetchone()
            assert row is not None
        return await self._finish(int(row[0]), erasure)

    async def _finish(self, number: int, erasure: Erasure) -> int:
        """Delete what *erasure* covers."""
        erased = 0
        for where, values in _wheres(erasure):
            async with self.connections.use(LONG_S) as connection:
                query = f"DELETE FROM roomful.message WHERE {where} AND timestamp_ms <= %s"  # noqa: S608
                done = await connection.execute(query.encode(), (*values, erasure.at_ms))
                erased += done.rowcount
        async with self.connections.use() as connection:
            await connection.execute(
                "UPDATE roomful.erasure SET erased = %s WHERE number = %s", (erased, number)
            )
        logger.info("erased", extra={"kind": erasure.kind, "by": erasure.by, "count": erased})
        return erased

    async def finish_erasures(self) -> int:
        """Do what an erasure that was cut off has left; gives how many messages went."""
        async with self.connections.use() as connection:
            found = await connection.execute(
                'SELECT number, at_ms, by, room, "offset", user_id FROM roomful.erasure '
                "WHERE erased IS NULL"
            )
            rows = await found.fetchall()
        return sum([await self._finish(int(row[0]), Erasure(*row[1:])) for row in rows])

    async def retain(self, rules: Sequence[Rule], now_ms: int) -> int:
        """Let go of what is older than its rule says."""
        return await retain(self.connections, rules, now_ms)

    # Export ---------------------------------------------------------------------------------

    async def export(
        self, *, room: RoomId | None = None, user: UserId | None = None
    ) -> AsyncIterator[Sequence[Kept]]:
        """Give messages in batches, by room and offset."""
        last: tuple[Any, ...] = "", -1, "", -1
        filters, values = "", []
        for column, value in (("room", room), (BY_USER, user)):
            if value is not None:
                filters += f"AND {column} = %s "
                values.append(value)
        query = (
            f"SELECT m.shard, {COLUMNS} FROM roomful.message m "  # noqa: S608
            'WHERE (m.room, m."offset", m.shard, m.timestamp_ms) > (%s, %s, %s, %s) '
            f'{filters}ORDER BY m.room, m."offset", m.shard, m.timestamp_ms LIMIT {PIECE}'
        )
        rows = [last]
        while rows:
            async with self.connections.use() as connection:
                found = await connection.execute(query.encode(), (*last, *values), binary=True)
                rows = await found.fetchall()
            if rows:
                yield [Kept(ShardName(row[0]), _entry(row[1:])) for row in rows]
                shard, name, offset = rows[-1][:3]
                last = name, offset, shard, rows[-1][6]


def _entry(row: Sequence[Any]) -> Entry:
    room, offset, event, name, user, timestamp, body, attachments = row
    envelope = Envelope(
        RoomId(room), event, name, UserId(user), timestamp, body, tuple(attachments or ())
    )
    return Entry(offset, envelope)


def _wheres(erasure: Erasure) -> list[tuple[str, tuple[Any, ...]]]:
    """Give conditions that cover what *erasure* does, for each of which there is an index."""
    if erasure.user is not None:
        own = "user:" + erasure.user
        return [(f"{BY_USER} = %s", (erasure.user,)), ("room = %s", (own,))]
    if erasure.offset is None:
        return [("room = %s", (erasure.room,))]
    return [('room = %s AND "offset" = %s', (erasure.room, erasure.offset))]
