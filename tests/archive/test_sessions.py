"""Sessions of the embedded shard outlive a kill, and never say more than their client had."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.archive.embedded import EmbeddedArchive
from roomful.archive.sqlite_chunks import connect
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import SessionRecord
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits, MemoryShard
from roomful.shard.message import RoomId, UserId, user_room
from shard.clock import run

ALICE = UserId("alice")
TTL_S = 600.0


def make_record(pid: str = "p", *rooms: str, generation: int = 1) -> SessionRecord:
    """Make the record of a session of alice in *rooms*, and in her own."""
    names = [user_room(ALICE), *map(RoomId, rooms)]
    return SessionRecord(pid, f"sid-{pid}", ALICE, dict.fromkeys(names, 0), generation)


class Process:
    """One process with a shard that keeps what it has in *directory*, on a clock of the test's."""

    def __init__(self, directory: Path, limits: MemoryLimits | None = None) -> None:
        self.directory = directory
        self.time = 1_000_000.0
        limits = limits or MemoryLimits()
        self.shard = MemoryShard(limits=limits, now=lambda: self.time)
        self.archive = EmbeddedArchive(directory, 1, now=lambda: self.time)
        self.archive.take_over(self.shard, None, LogLimits(), limits)

    def save(self, record: SessionRecord, *, is_taken: bool = False) -> bool:
        """Keep *record*."""
        return run(self.shard.save_session(record, TTL_S, is_taken=is_taken))

    def load(self, pid: str) -> SessionRecord | None:
        """Give the record of *pid*."""
        return run(self.shard.load_session(pid))

    def drop(self, record: SessionRecord) -> None:
        """Let go of *record*."""
        run(self.shard.drop_session(record))

    def killed(self) -> Process:
        """Give the process that finds the files of this one as they are now."""
        name = self.directory.name
        following = self.directory.with_name(f"{name}+")
        shutil.copytree(self.directory, following)
        with no_time_to_move():
            process = Process(following)
        process.time = self.time
        return process

    def rows(self) -> list[str]:
        """Give the sessions that are in the database."""
        with closing(connect(self.directory / "messages-1.sqlite3")) as connection:
            return [pid for (pid,) in connection.execute("SELECT pid FROM session ORDER BY pid")]

    def close(self) -> None:
        """Stop in order; all that was written or noted is in the database then."""
        self.archive.close_journal()
        self.archive.close()


@contextmanager
def no_time_to_move() -> Iterator[None]:
    """What is in the journal is moved when it is closed, and not before."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MOVE_S", "NOTED_S"):
            patch.setattr(f"roomful.archive.journal.{name}", 3600.0)
        yield


class Story:
    """Processes that are killed, and what the clients of two sessions were told."""

    # Mutable state: the process, and those that were killed; of each session the record that its
    # client knows of, until it ended; and which of them had ever joined a room.
    def __init__(self, directory: Path) -> None:
        self.process = Process(directory)
        self.past: list[Process] = []
        self.told: dict[str, SessionRecord] = {}
        self.joined: set[str] = set()

    def do(self, deed: str, pid: str, room: RoomId) -> None:
        """Let one thing happen."""
        if deed == "kill":
            self.past.append(self.process)
            self.process = self.process.killed()
            self.check()
        elif deed == "move":
            self.process.close()
            self.process = Process(self.process.directory)
        elif pid not in self.told:
            # Whatever it wanted: it has to sign in.
            self.told[pid] = make_record(pid)
            assert self.process.save(self.told[pid])
        elif deed == "drop":
            self.process.drop(self.told.pop(pid))
            self.joined.discard(pid)
        else:
            self.change(deed, self.told[pid], room)

    def change(self, deed: str, record: SessionRecord, room: RoomId) -> None:
        """Let *record*, of a session that is there, be another one."""
        if deed == "join":
            record.rooms.setdefault(room, 7)
            self.joined.add(record.pid)
        elif deed == "leave":
            record.rooms.pop(room, None)
        elif deed == "take up":
            record.generation += 1
        assert self.process.save(record, is_taken=deed == "take up")

    def check(self) -> None:
        """What the next process has of a session is what its client was told last, or nothing."""
        for pid in "pq":
            found, told = self.process.load(pid), self.told.get(pid)
            if pid in self.joined:
                assert found == told
            elif found is not None:
                # Nobody was promised that one without rooms is kept, or that it is forgotten.
                assert list(found.rooms) == [user_room(ALICE)]
            if found is None:
                self.told.pop(pid, None)

    def close(self) -> None:
        """End all processes."""
        for process in (*self.past, self.process):
            process.close()


DEEDS = ("join", "leave", "renew", "take up", "drop", "move", "kill")
STEP = st.tuples(st.sampled_from(DEEDS), st.sampled_from("pq"), st.sampled_from("ab"))


@settings(deadline=None, max_examples=150)
@given(steps=st.lists(STEP, min_size=4, max_size=25))
def test_after_a_kill_a_session_has_the_rooms_that_its_client_knows_of(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]
) -> None:
    """Whatever of it was in SQLite, in a file or in memory only; never a room more, or less."""
    with no_time_to_move():
        story = Story(tmp_path_factory.mktemp("story") / "p")
        try:
            for deed, pid, room in (*steps, ("kill", "p", "a")):
                story.do(deed, pid, RoomId(room))
        finally:
            story.close()


def test_a_session_without_rooms_is_kept_a_little_later(tmp_path: Path) -> None:
    """It costs no write of its own; once it is in SQLite a kill leaves it there."""
    with no_time_to_move():
        process = Process(tmp_path / "p")
        process.save(make_record())
        assert process.killed().load("p") is None
        process.close()
        following = Process(tmp_path / "p")
        assert following.load("p") == make_record()
        following.close()


def test_what_a_system_left_that_was_started_anew_since_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may have taken messages: no client is told that it has them all."""
    with no_time_to_move():
        first = Process(tmp_path / "p")
        first.save(make_record("p", "a"))
        second = first.killed()
        assert second.load("p") is not None
        monkeypatch.setattr("roomful.archive.sqlite_sessions.running_since", lambda: "another")
        third = second.killed()
        assert third.load("p") is None
        assert third.rows() == []
        third.save(make_record("q", "a"))
        assert third.killed().load("q") is not None
        for process in (first, second, third):
            process.close()


def test_a_session_lapses_over_a_kill(tmp_path: Path) -> None:
    """By the time of day, as it would have in the process that was killed."""
    with no_time_to_move():
        process = Process(tmp_path / "p")
        process.save(make_record("p", "a"))
        process.time += TTL_S - 1
        following = process.killed()
        assert following.load("p") is not None
        following.time += 2
        assert following.load("p") is None
        process.close()
        following.close()


def test_rows_are_as_bounded_as_the_records(tmp_path: Path) -> None:
    """One that had to go for others has no row, and neither has one that lapsed."""
    limits = MemoryLimits(sessions=3)
    process = Process(tmp_path / "p", limits)
    for number in range(10):
        process.save(make_record(f"p{number}", "a"))
    process.close()
    assert process.rows() == ["p7", "p8", "p9"]
    following = Process(tmp_path / "p", limits)
    following.time += TTL_S + 1
    following.save(make_record("q", "a"))
    following.close()
    assert following.rows() == ["q"]


def test_who_starts_with_a_lower_bound_keeps_the_newest(tmp_path: Path) -> None:
    """What the last process had above it goes, the soonest to lapse first."""
    process = Process(tmp_path / "p")
    for number in range(5):
        process.save(make_record(f"p{number}", "a"))
        process.time += 1
    process.close()
    following = Process(tmp_path / "p", MemoryLimits(sessions=2))
    kept = [f"p{number}" for number in range(5) if following.load(f"p{number}") is not None]
    assert kept == ["p3", "p4"]
    following.close()


def test_what_cannot_be_written_is_not_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A join on a full disk is refused, and the session is what it was."""
    process = Process(tmp_path / "p")
    process.save(make_record("p", "a"))

    def full(_file: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("roomful.archive.journal.os.write", full)
        with pytest.raises(Refused) as refused:
            process.save(make_record("p", "a", "b"))
        # What was there before can be kept for longer: that is no write.
        assert process.save(make_record("p", "a"))
        process.drop(make_record("p", "a"))
    assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
    assert process.load("p") is None
    process.close()
    assert process.rows() == []
