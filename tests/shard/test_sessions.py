"""Session records: what a client needs to resume is kept for its time, and no longer."""

from __future__ import annotations

import msgspec
import pytest

from roomful.shard.base import SessionRecord, Shard
from roomful.shard.memory import MemoryLimits
from roomful.shard.message import RoomId, UserId
from shard.recording import RecordingSink
from shard.site import Capability, Site


def make_record(pid: str = "p", **rooms: int) -> SessionRecord:
    """Make the record of a session of alice."""
    offsets = {RoomId(room): offset for room, offset in rooms.items()}
    return SessionRecord(pid, f"sid-{pid}", UserId("alice"), offsets)


@pytest.fixture
async def shard(site: Site) -> Shard:
    """A shard."""
    return await site.make(RecordingSink())


async def test_a_record_comes_back_as_it_was(shard: Shard) -> None:
    """With its rooms and their join offsets."""
    await shard.save_session(make_record("p", a=3, b=7), 60)
    assert await shard.load_session("p") == make_record("p", a=3, b=7)
    assert await shard.load_session("other") is None


async def test_saving_again_replaces(shard: Shard) -> None:
    """The newest record counts."""
    await shard.save_session(make_record("p", a=3), 60)
    await shard.save_session(make_record("p", a=3, b=9), 60)
    assert await shard.load_session("p") == make_record("p", a=3, b=9)


async def test_a_record_lapses(site: Site, shard: Shard) -> None:
    """After ttl_s seconds it is gone, and each save begins them anew."""
    await shard.save_session(make_record(), 60)
    await site.pass_time(50)
    await shard.save_session(make_record(), 60)
    await site.pass_time(50)
    assert await shard.load_session("p") is not None
    await site.pass_time(11)
    assert await shard.load_session("p") is None


async def test_a_dropped_record_is_gone(shard: Shard) -> None:
    """Dropping is final, and dropping what is not there is nothing."""
    await shard.save_session(make_record(), 60)
    await shard.drop_session(make_record())
    await shard.drop_session(make_record())
    assert await shard.load_session("p") is None


async def test_a_record_is_a_copy(shard: Shard) -> None:
    """What the edge does with its own afterwards changes nothing."""
    record = make_record("p", a=3)
    await shard.save_session(record, 60)
    record.rooms[RoomId("b")] = 4
    loaded = await shard.load_session("p")
    assert loaded == make_record("p", a=3)
    assert loaded is not None
    loaded.rooms.clear()
    assert await shard.load_session("p") == make_record("p", a=3)


# Who may write it ------------------------------------------------------------------------------


def taken(generation: int, **rooms: int) -> SessionRecord:
    """Make the record of a session that was taken up so often."""
    return msgspec.structs.replace(make_record("p", **rooms), generation=generation)


async def test_a_session_is_written_by_who_took_it_up_last(shard: Shard) -> None:
    """Not by an older generation; by the same one as often as it likes."""
    assert await shard.save_session(taken(1), 60)
    assert await shard.save_session(taken(2, a=1), 60, is_taken=True)
    assert not await shard.save_session(taken(1, b=1), 60)
    assert not await shard.save_session(taken(1, b=1), 60, is_taken=True)
    assert await shard.load_session("p") == taken(2, a=1)
    assert await shard.save_session(taken(2, a=1, c=2), 60)
    assert await shard.load_session("p") == taken(2, a=1, c=2)


async def test_of_two_that_take_it_up_one_is_first(shard: Shard) -> None:
    """A generation is taken once; the next one is free."""
    await shard.save_session(taken(1), 60)
    assert await shard.save_session(taken(2, a=1), 60, is_taken=True)
    assert not await shard.save_session(taken(2, b=1), 60, is_taken=True)
    assert await shard.save_session(taken(3, b=1), 60, is_taken=True)
    assert await shard.load_session("p") == taken(3, b=1)


async def test_an_older_generation_drops_nothing(shard: Shard) -> None:
    """Its client is elsewhere by now."""
    await shard.save_session(taken(2), 60)
    await shard.drop_session(taken(1))
    assert await shard.load_session("p") == taken(2)
    await shard.drop_session(taken(2))
    assert await shard.load_session("p") is None


async def test_a_record_that_lapsed_or_was_dropped_is_free_for_all(
    site: Site, shard: Shard
) -> None:
    """Nobody remembers its generations."""
    await shard.save_session(taken(5), 60)
    await site.pass_time(61)
    assert await shard.save_session(taken(1), 60, is_taken=True)
    await shard.drop_session(taken(1))
    assert await shard.save_session(taken(1), 60, is_taken=True)


@pytest.mark.needs(Capability.BOUNDED_SESSIONS)
async def test_records_are_bounded(site: Site) -> None:
    """Above the limit the one that lapses first goes: the others can still resume."""
    shard = await site.make(RecordingSink(), limits=MemoryLimits(sessions=3))
    for pid in "abc":
        await shard.save_session(make_record(pid), 60)
    await shard.save_session(make_record("a"), 60)
    await shard.save_session(make_record("d"), 60)
    kept = [pid for pid in "abcd" if await shard.load_session(pid) is not None]
    assert kept == ["a", "c", "d"]


@pytest.mark.needs(Capability.BOUNDED_SESSIONS)
async def test_records_are_bounded_in_bytes(site: Site) -> None:
    """A session in many rooms counts for more: a few of them do not fill the memory."""
    shard = await site.make(RecordingSink(), limits=MemoryLimits(session_bytes=100_000))
    rooms = {RoomId("x" * 250 + str(number)): 0 for number in range(200)}
    for pid in "ab":
        await shard.save_session(SessionRecord(pid, "s", UserId("u"), dict(rooms)), 60)

    assert await shard.load_session("a") is None
    assert await shard.load_session("b") is not None
