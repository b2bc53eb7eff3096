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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

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
from roomful.archive.sqlite_chunks import (
    COLUMNS,
    Chunk,
    backward,
    connect,
    forward,
    insert,
    migrate,
    rewrite,
    transaction,
    without_erased,
)
from roomful.cluster.cursor import ShardName
from roomful.shard.base import Page, Replay
from roomful.shard.message import Entry, RoomId, UserId

__all__ = ["SqliteArchive"]

logger = logging.getLogger("roomful.archive")

PIECE: Final = 64
"""Chunks that are looked at before others get their turn."""
WALKED: Final = 2_000
"""Chunks that are passed by, likewise: some 10 ms."""
SETTLE_S: Final = 5.0
HIGHEST: Final = 2**63 - 1

T = TypeVar("T")
Settled = Callable[[int], Awaitable[None]]


class SqliteArchive:
    """Implements Archive."""

    # Mutable state: the thread and its connection.
    def __init__(self, path: Path) -> None:
        """Open the database at *path*, or make it; blocks."""
        self._connection = connect(path)
        migrate(self._connection)
        self._thread = ThreadPoolExecutor(1, "archive")
        self.settled: Settled | None = None
        """Waits until all up to an offset is here, where it comes later than its ack."""

    async def _settle(self, offset: int) -> None:
        if self.settled is None:
            return
        try:
            async with asyncio.timeout(SETTLE_S):
                await self.settled(offset)
        except TimeoutError as exc:
            raise ArchiveUnavailable("SQLite: messages still wait to be moved") from exc

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, RuntimeError) as exc:
            raise ArchiveUnavailable(f"SQLite: {exc}") from exc

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with transaction(self._connection):
            return work(self._connection)

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
            return _insert_or_bury(connection, shard, without_erased(connection, entries))

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
        low, high = -1 if after is None else after, HIGHEST if before is None else before
        await self._settle(high - 1)
        walk = backward if after is None else forward
        found = await self._run(
            lambda: list(islice(walk(self._connection, room, low, min(high, HIGHEST)), limit + 1))
        )
        return cut_page(found, limit, is_forward=after is not None)

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
        found = [
            forward(self._connection, room, max(after, joined), span.stop)
            for room, joined in rooms.items()
        ]
        merged = heapq.merge(*found, key=lambda entry: entry.offset)
        entries, is_complete = fitting(merged, limit_bytes)
        reached = last if is_complete else entries[-1].offset
        return Replay(entries, reached, is_complete=is_complete)

    # Letting go -----------------------------------------------------------------------------

    async def erase(self, erasure: Erasure) -> int:
        """Make what *erasure* covers gone."""
        # What is not here yet would be left out without having been counted.
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
        erased, after = 0, 0
        while True:
            numbers, last = await self._run(
                lambda after=after: _walk_for(self._connection, erasure, after)  # type: ignore[misc]
            )
            # To where there is nothing more: a chunk that is written anew meanwhile comes again.
            if last is None:
                break
            after = last
            for first in range(0, len(numbers), PIECE):
                some = numbers[first : first + PIECE]
                erased += await self._run(
                    lambda some=some: self._transaction(  # type: ignore[misc]
                        lambda connection: _erase_in(connection, erasure, some)
                    )
                )
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
            place: tuple[str, int] | None = ("", -1)
            while place is not None:
                found, place = await self._run(
                    lambda cutoff=cutoff, place=place: _old_chunks(  # type: ignore[misc]
                        self._connection, cutoff, place
                    )
                )
                numbers = [number for number, room in found if rule_of(rules, room) is rule]
                for first in range(0, len(numbers), PIECE):
                    some = numbers[first : first + PIECE]
                    deleted += await self._run(
                        lambda rule=rule, cutoff=cutoff, some=some: self._transaction(  # type: ignore[misc]
                            lambda connection: _let_go(connection, rule.pattern, cutoff, some)
                        )
                    )
        return deleted

    # Export ---------------------------------------------------------------------------------

    async def export(
        self, *, room: RoomId | None = None, user: UserId | None = None
    ) -> AsyncIterator[Sequence[Kept]]:
        """Give messages in batches, by room and offset."""
        place: tuple[str, int] = "", -1
        query = (
            f"SELECT {COLUMNS} FROM chunk WHERE (room, last) > (?, ?) "  # noqa: S608
            "AND (?3 IS NULL OR room = ?3) AND (?4 IS NULL OR instr(entries, ?4)) "
            "ORDER BY room, last LIMIT ?5"
        )
        while True:
            values = (*place, room, None if user is None else user.encode(), PIECE)
            rows = await self._run(
                lambda values=values: self._connection.execute(query, values).fetchall()  # type: ignore[misc]
            )
            for chunk in map(Chunk._make, rows):
                place = chunk.room, chunk.last
                kept = [
                    Kept(ShardName(one.origin or chunk.shard), one)
                    for one in chunk.entries()
                    if user is None or one.envelope.user == user
                ]
                if kept:
                    yield kept
            if len(rows) < PIECE:
                return


def _insert_or_bury(
    connection: sqlite3.Connection, shard: ShardName, entries: Sequence[Entry]
) -> Stored:
    """Insert *entries*; those that cannot be are buried."""
    connection.execute("SAVEPOINT one")
    try:
        return Stored(insert(connection, shard, entries))
    except (sqlite3.DataError, sqlite3.InterfaceError, ValueError, OverflowError) as exc:
        connection.execute("ROLLBACK TO one")
        if len(entries) == 1:
            raw = msgspec.msgpack.encode(entries[0].envelope.body)
            _bury(connection, [Letter(shard, entries[0].offset, raw, str(exc))])
            return Stored(0, 1)
        half = len(entries) // 2
        parts = [
            _insert_or_bury(connection, shard, part) for part in (entries[:half], entries[half:])
        ]
        return Stored(sum(one.new for one in parts), sum(one.letters for one in parts))
    finally:
        connection.execute("RELEASE one")


def _bury(connection: sqlite3.Connection, letters: Sequence[Letter]) -> None:
    now = time.time_ns() // 1_000_000
    connection.executemany(
        "INSERT INTO dead_letter VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(one.shard, one.offset, one.reason, one.raw, now) for one in letters],
    )


def _old_chunks(
    connection: sqlite3.Connection, cutoff: int, place: tuple[str, int]
) -> tuple[list[tuple[int, str]], tuple[str, int] | None]:
    """Give number and room of chunks with something old, from *place* on; and where to go on."""
    rows = connection.execute(
        "SELECT room, last, number, oldest_ms FROM chunk WHERE (room, last) > (?, ?) "
        "ORDER BY room, last LIMIT ?",
        (*place, WALKED),
    ).fetchall()
    found = [(number, room) for room, _, number, oldest_ms in rows if oldest_ms < cutoff]
    return found, rows[-1][:2] if len(rows) == WALKED else None


def _let_go(
    connection: sqlite3.Connection, pattern: str, cutoff: int, numbers: Sequence[int]
) -> int:
    """Let go of what is old in the chunks *numbers*, of rooms of *pattern*; gives how many."""
    newest: dict[str, int] = {}
    count = 0
    for chunk in _chunks(connection, numbers):
        entries, kept = chunk.entries(), []
        for one in entries:
            if one.envelope.timestamp < cutoff:
                shard = one.origin or chunk.shard
                newest[shard] = max(newest.get(shard, 0), one.offset)
            else:
                kept.append(one)
        rewrite(connection, chunk, kept)
        count += len(entries) - len(kept)
    connection.executemany(
        "INSERT INTO retained VALUES (?, ?, ?) ON CONFLICT (pattern, shard) "
        "DO UPDATE SET newest = max(newest, excluded.newest)",
        [(pattern, shard, offset) for shard, offset in newest.items()],
    )
    return count


def _walk_for(
    connection: sqlite3.Connection, erasure: Erasure, after: int
) -> tuple[list[int], int | None]:
    """
    Give chunks above the number *after* that may have something to erase, and up to which number
    that is all of them; None: there are no more.

    There is no index by user (docs/adr/0009): all are looked at, and nobody waits for that to end.
    """
    where, maybe = _where(erasure)
    rows = connection.execute(
        f"SELECT number, {maybe} FROM chunk WHERE number > :after AND {where} "  # noqa: S608
        "ORDER BY number LIMIT :count",
        {
            "after": after,
            "count": WALKED,
            "room": erasure.room,
            "offset": erasure.offset,
            "user": (erasure.user or "").encode(),
            "own": f"user:{erasure.user}",
        },
    ).fetchall()
    return [number for number, is_maybe in rows if is_maybe], rows[-1][0] if rows else None


def _where(erasure: Erasure) -> tuple[str, str]:
    """Give which chunks to look at, and which of those may have something that is covered."""
    if erasure.user is not None:
        return "TRUE", "instr(entries, :user) OR room = :own"
    if erasure.offset is None:
        return "room = :room", "TRUE"
    return "room = :room AND last >= :offset AND first <= :offset", "TRUE"


def _erase_in(connection: sqlite3.Connection, erasure: Erasure, numbers: Sequence[int]) -> int:
    """Erase from the chunks *numbers*; gives how many messages."""
    count = 0
    for chunk in _chunks(connection, numbers):
        entries = chunk.entries()
        kept = [one for one in entries if not erasure.covers(one)]
        if len(kept) < len(entries):
            rewrite(connection, chunk, kept)
            count += len(entries) - len(kept)
    return count


def _chunks(connection: sqlite3.Connection, numbers: Sequence[int]) -> Iterator[Chunk]:
    """Give those of *numbers* that there are; one written anew has another, higher number."""
    query = f"SELECT {COLUMNS} FROM chunk WHERE number = ?"  # noqa: S608
    for number in numbers:
        row = connection.execute(query, (number,)).fetchone()
        if row is not None:
            yield Chunk(*row)
