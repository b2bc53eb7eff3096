"""
The embedded shard's journal: a batch is in the hands of the system before anybody hears of it.

A batch is appended to a file by one write, on the event loop: 11 µs for 250 messages, where
handing it to a thread costs more than ten times that (docs/adr/0009-embedded-journal.md). A
thread puts the messages into SQLite a little later, thousands at once, so that those of a room go
together; and a file whose messages are all there is removed. After a
SIGKILL the next process reads the files that are left; a power cut may lose what the system had
not written to the disk.

What becomes of sessions' records goes the same way (docs/adr/0031-sessions-in-the-journal.md);
what is only noted of them is in no file, and in SQLite a few seconds later.

A file holds batches: length (4 bytes), MessagePack, and the newest offset (8 bytes); or, with the
first bit of the length set, one change of a session, and its CRC-32 (8 bytes). One that is cut off
at the end was never acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.message import Entry
from roomful.shard.sessions import SessionChange

__all__ = ["Journal", "JournalStatistics", "read_file"]

logger = logging.getLogger("roomful.archive")

FULL_ENTRIES: Final = 20_000
FULL_BYTES: Final = 16 << 20
"""With so much in it, or after MOVE_S, a file's messages are moved to SQLite."""
MOVE_S: Final = 1.0
NOTED_S: Final = 10.0
"""So long sessions that are only noted wait for something that is written; and MOVE_S."""
HELD: Final = 10
"""Times a full file above which batches are refused: SQLite takes none."""

_HEAD: Final = struct.Struct(">I")
_TAIL: Final = struct.Struct(">Q")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Entry]).decode
_unpack_change = msgspec.msgpack.Decoder(SessionChange).decode
_SESSION: Final = 1 << 31

Move = Callable[[Sequence[Entry], Collection[SessionChange]], None]
"""
Puts entries, and what became of sessions, into SQLite; repeating it changes nothing.

May raise sqlite3.Error.
"""


@dataclass(slots=True)
class JournalStatistics:
    """Counts since the start."""

    batches: int = 0
    sessions: int = 0
    """Changes of sessions' records that were written."""
    failures: int = 0
    """Writes and moves that did not succeed."""


class Journal:
    """Implements roomful.shard.memory.Journal."""

    # Mutable state, under the condition: the file that is written, its length, whether something
    # unfinished may be behind that, its entries and the newest change of each session, written or
    # noted, and the bytes of all, which go to the thread together; what is asked of the thread, and
    # who waits for it; the newest offsets that were written, and that are in SQLite.
    def __init__(self, directory: Path, move: Move, moved: int) -> None:
        """
        Begin in *directory*, which has no files of another journal any more.

        Args:
            move: called in a thread, with entries in offset order.
            moved: the newest offset that is in SQLite already.
        """
        self._directory = directory
        self._move = move
        self.statistics = JournalStatistics()
        self._moved = self._written = moved
        self._number = 0
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._entries: list[Entry] = []
        self._changes: dict[str, SessionChange] = {}
        self._bytes = 0
        self._is_wanted = self._is_closing = self._is_torn = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._path, self._file, self._length = self._next_file()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Messages that are not in SQLite yet."""
        return self._written - self._moved

    def _next_file(self) -> tuple[Path, int, int]:
        self._number += 1
        path = self._directory / f"{self._number:08}.journal"
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 0

    # On the event loop ----------------------------------------------------------------------

    def write(self, entries: Sequence[Entry]) -> None:
        """Write *entries* as one batch; on return they are safe from the end of the process."""
        if not entries:
            return
        self._check()
        newest = entries[-1].offset
        packed = _pack(entries)
        batch = _HEAD.pack(len(packed)) + packed + _TAIL.pack(newest)
        # The thread takes it only to change files: that is never long.
        with self._condition:
            is_first = not self._length
            self._append(batch)
            self._entries += entries
            self._written = newest
            self._gather(len(batch), is_first=is_first)
        self.statistics.batches += 1

    def write_session(self, change: SessionChange) -> None:
        """Write *change*; on return it is safe from the end of the process."""
        self._check()
        packed = _pack(change)
        batch = _HEAD.pack(_SESSION | len(packed)) + packed + _TAIL.pack(zlib.crc32(packed))
        with self._condition:
            is_first = not self._length
            self._append(batch)
            self._changes[change.pid] = change
            self._gather(len(batch), is_first=is_first)
        self.statistics.sessions += 1

    def note_session(self, change: SessionChange) -> None:
        """Put *change* into SQLite later; lost if so much waits that messages are refused."""
        # Whoever signs in passes here: the lock itself costs less than its condition, and no call.
        with self._lock:
            if (
                self._is_closing
                or self._bytes > HELD * FULL_BYTES
                or len(self._changes) > HELD * FULL_ENTRIES
            ):
                self.statistics.failures += 1
                return
            is_first = not (self._changes or self._length)
            self._changes[change.pid] = change
            self._bytes += len(change.packed)
            if is_first:
                self._condition.notify()

    def _check(self) -> None:
        if self._is_closing:
            raise Refused(RefusalCode.DRAINING, "this edge is going away")
        held = len(self._entries) + len(self._changes)
        if self._bytes > HELD * FULL_BYTES or held > HELD * FULL_ENTRIES:
            raise Refused(RefusalCode.OVERLOADED, "too much waits to be kept")

    def _gather(self, size: int, *, is_first: bool) -> None:
        """Let the thread know of what was added, if it has to."""
        self._bytes += size
        is_full = self._bytes >= FULL_BYTES or len(self._entries) >= FULL_ENTRIES
        if is_first or is_full:
            self._is_wanted |= is_full
            self._condition.notify()

    def _append(self, batch: bytes) -> None:
        view = memoryview(batch)
        try:
            self._take_back()
            self._is_torn = True
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as exc:
            self.statistics.failures += 1
            logger.error("batch not written", extra={"why": exc.strerror})
            with contextlib.suppress(OSError):
                self._take_back()
            raise Refused(RefusalCode.SHARD_UNAVAILABLE, "it could not be written") from exc
        self._is_torn = False
        self._length += len(batch)

    def _take_back(self) -> None:
        """Take away what was written of a batch that was refused: nobody would read behind it."""
        if self._is_torn:
            os.ftruncate(self._file, self._length)
            os.lseek(self._file, self._length, os.SEEK_SET)
            self._is_torn = False

    async def moved_past(self, offset: int) -> None:
        """Wait until everything up to *offset* that was written is in SQLite."""
        offset = min(offset, self._written)
        if self._moved >= offset:
            return
        done = asyncio.get_running_loop().create_future()
        with self._condition:
            self._waiters.append((offset, done))
            self._is_wanted = True
            self._condition.notify()
        await done

    def close(self) -> None:
        """Move everything and end; blocks."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join()
        os.close(self._file)
        if self.backlog == 0:
            self._path.unlink()

    # In the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            try:
                following = self._next_file()
            except OSError as exc:
                # The disk is full, or there are too many open files: the file that there is goes
                # on, until no more may wait in it.
                self.statistics.failures += 1
                logger.error("no next journal file", extra={"why": exc.strerror})
                if self._is_closing:
                    return
                time.sleep(MOVE_S)
                continue
            with self._condition:
                entries, self._entries, self._bytes = self._entries, [], 0
                changes, self._changes = self._changes, {}
                path, file = self._path, self._file
                self._path, self._file, self._length = following
                self._is_wanted = self._is_torn = False
            is_moved = self._move_all(entries, changes.values())
            try:
                if is_moved:
                    # Where it cannot be removed: messages that are moved again change nothing, but
                    # a session's record may be older by then than the one that is there.
                    os.ftruncate(file, 0)
                    path.unlink()
            except OSError as exc:
                logger.error("journal file not removed", extra={"why": exc.strerror})
            finally:
                os.close(file)
            if not is_moved:
                return

    def _wait(self) -> bool:
        """Wait for something to move; False when it is over."""
        with self._condition:
            self._condition.wait_for(lambda: self._length or self._changes or self._is_closing)
            # Nobody was promised what is only noted. Later it goes with more, and what ends soon
            # costs nothing.
            self._condition.wait_for(
                lambda: self._length or self._is_wanted or self._is_closing, NOTED_S
            )
            self._condition.wait_for(lambda: self._is_wanted or self._is_closing, MOVE_S)
            return bool(self._entries or self._changes)

    def _move_all(self, entries: Sequence[Entry], changes: Collection[SessionChange]) -> bool:
        """Move all of these, however long it takes; False: not before the process ends."""
        while True:
            try:
                self._move(entries, changes)
                break
            except sqlite3.Error as exc:
                # They stay in their file, and the next ones gather behind them.
                self.statistics.failures += 1
                logger.error("messages not moved", extra={"why": str(exc)})
                if self._is_closing:
                    return False
                time.sleep(MOVE_S)
        if not entries:
            return True
        with self._condition:
            self._moved = entries[-1].offset
            due = [one for one in self._waiters if one[0] <= self._moved]
            self._waiters = [one for one in self._waiters if one[0] > self._moved]
        for _, done in due:
            # A loop that is closed has nobody left who would hear it.
            with contextlib.suppress(RuntimeError):
                done.get_loop().call_soon_threadsafe(_wake, done)
        return True


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def read_file(path: Path) -> Iterator[list[Entry] | SessionChange]:
    """Give what is in a file that a process left, up to a batch that is cut off."""
    data = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        (head,) = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        length = head & ~_SESSION
        if length == 0 or at + length + _TAIL.size > len(data):
            return
        packed = data[at : at + length]
        at += length
        (check,) = _TAIL.unpack_from(data, at)
        at += _TAIL.size
        try:
            found = _read_change(packed, check) if head & _SESSION else _read_batch(packed, check)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            logger.warning("journal ends in the middle", extra={"why": str(exc)})
            return
        if found is None:
            return
        yield found


def _read_batch(packed: bytes, newest: int) -> list[Entry] | None:
    entries = _unpack(packed)
    return entries if entries and entries[-1].offset == newest else None


def _read_change(packed: bytes, check: int) -> SessionChange | None:
    return _unpack_change(packed) if zlib.crc32(packed) == check else None
