"""The journal's files: what a process left is read as far as it is whole."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.archive.journal import Journal, read_file
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Entry
from shard.recording import make_envelope
from support.deadline import DEADLINE_S

BATCHES = [
    [Entry(1, make_envelope("a", "1")), Entry(2, make_envelope("b", "2"))],
    [Entry(3, make_envelope("a", "3", body=b"\x00" * 70, attachments=(b"\xff",)))],
    [Entry(4, make_envelope("b", "4"))],
]


def write(directory: Path, batches: Sequence[Sequence[Entry]]) -> bytes:
    """Give the file that *batches* make."""
    directory.mkdir()

    def never(_entries: Sequence[Entry]) -> None:
        raise sqlite3.OperationalError("the disk is full")

    journal = Journal(directory, never, 0)
    for batch in batches:
        journal.write(batch)
    journal.close()
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


def test_what_has_no_rows_stays_in_its_files(tmp_path: Path) -> None:
    """A journal that ends while SQLite takes nothing loses nothing."""
    write(tmp_path / "j", BATCHES)
    read = [batch for path in sorted((tmp_path / "j").iterdir()) for batch in read_file(path)]
    assert read == BATCHES


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(0, 1000), junk=st.binary(max_size=20))
def test_a_file_that_was_cut_off_gives_what_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    """Cut anywhere, also with zeros or anything else behind: a prefix, each batch as it was."""
    directory = tmp_path_factory.mktemp("cut")
    data = write(directory / "j", BATCHES)
    path = directory / "x.journal"
    path.write_bytes(data[: min(cut, len(data))] + bytes(20) + junk)
    read = list(read_file(path))
    assert read == BATCHES[: len(read)]
    if cut >= len(data):
        assert read == BATCHES


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A full disk in the middle of a batch: it is refused, and the next one is read behind it."""
    moved: list[Entry] = []
    journal = Journal(tmp_path, moved.extend, 0)
    journal.write(BATCHES[0])
    real = os.write
    calls = iter([10])

    def full(file: int, data: bytes) -> int:
        for count in calls:
            return real(file, bytes(data)[:count])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roomful.archive.journal.os.write", full)
        with pytest.raises(Refused) as refused:
            journal.write(BATCHES[1])
    assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
    journal.write(BATCHES[2])
    journal.close()
    assert moved == [*BATCHES[0], *BATCHES[2]]
    assert journal.statistics.failures == 1
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_cannot_be_taken_back_is_still_refused(tmp_path: Path) -> None:
    """Nothing goes behind half a batch: all are refused until it could be taken back."""
    moved: list[Entry] = []
    journal = Journal(tmp_path, moved.extend, 0)
    journal.write(BATCHES[0])
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
                journal.write(BATCHES[1])
            assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
        broken[0] = False
        journal.write(BATCHES[2])
    (path,) = tmp_path.iterdir()
    assert list(read_file(path)) == [BATCHES[0], BATCHES[2]]
    journal.close()
    assert moved == [*BATCHES[0], *BATCHES[2]]


def test_no_next_file_is_no_end(tmp_path: Path) -> None:
    """With a full disk, or too many open files, messages move as soon as there is one again."""
    moved: list[Entry] = []
    journal = Journal(tmp_path, moved.extend, 0)
    real, failed = os.open, threading.Event()
    broken = [True]

    def none_left(path: Path, flags: int, mode: int = 0o777) -> int:
        if broken[0]:
            failed.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, mode)

    async def check() -> None:
        journal.write(BATCHES[0])
        waiting = asyncio.ensure_future(journal.moved_past(2))
        await asyncio.to_thread(failed.wait)
        journal.write(BATCHES[1])
        broken[0] = False
        await asyncio.wait_for(waiting, DEADLINE_S)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roomful.archive.journal.os.open", none_left)
        asyncio.run(check())
    journal.close()
    assert moved == [*BATCHES[0], *BATCHES[1]]
    assert list(tmp_path.iterdir()) == []
