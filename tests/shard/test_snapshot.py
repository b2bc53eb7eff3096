"""A restart, with grace or by a kill: the next process goes on where the last one stopped."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.shard.base import SessionRecord
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryShard
from roomful.shard.message import RoomId, UserId
from roomful.shard.presence import PresenceLimits
from roomful.shard.snapshot import VERSION, Snapshot
from shard.recording import RecordingSink, make_envelope, store
from shard.site import Site

PLENTY = 1 << 30
A = RoomId("a")


async def test_offsets_go_on(site: Site) -> None:
    """The name is the same and no offset is given twice."""
    shard = await site.make(RecordingSink())
    stored = await store(shard, make_envelope("a", "1"), make_envelope("a", "2"))
    following = await site.restart(shard, RecordingSink())
    (after,) = await store(following, make_envelope("a", "3"))
    assert following.name == shard.name
    assert after.offset > stored[-1].offset


async def test_a_cursor_survives(site: Site) -> None:
    """A client that was away over the restart gets what it missed on both sides of it."""
    shard = await site.make(RecordingSink())
    first, *_ = await store(shard, make_envelope("a", "1"), make_envelope("a", "2"))
    following = await site.restart(shard, RecordingSink())
    await store(following, make_envelope("a", "3"))
    replay = await following.read({A: 0}, first.offset, PLENTY)
    assert [entry.envelope.id for entry in replay.entries] == ["2", "3"]
    assert replay.is_complete


async def test_entries_survive_whole(site: Site) -> None:
    """Bodies and attachments are the bytes they were."""
    shard = await site.make(RecordingSink())
    envelope = make_envelope("a", "1", body=b'{"\xc3\xbc":"\\ud83d"', attachments=(b"\x00\xff",))
    await store(shard, envelope)
    following = await site.restart(shard, RecordingSink())
    page = await following.page(A, before=None, after=None, limit=5)
    assert [entry.envelope for entry in page.entries] == [envelope]


async def test_ids_survive_for_the_rest_of_their_window(site: Site) -> None:
    """A retry after the restart is not stored again; after the window it is."""
    shard = await site.make(RecordingSink())
    envelope = make_envelope("a", "x", at_s=site.now())
    (first,) = await store(shard, envelope, is_named=True)
    await site.pass_time(200)
    following = await site.restart(shard, RecordingSink())
    await site.pass_time(99)
    assert await store(following, make_envelope("a", "x"), is_named=True) == [first]
    await site.pass_time(2)
    assert await store(following, make_envelope("a", "x"), is_named=True) != [first]


async def test_sessions_survive_for_the_rest_of_their_time(site: Site) -> None:
    """Clients resume on the next process, as long as they could have on this one."""
    shard = await site.make(RecordingSink())
    record = SessionRecord("p", "s", UserId("alice"), {A: 4})
    await shard.save_session(record, 60)
    await site.pass_time(30)
    following = await site.restart(shard, RecordingSink())
    assert await following.load_session("p") == record
    await site.pass_time(31)
    assert await following.load_session("p") is None


async def test_the_rooms_of_a_session_are_those_it_had_last(site: Site) -> None:
    """A room that was left is not there again, and what was joined last is."""
    shard = await site.make(RecordingSink())
    for rooms in ({"a": 1}, {"a": 1, "b": 2}, {"b": 2}, {"b": 2, "c": 3}):
        kept = {RoomId(room): offset for room, offset in rooms.items()}
        await shard.save_session(SessionRecord("p", "s", UserId("alice"), kept), 60)
    left = SessionRecord("q", "s", UserId("bob"), {A: 4})
    await shard.save_session(left, 60)
    left.rooms.clear()
    await shard.save_session(left, 60)
    following = await site.restart(shard, RecordingSink())
    found = await following.load_session("p")
    assert found is not None
    assert found.rooms == {"b": 2, "c": 3}
    # It may be forgotten, but it never is in the room.
    found = await following.load_session("q")
    assert found is None or not found.rooms


async def test_a_session_that_ended_is_not_there_again(site: Site) -> None:
    """Its client left for good, or was sent away."""
    shard = await site.make(RecordingSink())
    record = SessionRecord("p", "s", UserId("alice"), {A: 4})
    await shard.save_session(record, 60)
    await shard.drop_session(record)
    following = await site.restart(shard, RecordingSink())
    assert await following.load_session("p") is None


async def test_who_took_a_session_up_has_it_after_a_restart(site: Site) -> None:
    """And who had it before still cannot write it."""
    shard = await site.make(RecordingSink())
    first = SessionRecord("p", "s", UserId("alice"), {A: 4})
    await shard.save_session(first, 60)
    second = msgspec.structs.replace(first, generation=2)
    assert await shard.save_session(second, 60, is_taken=True)
    following = await site.restart(shard, RecordingSink())
    assert not await following.save_session(first, 60)
    assert await following.load_session("p") == second


async def test_presence_does_not_survive(site: Site) -> None:
    """Connections end with their process, and their users leave when the grace is over."""
    shard = await site.make(RecordingSink())
    await shard.join(A, UserId("alice"), "c", "online")
    following = await site.restart(shard, RecordingSink())
    await site.pass_time(0)  # the other edges see that it is gone
    await site.pass_time(PresenceLimits().grace_s + 1)
    assert (await following.members(A)).count == 0


async def test_holes_survive(site: Site) -> None:
    """What was lost before the restart is still known to be lost after it."""
    log = LogLimits(messages_per_room=2)
    shard = await site.make(RecordingSink(), log=log)
    stored = await store(shard, *(make_envelope("a", str(n)) for n in range(4)))
    following = await site.restart(shard, RecordingSink(), log=log)
    assert (await following.read({A: 0}, stored[0].offset, PLENTY)).holes == [A]
    assert (await following.read({A: 0}, stored[1].offset, PLENTY)).is_complete


# The file --------------------------------------------------------------------------------------


async def filled() -> MemoryShard:
    """Make a shard with one entry of each kind of state."""
    shard = MemoryShard()
    await store(shard, make_envelope("a", "1"), is_named=True)
    await shard.save_session(SessionRecord("p", "s", UserId("u"), {A: 1}), 60)
    return shard


async def test_the_file_is_taken_away(tmp_path: Path) -> None:
    """A snapshot is for one start: after a crash nothing may begin from it again."""
    snapshot = Snapshot(tmp_path / "deep" / "shard.msgpack")
    snapshot.write(await filled())
    assert snapshot.restore(MemoryShard())
    assert list((tmp_path / "deep").iterdir()) == []
    assert not snapshot.restore(MemoryShard())


async def test_without_a_file_a_shard_begins_anew(tmp_path: Path) -> None:
    """A new name, so that no cursor of another process fits."""
    shard, other = MemoryShard(), MemoryShard()
    assert not Snapshot(tmp_path / "none").restore(shard)
    assert (shard.position(), shard.name == other.name) == (0, False)


def test_no_directory_is_no_snapshot(tmp_path: Path) -> None:
    """Processes on one machine have a file each, and with an empty state_dir none."""
    assert Snapshot.of("", 8080) is None
    assert Snapshot.of(str(tmp_path), 8080) is not None


@settings(max_examples=60)
@given(data=st.binary(max_size=200) | st.none(), cut=st.integers(0, 400), value=st.integers(0, 255))
def test_a_broken_file_is_no_snapshot(
    tmp_path_factory: pytest.TempPathFactory, data: bytes | None, cut: int, value: int
) -> None:
    """Garbage, one wrong byte, or a part of a file: the shard begins anew, or is whole."""
    path = tmp_path_factory.mktemp("state") / "shard.msgpack"
    if data is None:
        good = msgspec.msgpack.encode({"version": VERSION, "state": MemoryShard().dump()})
        cut %= len(good)
        data = good[:cut] + bytes([value]) + good[cut + 1 :]
        data = data[: len(good) - value % 7]
    path.write_bytes(data)
    shard = MemoryShard()
    logging.disable(logging.CRITICAL)
    try:
        is_restored = Snapshot(path).restore(shard)
    finally:
        logging.disable(logging.NOTSET)
    assert not path.exists()
    if not is_restored:
        assert shard.position() == 0
        assert len(shard.logs) == 0


async def test_a_snapshot_of_another_version_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What another release wrote is not guessed at, and the log says so."""
    path = tmp_path / "shard.msgpack"
    state = (await filled()).dump()
    path.write_bytes(msgspec.msgpack.encode({"version": VERSION + 1, "state": state}))
    shard = MemoryShard()
    assert not Snapshot(path).restore(shard)
    assert shard.position() == 0
    assert "another version" in caplog.text


async def test_a_directory_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process is on its way out: it says so and goes."""
    (tmp_path / "file").write_text("not a directory")
    Snapshot(tmp_path / "file" / "shard.msgpack").write(await filled())
    assert "snapshot not written" in caplog.text


async def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or not at all: half a file never takes the name."""

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "shard.msgpack"
    Snapshot(path).write(await filled())
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", fail)
    Snapshot(path).write(MemoryShard())
    assert path.read_bytes() == before
    # Nor does the rest of it take what is left of a full disk.
    assert os.listdir(tmp_path) == ["shard.msgpack"]
