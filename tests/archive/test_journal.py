"""The journal's files: what a process left is read as far as it is whole."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.archive.journal import FULL_BYTES, HELD, Journal, read_file
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.message import Entry
from roomful.shard.sessions import SessionChange
from shard.recording import make_envelope
from support.deadline import DEADLINE_S

Written = list[Entry] | SessionChange

FIRST = [Entry(1, make_envelope("a", "1")), Entry(2, make_envelope("b", "2"))]
SECOND = [Entry(3, make_envelope("a", "3", body=b"\x00" * 70, attachments=(b"\xff",)))]
THIRD = [Entry(4, make_envelope("b", "4"))]
JOINED = SessionChange("p", 1e9, b"\xff" * 20)
GONE = SessionChange("p", 1e9, b"")
WRITTEN: Sequence[Written] = [FIRST, JOINED, SECOND, GONE, THIRD]


class Database:
    """What goes into it, unless it is full."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.entries: list[Entry] = []
        self.changes: list[SessionChange] = []

    def move(self, entries: Sequence[Entry], changes: Collection[SessionChange]) -> None:
        """Take them, or refuse."""
        if self.is_full:
            raise sqlite3.OperationalError("the disk is full")
        self.entries += entries
        self.changes += changes


def put(journal: Journal, written: Sequence[Written]) -> None:
    """Write one after another."""
    for one in written:
        if isinstance(one, SessionChange):
            journal.write_session(one)
        else:
            journal.write(one)


def write(directory: Path, written: Sequence[Written]) -> bytes:
    """Give the file that *written* makes."""
    directory.mkdir()
    journal = Journal(directory, Database(is_full=True).move, 0)
    put(journal, written)
    journal.close()
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


def test_what_has_no_rows_stays_in_its_files(tmp_path: Path) -> None:
    """A journal that ends while SQLite takes nothing loses nothing."""
    write(tmp_path / "j", WRITTEN)
    read = [one for path in sorted((tmp_path / "j").iterdir()) for one in read_file(path)]
    assert read == WRITTEN


@settings(max_examples=50)
@given(cut=st.integers(0, 1000), junk=st.binary(max_size=20))
def test_a_file_that_was_cut_off_gives_what_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    """Cut anywhere, also with zeros or anything else behind: a prefix, each batch as it was."""
    directory = tmp_path_factory.mktemp("cut")
    data = write(directory / "j", WRITTEN)
    path = directory / "x.journal"
    path.write_bytes(data[: min(cut, len(data))] + bytes(20) + junk)
    read = list(read_file(path))
    assert read == WRITTEN[: len(read)]
    if cut >= len(data):
        assert read == WRITTEN


@pytest.mark.parametrize("lost", [SECOND, JOINED], ids=["a batch", "a session"])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, lost: Written) -> None:
    """A full disk in the middle of it: it is refused, and the next one is read behind it."""
    database = Database()
    journal = Journal(tmp_path, database.move, 0)
    put(journal, [FIRST])
    real, calls = os.write, iter([10])

    def full(file: int, data: bytes) -> int:
        for count in calls:
            return real(file, bytes(data)[:count])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roomful.archive.journal.os.write", full)
        with pytest.raises(Refused) as refused:
            put(journal, [lost])
    assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
    put(journal, [THIRD])
    journal.close()
    assert [entry.offset for entry in database.entries] == [1, 2, 4]
    assert database.changes == []
    assert journal.statistics.failures == 1
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_cannot_be_taken_back_is_still_refused(tmp_path: Path) -> None:
    """Nothing goes behind half a batch: all are refused until it could be taken back."""
    database = Database()
    journal = Journal(tmp_path, database.move, 0)
    journal.write(FIRST)
    real_write, real_truncate = os.write, os.ftruncate
    calls = iter([10])
    broken = [True]

    def half(file: int, data: bytes) -> int:
        if broken[0]:
            for count in calls:
                return real_write(file, bytes(data)[:count])
            raise OSError(errno.EIO, "Input/output error")
        return real_write(file, data)

    def stuck(file: int, length: int) -> None:
        if broken[0]:
            raise OSError(errno.EIO, "Input/output error")
        real_truncate(file, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roomful.archive.journal.os.write", half)
        patch.setattr("roomful.archive.journal.os.ftruncate", stuck)
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                journal.write(SECOND)
            assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
        broken[0] = False
        journal.write(THIRD)
    (path,) = tmp_path.iterdir()
    assert list(read_file(path)) == [FIRST, THIRD]
    journal.close()
    assert database.entries == [*FIRST, *THIRD]


def test_no_next_file_is_no_end(tmp_path: Path) -> None:
    """With a full disk, or too many open files, messages move as soon as there is one again."""
    database = Database()
    journal = Journal(tmp_path, database.move, 0)
    real, failed = os.open, threading.Event()
    broken = [True]

    def none_left(path: Path, flags: int, mode: int = 0o777) -> int:
        if broken[0]:
            failed.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, mode)

    async def check() -> None:
        journal.write(FIRST)
        waiting = asyncio.ensure_future(journal.moved_past(2))
        await asyncio.to_thread(failed.wait)
        journal.write(SECOND)
        broken[0] = False
        await asyncio.wait_for(waiting, DEADLINE_S)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roomful.archive.journal.os.open", none_left)
        asyncio.run(check())
    journal.close()
    assert database.entries == [*FIRST, *SECOND]
    assert list(tmp_path.iterdir()) == []


def test_of_a_session_the_newest_change_goes_on(tmp_path: Path) -> None:
    """However many there were, written and noted: it is one row."""
    database = Database()
    journal = Journal(tmp_path, database.move, 0)
    put(journal, [JOINED, GONE])
    longer = SessionChange("p", 2e9, b"\xff" * 20)
    journal.note_session(longer)
    journal.note_session(SessionChange("q", 2e9, b"q"))
    journal.close()
    assert database.changes == [longer, SessionChange("q", 2e9, b"q")]


def test_what_is_noted_is_in_no_file(tmp_path: Path) -> None:
    """It costs no write."""
    (tmp_path / "j").mkdir()
    journal = Journal(tmp_path / "j", Database(is_full=True).move, 0)
    journal.note_session(JOINED)
    journal.close()
    assert [path.read_bytes() for path in (tmp_path / "j").iterdir()] == [b""]


def test_sessions_that_cannot_be_moved_are_bounded(tmp_path: Path) -> None:
    """While SQLite takes nothing, so much and no more waits: who joins is told to come later."""
    journal = Journal(tmp_path, Database(is_full=True).move, 0)
    record = bytes(FULL_BYTES)
    for number in range(HELD + 1):
        journal.note_session(SessionChange(f"p{number}", 1e9, record))
    with pytest.raises(Refused) as refused:
        journal.write_session(JOINED)
    journal.note_session(JOINED)
    assert refused.value.code is RefusalCode.OVERLOADED
    assert journal.statistics.failures > 0
    journal.close()


def test_a_journal_that_is_closed_takes_nothing(tmp_path: Path) -> None:
    """Its file's number may be another file's by now."""
    database = Database()
    journal = Journal(tmp_path, database.move, 0)
    journal.close()
    for one in (FIRST, JOINED):
        with pytest.raises(Refused):
            put(journal, [one])
    journal.note_session(JOINED)
    assert (database.entries, database.changes) == ([], [])


def test_a_file_that_cannot_be_removed_has_nothing_any_more(tmp_path: Path) -> None:
    """The next process would take a session's record of then for the newest one."""
    database = Database()
    journal = Journal(tmp_path, database.move, 0)
    put(journal, [FIRST, JOINED])

    def refuse(_path: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        asyncio.run(journal.moved_past(2))
        put(journal, [GONE, THIRD])
        asyncio.run(journal.moved_past(4))
        # The thread was done with the first file before it moved the second one.
        left = list(read_file(min(tmp_path.iterdir())))
    journal.close()
    assert database.changes == [JOINED, GONE]
    assert left == []
