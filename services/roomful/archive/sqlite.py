"""
The embedded archive: SQLite, in the file that the embedded shard's journal is in too.

One thread works for it, with a connection of its own, so the event loop never waits for a disk.
What is long (an export, retention, erasing) is done in pieces between which others get their turn.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from roomful.archive.base import (
    ArchiveUnavailable,
    Erasure,
    Kept,
    Letter,
    Rule,
    Stored,
    cut_page,
    fitting,
)
from roomful.archive.retention import cutoffs, lost_rooms, rule_of
from roomful.archive.sqlite_rows import (
    COLUMNS,
    connect,
    entries_of,
    entry_of,
    insert,
    migrate,
    without_erased,
)
from roomful.cluster.cursor import ShardName
from roomful.shard.base import Entry, Page, Replay, RoomId, UserId

__all__ = ["SqliteArchive"]

logger = logging.getLogger("roomful.archive")

PIECE: Final = 1_000
"""Rows that are looked at before others get their turn."""
SETTLE_S: Final = 5.0
HIGHEST: Final = 2**63 - 1

T = TypeVar("T")
Settled = Callable[[int], Awaitable[None]]


class SqliteArchive:
    """Implements Archive."""

    # Mutable state: the thread and its connection, and per pattern how far retention has been
    # since the start.
    def __init__(self, path: Path) -> None:
        """Open the database at *path*, or make it; blocks."""
        self._connection = connect(path)
        migrate(self._connection)
        self._thread = ThreadPoolExecutor(1, "archive")
        self.settled: Settled | None = None
        """Waits until all up to an offset has a row, where rows come later than acks."""
        self._walked: dict[str, int] = {}

    async def _settle(self, offset: int) -> None:
        if self.settled is None:
            return
        try:
            async with asyncio.timeout(SETTLE_S):
                await self.settled(offset)
        except TimeoutError as exc:
            raise ArchiveUnavailable("SQLite: messages still wait for their rows") from exc

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, RuntimeError) as exc:
            raise ArchiveUnavailable(f"SQLite: {exc}") from exc

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            done = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return done

    async def aclose(self) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; blocks until what is under way is done."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    # Storing --------------------------------------------------------------------------------

    async def store(self, shard: ShardName, entries: Sequence[Entry]) -> Stored:
        """Keep *entries* of *shard*."""

        def work(connection: sqlite3.Connection) -> Stored:
            wanted = without_erased(connection, entries)
            before = connection.total_changes
            buried = _insert_or_bury(connection, shard, wanted)
            return Stored(connection.total_changes - before - buried, buried)

        if not entries:
            return Stored(0)
        return await self._run(lambda: self._transaction(work))

    async def bury(self, letters: Sequence[Letter]) -> None:
        """Keep dead letters."""
        await self._run(lambda: self._transaction(lambda connection: _bury(connection, letters)))

    # Reading --------------------------------------------------------------------------------

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of *room*."""
        is_forward = after is not None
        query = (
            f'SELECT {COLUMNS} FROM message WHERE room = ? AND "offset" > ? AND "offset" < ? '  # noqa: S608
            f'ORDER BY "offset" {"ASC" if is_forward else "DESC"} LIMIT ?'
        )
        low, high = -1 if after is None else after, HIGHEST if before is None else before
        await self._settle(high - 1)
        values = room, low, min(high, HIGHEST), limit + 1
        rows = await self._run(lambda: self._connection.execute(query, values).fetchall())
        return cut_page(entries_of(rows), limit, is_forward=is_forward)

    async def read(
        self, shard: ShardName, rooms: Mapping[RoomId, int], span: range, limit_bytes: int
    ) -> Replay:
        """Give what *rooms* got on *shard* in *span*."""
        await self._settle(span.stop - 1)
        return await self._run(lambda: self._read(shard, rooms, span, limit_bytes))

    def _read(
        self, shard: ShardName, rooms: Mapping[RoomId, int], span: range, limit_bytes: int
    ) -> Replay:
        after, last = span.start - 1, span.stop - 1
        rows = self._connection.execute(
            "SELECT pattern, newest FROM retained WHERE shard = ? AND newest > ?", (shard, after)
        ).fetchall()
        holes = lost_rooms(rooms, rows)
        if holes:
            return Replay((), after, is_complete=False, holes=holes)
        query = (
            f'SELECT {COLUMNS} FROM message WHERE room = ? AND "offset" > ? AND "offset" <= ? '  # noqa: S608
            'ORDER BY "offset"'
        )
        found = [
            map(
                entry_of,
                self._connection.execute(query, (room, max(after, joined), last)),
            )
            for room, joined in rooms.items()
        ]
        merged = heapq.merge(*found, key=lambda entry: entry.offset)
        entries, is_complete = fitting(merged, limit_bytes)
        reached = last if is_complete else entries[-1].offset
        return Replay(entries, reached, is_complete=is_complete)

    # Letting go -----------------------------------------------------------------------------

    async def erase(self, erasure: Erasure) -> int:
        """Make what *erasure* covers gone."""
        # What has no row yet would be left out without having been counted.
        await self._settle(HIGHEST)

        def note(connection: sqlite3.Connection) -> int:
            number = connection.execute(
                'INSERT INTO erasure (at_ms, by, room, "offset", user_id) VALUES (?, ?, ?, ?, ?)',
                (erasure.at_ms, erasure.by, erasure.room, erasure.offset, erasure.user),
            ).lastrowid
            assert number is not None
            return number

        return await self._finish(await self._run(lambda: self._transaction(note)), erasure)

    async def finish_erasures(self) -> int:
        """Do what an erasure that was cut off has left."""
        rows = await self._run(
            lambda: self._connection.execute(
                'SELECT number, at_ms, by, room, "offset", user_id FROM erasure '
                "WHERE erased IS NULL"
            ).fetchall()
        )
        return sum([await self._finish(row[0], Erasure(*row[1:])) for row in rows])

    async def _finish(self, number: int, erasure: Erasure) -> int:
        where, values = _where(erasure)
        query = (
            'DELETE FROM message WHERE (room, "offset", shard) IN '  # noqa: S608
            f'(SELECT room, "offset", shard FROM message WHERE {where} LIMIT {PIECE})'
        )
        erased = 0
        while True:
            deleted = await self._run(lambda: self._connection.execute(query, values).rowcount)
            erased += deleted
            if deleted < PIECE:
                break
        await self._run(
            lambda: self._connection.execute(
                "UPDATE erasure SET erased = ? WHERE number = ?", (erased, number)
            )
        )
        logger.info("erased", extra={"kind": erasure.kind, "by": erasure.by, "count": erased})
        return erased

    async def retain(self, rules: Sequence[Rule], now_ms: int) -> int:
        """Let go of what is older than its rule says."""
        deleted = 0
        for rule, cutoff in cutoffs(rules, now_ms):
            is_done = False
            while not is_done:
                count, is_done = await self._run(
                    lambda rule=rule, cutoff=cutoff: self._transaction(  # type: ignore[misc]
                        lambda connection: self._let_go(connection, rules, rule, cutoff)
                    )
                )
                deleted += count
        return deleted

    def _let_go(
        self, connection: sqlite3.Connection, rules: Sequence[Rule], rule: Rule, cutoff: int
    ) -> tuple[int, bool]:
        """Walk a piece by age; gives how many went, and whether all that is old was seen."""
        rows = connection.execute(
            'SELECT room, "offset", shard, timestamp_ms FROM message INDEXED BY message_offset '
            'WHERE "offset" > ? ORDER BY "offset" LIMIT ?',
            (self._walked.get(rule.pattern, -1), PIECE),
        ).fetchall()
        old, is_done = [], len(rows) < PIECE
        walked = self._walked.get(rule.pattern, -1)
        for room, offset, shard, timestamp in rows:
            if timestamp >= cutoff:
                is_done = True
                break
            walked = offset
            if rule_of(rules, room) is rule:
                old.append((room, offset, shard))
        connection.executemany(
            'DELETE FROM message WHERE room = ? AND "offset" = ? AND shard = ?', old
        )
        newest = {shard: offset for _, offset, shard in old}
        connection.executemany(
            "INSERT INTO retained VALUES (?, ?, ?) ON CONFLICT (pattern, shard) "
            "DO UPDATE SET newest = max(newest, excluded.newest)",
            [(rule.pattern, shard, offset) for shard, offset in newest.items()],
        )
        self._walked[rule.pattern] = walked
        return len(old), is_done

    # Export ---------------------------------------------------------------------------------

    async def export(
        self, *, room: RoomId | None = None, user: UserId | None = None
    ) -> AsyncIterator[Sequence[Kept]]:
        """Give messages in batches, by room and offset."""
        last: tuple[str, int, str] = "", -1, ""
        query = (
            f'SELECT shard, {COLUMNS} FROM message WHERE (room, "offset", shard) > (?, ?, ?) '  # noqa: S608
            "AND (?4 IS NULL OR room = ?4) AND (?5 IS NULL OR user_id = ?5) "
            f'ORDER BY room, "offset", shard LIMIT {PIECE}'
        )
        while True:
            values = (*last, room, user)
            rows = await self._run(
                lambda values=values: self._connection.execute(query, values).fetchall()  # type: ignore[misc]
            )
            if rows:
                yield [Kept(ShardName(row[0]), entry_of(row[1:])) for row in rows]
            if len(rows) < PIECE:
                return
            shard, name, offset = rows[-1][:3]
            last = name, offset, shard


def _insert_or_bury(
    connection: sqlite3.Connection, shard: ShardName, entries: Sequence[Entry]
) -> int:
    """Insert *entries*; those that cannot be are buried. Gives how many those are."""
    connection.execute("SAVEPOINT one")
    try:
        insert(connection, shard, entries)
    except (sqlite3.DataError, sqlite3.InterfaceError, ValueError, OverflowError) as exc:
        connection.execute("ROLLBACK TO one")
        if len(entries) == 1:
            raw = msgspec.msgpack.encode(entries[0].envelope.body)
            _bury(connection, [Letter(shard, entries[0].offset, raw, str(exc))])
            return 1
        half = len(entries) // 2
        return _insert_or_bury(connection, shard, entries[:half]) + _insert_or_bury(
            connection, shard, entries[half:]
        )
    finally:
        connection.execute("RELEASE one")
    return 0


def _bury(connection: sqlite3.Connection, letters: Sequence[Letter]) -> None:
    now = time.time_ns() // 1_000_000
    connection.executemany(
        "INSERT INTO dead_letter VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(one.shard, one.offset, one.reason, one.raw, now) for one in letters],
    )


def _where(erasure: Erasure) -> tuple[str, tuple[Any, ...]]:
    if erasure.user is not None:
        own = "user:" + erasure.user
        return "(user_id = ? OR room = ?) AND timestamp_ms <= ?", (
            erasure.user,
            own,
            erasure.at_ms,
        )
    if erasure.offset is None:
        return "room = ? AND timestamp_ms <= ?", (erasure.room, erasure.at_ms)
    return 'room = ? AND "offset" = ? AND timestamp_ms <= ?', (
        erasure.room,
        erasure.offset,
        erasure.at_ms,
    )
