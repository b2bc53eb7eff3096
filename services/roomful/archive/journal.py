"""
The embedded shard's journal: a batch is in the hands of the system before anybody hears of it.

A batch is appended to a file by one write, on the event loop: 11 µs for 250 messages, where
handing it to a thread costs more than ten times that (docs/adr/0009-embedded-journal.md). A
thread puts the messages into SQLite a little later, thousands at once, so that those of a room go
together; and a file whose messages are all there is removed. After a
SIGKILL the next process reads the files that are left; a power cut may lose what the system had
not written to the disk.

A file holds batches: length (4 bytes), MessagePack, and the newest offset (8 bytes). One that is
cut off at the end was never acknowledged.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Entry

__all__ = ["Journal", "JournalStatistics", "read_file"]

logger = logging.getLogger("roomful.archive")

FULL_ENTRIES: Final = 20_000
FULL_BYTES: Final = 16 << 20
"""With so much in it, or after MOVE_S, a file's messages are moved to SQLite."""
MOVE_S: Final = 1.0
HELD: Final = 10
"""Times a full file above which batches are refused: SQLite takes none."""

_HEAD: Final = struct.Struct(">I")
_TAIL: Final = struct.Struct(">Q")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Entry]).decode

Move = Callable[[Sequence[Entry]], None]
"""Puts entries into SQLite; repeating it changes nothing. May raise sqlite3.Error."""


@dataclass(slots=True)
class JournalStatistics:
    """Counts since the start."""

    batches: int = 0
    failures: int = 0
    """Writes and moves that did not succeed."""


class Journal:
    """Implements roomful.shard.memory.Journal."""

    # Mutable state, under the condition: the file that is written, its length, whether something
    # unfinished may be behind that, its entries and their bytes, which go to the thread together;
    # what is asked of the thread, and who waits for it; the newest offsets that were written, and
    # that are in SQLite.
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
        self._condition = threading.Condition()
        self._entries: list[Entry] = []
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
        if self._bytes > HELD * FULL_BYTES or len(self._entries) > HELD * FULL_ENTRIES:
            raise Refused(RefusalCode.OVERLOADED, "too much waits to be kept")
        newest = entries[-1].offset
        packed = _pack(entries)
        batch = _HEAD.pack(len(packed)) + packed + _TAIL.pack(newest)
        # The thread takes it only to change files: that is never long.
        with self._condition:
            self._append(batch)
            is_first = not self._entries
            self._entries += entries
            self._bytes += len(batch)
            self._written = newest
            is_full = len(self._entries) >= FULL_ENTRIES or self._bytes >= FULL_BYTES
            if is_first or is_full:
                self._is_wanted |= is_full
                self._condition.notify()
        self.statistics.batches += 1

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
            raise Refused(
                RefusalCode.SHARD_UNAVAILABLE, "the message could not be written"
            ) from exc
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
                path, file = self._path, self._file
                self._path, self._file, self._length = following
                self._is_wanted = self._is_torn = False
            os.close(file)
            if not self._move_all(entries):
                return
            try:
                path.unlink()
            except OSError as exc:
                # Whoever reads it again moves what is there already, which changes nothing.
                logger.error("journal file not removed", extra={"why": exc.strerror})

    def _wait(self) -> bool:
        """Wait for something to move; False when it is over."""
        with self._condition:
            self._condition.wait_for(lambda: self._entries or self._is_closing)
            self._condition.wait_for(lambda: self._is_wanted or self._is_closing, MOVE_S)
            return bool(self._entries)

    def _move_all(self, entries: Sequence[Entry]) -> bool:
        """Move *entries*, however long it takes; False: not before the process ends."""
        while True:
            try:
                self._move(entries)
                break
            except sqlite3.Error as exc:
                # They stay in their file, and the next ones gather behind them.
                self.statistics.failures += 1
                logger.error("messages not moved", extra={"why": str(exc)})
                if self._is_closing:
                    return False
                time.sleep(MOVE_S)
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


def read_file(path: Path) -> Iterator[list[Entry]]:
    """Give the batches of a file that a process left, up to one that is cut off."""
    data = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        (length,) = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if length == 0 or at + length + _TAIL.size > len(data):
            return
        try:
            entries = _unpack(data[at : at + length])
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            logger.warning("journal ends in the middle", extra={"why": str(exc)})
            return
        at += length
        (newest,) = _TAIL.unpack_from(data, at)
        if not entries or entries[-1].offset != newest:
            return
        at += _TAIL.size
        yield entries
