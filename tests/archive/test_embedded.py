"""The embedded shard goes on where the last process ended, however it ended."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from roomful.archive.base import ArchiveUnavailable
from roomful.archive.embedded import EmbeddedArchive
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Stored
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits, MemoryShard
from roomful.shard.message import Entry, RoomId
from roomful.shard.sessions import SessionChange
from shard.recording import RecordingSink, make_envelope, publish, store

A = RoomId("a")
PLENTY = 1 << 30


class Process:
    """One process with a shard that keeps its messages in *directory*."""

    def __init__(self, directory: Path, log: LogLimits | None = None) -> None:
        self.sink = RecordingSink()
        self.shard = MemoryShard(log_limits=log)
        self.shard.attach(self.sink)
        self.archive = EmbeddedArchive(directory, 1)
        self.archive.take_over(self.shard, None, log or LogLimits(), MemoryLimits())

    async def stop(self) -> None:
        """End it in order."""
        await self.shard.aclose()
        self.archive.close_journal()
        self.archive.close()


async def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    """
    Its files as they are in the middle of its life: name, offsets, log and order go on.

    A cursor of before gets exactly what it missed.
    """
    first = Process(tmp_path / "one")
    stored = await store(first.shard, *(make_envelope("a", str(n)) for n in range(5)))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = Process(tmp_path / "two")
    assert second.shard.name == first.shard.name
    (newer,) = await store(second.shard, make_envelope("a", "new"))
    assert newer.offset > stored[-1].offset
    replay = await second.shard.read({A: 0}, stored[1].offset, PLENTY)
    assert [entry.envelope.id for entry in replay.entries] == ["2", "3", "4", "new"]
    await first.stop()
    await second.stop()


async def test_directory_that_it_makes_is_its_users_own(tmp_path: Path) -> None:
    """Whose messages those are, and by what they resume, is for no other user of the machine."""
    process = Process(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    await process.stop()


async def test_after_a_power_cut_no_offset_is_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It took messages that were heard: whoever heard them is owed all that comes now.

    Else new messages would be at or below their cursors, and not be sent to them.
    """
    first = Process(tmp_path / "one")
    stored = await store(first.shard, *(make_envelope("a", str(n)) for n in range(5)))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for path in (tmp_path / "two").glob("*.journal/*"):
        path.unlink()
    monkeypatch.setattr("roomful.archive.sqlite_sessions.running_since", lambda: "another")
    second = Process(tmp_path / "two")
    assert second.shard.name == first.shard.name
    (newer,) = await store(second.shard, make_envelope("a", "new"))
    assert newer.offset > stored[-1].offset
    replay = await second.shard.read({A: 0}, stored[-1].offset, PLENTY)
    assert [entry.envelope.id for entry in replay.entries] == ["new"]
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    third = Process(tmp_path / "three")
    assert third.shard.position() == newer.offset
    await asyncio.gather(first.stop(), second.stop(), third.stop())


@pytest.mark.parametrize("count", [0, 5])
async def test_a_journal_without_its_database_is_taken_over(tmp_path: Path, count: int) -> None:
    """As after a power cut that took what was first written there: all that was kept is there."""
    first = Process(tmp_path / "one")
    stored = await store(first.shard, *(make_envelope("a", str(n)) for n in range(count)))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for path in (tmp_path / "two").glob("*.sqlite3*"):
        path.unlink()
    second = Process(tmp_path / "two")
    (newer,) = await store(second.shard, make_envelope("a", "new"))
    assert all(newer.offset > one.offset for one in stored)
    page = await second.archive.archive.page(A, before=None, after=None, limit=50)
    assert [entry.envelope.id for entry in page.entries] == [*map(str, range(count)), "new"]
    await first.stop()
    await second.stop()


async def test_what_the_hot_log_lost_is_a_hole_and_in_the_archive(tmp_path: Path) -> None:
    """The next process does not claim more than it has, and the archive has the rest."""
    log = LogLimits(total_bytes=2000)
    first = Process(tmp_path, log)
    await store(first.shard, *(make_envelope("a", str(n)) for n in range(20)))
    await first.stop()
    second = Process(tmp_path, log)
    assert (await second.shard.read({A: 0}, 1, PLENTY)).holes == [A]
    page = await second.archive.archive.page(A, before=None, after=None, limit=50)
    assert [entry.envelope.id for entry in page.entries] == [str(n) for n in range(20)]
    await second.stop()


async def test_ids_are_kept_for_their_window(tmp_path: Path) -> None:
    """A retry after the kill gets the first answer."""
    first = Process(tmp_path / "one")
    (stored,) = await store(first.shard, make_envelope("a", "x"), is_named=True)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = Process(tmp_path / "two")
    assert await store(second.shard, make_envelope("a", "x"), is_named=True) == [stored]
    await first.stop()
    await second.stop()


class Broken:
    """A journal that takes nothing while it is told so."""

    is_full = True

    def write(self, entries: Sequence[Entry]) -> None:
        """Refuse."""
        if self.is_full:
            raise Refused(RefusalCode.SHARD_UNAVAILABLE, "no space left")

    def write_session(self, change: SessionChange) -> None:
        """Take it."""

    def note_session(self, change: SessionChange) -> None:
        """Take it."""


async def test_what_cannot_be_written_is_refused_and_heard_by_nobody() -> None:
    """
    Its id is free again, and earlier answers stay.

    So is its offset: a join that was given it would not be owed what a process that follows a
    kill gives it to.
    """
    sink, journal = RecordingSink(), Broken()
    shard = MemoryShard()
    shard.attach(sink)
    (before,) = await store(shard, make_envelope("a", "x"), is_named=True)
    shard.write_to(journal)
    outcomes = [
        publish(shard, make_envelope("a", name), is_named=True) for name in ("x", "y", "y", "z")
    ]
    again, *refused = await asyncio.gather(*outcomes)
    assert again == before
    assert all(isinstance(one, Refused) for one in refused)
    assert all(
        one.code is RefusalCode.SHARD_UNAVAILABLE for one in refused if isinstance(one, Refused)
    )
    assert [entry.envelope.id for entry in sink.entries] == ["x"]
    assert shard.position() == before.offset
    journal.is_full = False
    (stored,) = await store(shard, make_envelope("a", "y"), is_named=True)
    assert isinstance(stored, Stored)
    assert stored.offset == before.offset + 1
    assert len(shard.dump().ids) == 2
    await shard.aclose()


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The person who starts the server learns which option helps."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ArchiveUnavailable, match="--state-dir"):
        EmbeddedArchive(file / "state", 1)
