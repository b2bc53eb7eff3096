"""Room logs are bounded by count, age and bytes, and so is all that is kept around them."""

from __future__ import annotations

import tracemalloc

import pytest

from roomful.shard.base import Shard
from roomful.shard.log import LogLimits, RoomLogs
from roomful.shard.message import Entry, RoomId
from shard.clock import EPOCH_S
from shard.recording import RecordingSink, make_envelope, store
from shard.site import Capability, Site

ENTRY = make_envelope("a", "0").size


async def kept(shard: Shard, room: str) -> list[str]:
    """Give the ids that the log of *room* has."""
    page = await shard.page(RoomId(room), before=None, after=None, limit=100_000)
    return [entry.envelope.id for entry in page.entries]


async def test_the_newest_of_a_room_are_kept(site: Site) -> None:
    """messages_per_room, each room for itself."""
    shard = await site.make(RecordingSink(), log=LogLimits(messages_per_room=3))
    await store(shard, *(make_envelope("a", f"a{n}") for n in range(5)), make_envelope("b", "b0"))
    assert await kept(shard, "a") == ["a2", "a3", "a4"]
    assert await kept(shard, "b") == ["b0"]


async def test_entries_are_kept_for_their_age(site: Site) -> None:
    """Little more than age_s after its time it goes, over all rooms, when anything is published."""
    shard = await site.make(RecordingSink(), log=LogLimits(age_s=60))
    await store(shard, make_envelope("a", "a0", at_s=site.now()))
    await site.pass_time(30)
    await store(shard, make_envelope("a", "a1", at_s=site.now()))
    await site.pass_time(29)
    await store(shard, make_envelope("b", "b0", at_s=site.now()))
    assert await kept(shard, "a") == ["a0", "a1"]
    await site.pass_time(3)
    await store(shard, make_envelope("b", "b1", at_s=site.now()))
    assert await kept(shard, "a") == ["a1"]


@pytest.mark.needs(Capability.BOUNDED_LOGS)
async def test_all_logs_together_are_bounded_in_bytes(site: Site) -> None:
    """Above total_bytes the oldest over all rooms go, whichever room they are in."""
    shard = await site.make(RecordingSink(), log=LogLimits(total_bytes=4 * ENTRY))
    for number, room in enumerate("aabbcc"):
        await store(shard, make_envelope(room, str(number)))
    assert [await kept(shard, room) for room in "abc"] == [[], ["2", "3"], ["4", "5"]]


@pytest.mark.needs(Capability.BOUNDED_LOGS)
async def test_a_message_above_all_bounds_is_heard_and_not_kept(site: Site) -> None:
    """One that does not fit into the logs takes nothing with it but what is older."""
    sink = RecordingSink()
    shard = await site.make(sink, log=LogLimits(total_bytes=4 * ENTRY))
    await shard.hold(RoomId("a"))
    await store(shard, make_envelope("a", "small"))
    await store(shard, make_envelope("a", "large", body=b"x" * 10 * ENTRY))
    assert [entry.envelope.id for entry in sink.entries] == ["small", "large"]
    assert await kept(shard, "a") == []
    await store(shard, make_envelope("a", "next"))
    assert await kept(shard, "a") == ["next"]


# What is embedded ------------------------------------------------------------------------------


def make_entry(offset: int, room: str, *, size: int = 0) -> Entry:
    """Make an entry whose body has *size* bytes of its own."""
    body = b"%d" % offset
    return Entry(offset, make_envelope(room, str(offset), body=body.ljust(size)))


@pytest.mark.parametrize(
    ("limit", "size", "quiet"),
    [
        pytest.param(10, 100_000, 0, id="few and large"),
        pytest.param(10, 100_000, 200, id="few and large, among many small"),
        pytest.param(2_000, 100, 0, id="many and small"),
    ],
)
def test_memory_is_bounded_by_what_is_kept(limit: int, size: int, quiet: int) -> None:
    """
    A busy room costs what its log holds, not what went through it.

    An entry leaves its room's log from the head while the timeline over all rooms still has it
    further on: what waits there has to be bounded in bytes too.
    """
    logs = RoomLogs(LogLimits(messages_per_room=limit))
    for offset in range(1, quiet + 1):
        logs.append(make_entry(offset, f"quiet{offset}"))
    tracemalloc.start()
    try:
        for offset in range(quiet + 1, quiet + 5 * limit + 1_500):
            logs.append(make_entry(offset, "busy", size=size))
            logs.trim(0)
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(logs) == limit + quiet
    assert current < 3 * logs.bytes + (2 << 20)
    assert peak < 3 * logs.bytes + (3 << 20)


def test_bytes_are_those_of_what_is_kept() -> None:
    """Whatever the reason an entry goes for, its bytes go with it."""
    logs = RoomLogs(LogLimits(messages_per_room=2, age_s=60, total_bytes=50 * ENTRY))
    for offset in range(1, 200):
        logs.append(make_entry(offset, f"r{offset % 7}", size=offset))
        logs.trim(0)
        assert logs.bytes == sum(entry.envelope.size for entry in logs.entries())
        assert len(logs) == len(list(logs.entries()))
    logs.trim(int((EPOCH_S + 3600) * 1000))
    assert (len(logs), logs.bytes, list(logs.entries())) == (0, 0, [])


def test_rooms_that_are_empty_are_forgotten() -> None:
    """A million rooms that were used once leave nothing behind but one number."""
    logs = RoomLogs(LogLimits(total_bytes=ENTRY))
    for offset in range(1, 1_000):
        logs.append(make_entry(offset, f"room{offset}"))
        logs.trim(0)
    assert logs.floors() == {}
    assert logs.forgotten == 998
    holes = logs.read({RoomId("room5"): 0}, 4, 999, 1 << 20).holes
    assert list(holes) == ["room5"]


def test_a_smaller_limit_after_a_restart_makes_holes() -> None:
    """What does not fit any more is lost, and is known to be."""
    logs = RoomLogs(LogLimits(messages_per_room=4))
    entries = [make_entry(offset, "a") for offset in range(1, 7)]
    for entry in entries:
        logs.append(entry)
    smaller = RoomLogs(LogLimits(messages_per_room=2))
    smaller.restore(list(logs.entries()), logs.floors(), logs.forgotten)
    room = RoomId("a")
    assert [entry.offset for entry in smaller.entries()] == [5, 6]
    assert list(smaller.read({room: 0}, 3, 6, 1 << 20).holes) == [room]
    assert len(smaller.read({room: 0}, 4, 6, 1 << 20).entries) == 2
