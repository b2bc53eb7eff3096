"""
The database of one embedded shard: it goes on from there, however the last process ended.

`messages-<port>.sqlite3` has the messages and the sessions that clients may resume,
`messages-<port>.journal/` what of both is of the last second.

A process holds a lock beside its database, so two never write the same rooms.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from roomful.archive import sqlite_revocations, sqlite_sessions
from roomful.archive.base import ArchiveUnavailable, Rule
from roomful.archive.journal import Journal, read_file
from roomful.archive.sqlite import SqliteArchive
from roomful.archive.sqlite_chunks import (
    connect,
    insert,
    newest_first,
    transaction,
    without_erased,
)
from roomful.cluster.cursor import ShardName
from roomful.shard.base import Stored
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits, MemoryShard, MemoryState
from roomful.shard.message import Entry
from roomful.shard.sender_ids import IdKey
from roomful.shard.sessions import SessionChange
from roomful.telemetry.metrics import Sample

__all__ = ["EmbeddedArchive"]

logger = logging.getLogger("roomful.archive")

T = TypeVar("T")

PIECE: Final = 5_000
"""Messages of one transaction: who writes too (erasing, retention) waits for no more."""
LOST: Final = 1 << 30
"""More offsets than a power cut can take: cursors of before may be so far above what is left."""
LAPSED_S: Final = 60.0
"""How often records of sessions that have lapsed are looked for; they are all walked by."""


class EmbeddedArchive:
    """The archive and the journal of one embedded shard."""

    # Mutable state: the lock, and the journal once a shard writes to it.
    def __init__(self, directory: Path, port: int, *, now: Callable[[], float] = time.time) -> None:
        """
        Open the database of the process at *port*; blocks.

        Args:
            now: the time of day by which sessions and ids lapse.

        Raises:
            ArchiveUnavailable: another process has it, or it cannot be read or written.
        """
        self._path = directory / f"messages-{port}.sqlite3"
        self._now = now
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._path.with_suffix(".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._files = self._path.with_suffix(".journal")
            self._files.mkdir(exist_ok=True)
        except BlockingIOError as exc:
            raise ArchiveUnavailable(f"another process has {self._path}", temporary=False) from exc
        except OSError as exc:
            raise ArchiveUnavailable(
                f"messages cannot be kept in {directory}: {exc.strerror}; choose another "
                "directory with --state-dir, or none with --state-dir ''",
                temporary=False,
            ) from exc
        try:
            self.archive = SqliteArchive(self._path)
        except sqlite3.Error as exc:
            raise ArchiveUnavailable(f"{self._path}: {exc}", temporary=False) from exc
        self.journal: Journal | None = None

    def take_over(
        self, shard: MemoryShard, handed: MemoryState | None, log: LogLimits, limits: MemoryLimits
    ) -> None:
        """
        Let *shard*, which is new, go on where the last process ended, and write here from now on.

        Args:
            handed: what that one left when it stopped with grace; better than the database, unless
                that knows of something newer.
        """
        connection = connect(self._path)
        boot = sqlite_sessions.running_since()
        try:
            self._move_journal(connection, shard.name if handed is None else handed.name)
            row = connection.execute("SELECT name, newest, boot FROM shard").fetchone()
            if handed is not None and (row is None or _is_newest(handed, *row[:2])):
                self._adopt(connection, handed, row[1] if row else 0)
                shard.restore(handed)
            elif row is not None:
                name, newest, last_boot = row
                state = _recover(connection, name, newest, log=log, limits=limits, now=self._now())
                if last_boot == boot:
                    state.sessions = sqlite_sessions.load(connection, self._now())
                else:
                    state.offset = _after_power_cut(connection, newest)
                logger.info("sessions recovered", extra={"count": len(state.sessions)})
                shard.restore(state)
            else:
                connection.execute("INSERT INTO shard VALUES (?, 0, '')", (shard.name,))
            connection.execute("UPDATE shard SET newest = ?, boot = ?", (shard.position(), boot))
        finally:
            connection.close()
        mover = _Mover(self._path, shard.name, self._now)
        self.journal = Journal(self._files, mover.move, shard.position())
        self.archive.settled = self.journal.moved_past
        shard.write_to(self.journal)

    def _move_journal(self, connection: sqlite3.Connection, new_name: ShardName) -> None:
        """
        Move what the last process had no time for.

        Args:
            new_name: the shard's, where the database does not know it: a power cut has taken the
                first that was written there, or a person the database.
        """
        paths = sorted(self._files.glob("*.journal"))
        row = connection.execute("SELECT name FROM shard").fetchone()
        if paths and row is None:
            connection.execute("INSERT INTO shard VALUES (?, 0, '')", (new_name,))
            row = (new_name,)
        for path in paths:
            entries: list[Entry] = []
            changes: dict[str, SessionChange] = {}
            for found in read_file(path):
                if isinstance(found, SessionChange):
                    changes[found.pid] = found
                else:
                    entries += found
            _move(connection, ShardName(row[0]), entries, changes.values())
            path.unlink()
        if paths:
            logger.info("journal recovered", extra={"files": len(paths)})

    def _adopt(self, connection: sqlite3.Connection, handed: MemoryState, newest: int) -> None:
        """Keep what the database does not have of *handed*, as after an older version."""
        entries = [entry for entry in handed.entries if entry.offset > newest]
        with transaction(connection):
            insert(connection, handed.name, entries)
            connection.execute("DELETE FROM shard")
            connection.execute("INSERT INTO shard VALUES (?, ?, '')", (handed.name, handed.offset))
            sqlite_sessions.replace(connection, handed.sessions)

    async def keep(self, rules: Sequence[Rule], every_s: float) -> None:
        """Let go of what is old now and every *every_s* seconds, for ever; to be cancelled."""
        while True:
            try:
                await self.archive.finish_erasures()
                gone = await self.archive.retain(rules, time.time_ns() // 1_000_000)
                logger.info("retention done", extra={"messages": gone})
            except ArchiveUnavailable as exc:
                logger.warning("retention interrupted", extra={"why": exc.sentence})
            await asyncio.sleep(every_s)

    async def keep_revocation(self, subject: str, lapses_at: float, words: bytes) -> None:
        """
        Keep *words* until *lapses_at*; on return they are safe from the end of the process.

        Raises:
            ArchiveUnavailable: they are not.
        """

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                sqlite_revocations.keep(connection, subject, lapses_at, words, self._now())

        await self._connected(work)

    async def revocations(self) -> list[tuple[bytes, float]]:
        """
        Give all words that have not lapsed, and when they will.

        Raises:
            ArchiveUnavailable: the database cannot be read.
        """
        return await self._connected(
            lambda database: sqlite_revocations.load(database, self._now())
        )

    async def _connected(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do *work*, which is rare, on a connection of its own in a thread."""

        def do() -> T:
            with closing(connect(self._path)) as connection:
                return work(connection)

        try:
            return await asyncio.to_thread(do)
        except sqlite3.Error as exc:
            raise ArchiveUnavailable(f"SQLite: {exc}") from exc

    def samples(self) -> Sequence[Sample]:
        """Give the metrics of the journal."""
        if self.journal is None:
            return ()
        failures, waiting = self.journal.statistics.failures, self.journal.backlog
        return (
            Sample("journal_failures", "Failed writes, as to a full disk.", failures),
            Sample("journal_waiting", "Messages not in SQLite yet.", waiting, is_counter=False),
        )

    def close_journal(self) -> None:
        """Move everything into the database; blocks. The shard is closed."""
        if self.journal is not None:
            self.journal.close()

    def close(self) -> None:
        """Close the database; blocks."""
        self.archive.close()
        self._lock.close()


class _Mover:
    """Puts messages and sessions into the database, in one thread."""

    # Mutable state: the thread's connection, once it began, and when what has lapsed is let go.
    def __init__(self, path: Path, shard: ShardName, now: Callable[[], float]) -> None:
        self._path = path
        self._shard = shard
        self._now = now
        self._connection: sqlite3.Connection | None = None
        self._forgets_at = 0.0

    def move(self, entries: Sequence[Entry], changes: Collection[SessionChange]) -> None:
        """Put them there, in pieces."""
        if self._connection is None:
            self._connection = connect(self._path)
        _move(self._connection, self._shard, entries, changes)
        now = self._now()
        if changes and now >= self._forgets_at:
            sqlite_sessions.forget_lapsed(self._connection, now)
            self._forgets_at = now + LAPSED_S


def _move(
    connection: sqlite3.Connection,
    shard: ShardName,
    entries: Sequence[Entry],
    changes: Collection[SessionChange],
) -> None:
    """Put *changes* there, and *entries* into chunks, as many of a room together as there are."""
    changed = list(changes)
    for first in range(0, len(changed), PIECE):
        with transaction(connection):
            sqlite_sessions.keep(connection, changed[first : first + PIECE])
    by_room = sorted(entries, key=lambda entry: entry.envelope.room)
    for first in range(0, len(by_room), PIECE):
        with transaction(connection):
            insert(connection, shard, without_erased(connection, by_room[first : first + PIECE]))
            if first + PIECE >= len(by_room):
                connection.execute("UPDATE shard SET newest = ?", (entries[-1].offset,))


def _is_newest(handed: MemoryState, name: str, newest: int) -> bool:
    return handed.name == name and handed.offset >= newest


def _after_power_cut(connection: sqlite3.Connection, newest: int) -> int:
    """Give the offset to go on from: not all that a process wrote that was killed is there."""
    logger.warning("system was started anew", extra={"newest": newest})
    connection.execute("DELETE FROM session")
    return newest + LOST


def _recover(
    connection: sqlite3.Connection,
    name: str,
    newest: int,
    *,
    log: LogLimits,
    limits: MemoryLimits,
    now: float,
) -> MemoryState:
    """Give the state after a process that was killed: its hot log, and the ids in it."""
    oldest_ms = (now - log.age_s) * 1000
    entries: list[Entry] = []
    size = lost = 0
    for entry in newest_first(connection, name):
        size += entry.envelope.size
        if entry.envelope.timestamp < oldest_ms or size > log.total_bytes:
            lost = entry.offset
            break
        entries.append(entry)
    entries.reverse()
    ids: dict[IdKey, tuple[float, IdKey, Stored]] = {}
    for entry in entries[-limits.ids :]:
        envelope = entry.envelope
        lapses_at = envelope.timestamp / 1000 + limits.id_window_s
        if lapses_at > now:
            key = envelope.room, envelope.user, envelope.name
            ids.setdefault(key, (lapses_at, key, Stored(entry.offset, envelope.timestamp)))
    logger.info("messages recovered", extra={"entries": len(entries), "newest": newest})
    return MemoryState(
        name=ShardName(name),
        offset=newest,
        forgotten=lost,
        floors={entry.envelope.room: lost for entry in entries} if lost else {},
        entries=entries,
        ids=list(ids.values()),
        sessions=[],
    )
