"""Reading a shard's logs: replays that miss nothing, holes that are named, pages of history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from roomful.shard.base import Page, Replay, Shard
from roomful.shard.log import LogLimits
from roomful.shard.message import Entry, RoomId
from shard.recording import RecordingSink, make_envelope, store
from shard.site import Site

PLENTY = 1 << 30
A, B = RoomId("a"), RoomId("b")


async def fill(shard: Shard, rooms: str) -> list[int]:
    """Store one message in each of *rooms*, one batch each; gives their offsets."""
    offsets = []
    for number, room in enumerate(rooms):
        (stored,) = await store(shard, make_envelope(room, f"{room}{number}"))
        offsets.append(stored.offset)
    return offsets


def names(entries: Sequence[Entry]) -> list[str]:
    """Give the ids of *entries*."""
    return [entry.envelope.id for entry in entries]


@pytest.fixture
async def shard(site: Site) -> Shard:
    """A shard that keeps four messages a room."""
    return await site.make(RecordingSink(), log=LogLimits(messages_per_room=4))


# read ------------------------------------------------------------------------------------------


async def test_read_gives_what_came_after(shard: Shard) -> None:
    """The rooms' entries above the cursor in one order, and no other room's."""
    offsets = await fill(shard, "abacbab")
    replay = await shard.read({A: 0, B: 0}, offsets[1], PLENTY)
    assert names(replay.entries) == ["a2", "b4", "a5", "b6"]
    assert replay == Replay(replay.entries, offsets[-1], is_complete=True)


async def test_read_knows_when_each_room_was_joined(shard: Shard) -> None:
    """What is at or below a room's join offset is not owed (rule d)."""
    offsets = await fill(shard, "abab")
    replay = await shard.read({A: offsets[2], B: offsets[1]}, 0, PLENTY)
    assert names(replay.entries) == ["b3"]


async def test_read_of_nothing_new(shard: Shard) -> None:
    """At the newest offset there is nothing, and nothing is missing."""
    offsets = await fill(shard, "ab")
    replay = await shard.read({A: 0, B: 0}, offsets[-1], PLENTY)
    assert replay == Replay([], offsets[-1], is_complete=True)


async def test_read_of_a_quiet_room_reaches_the_newest(shard: Shard) -> None:
    """`reached` is the shard's, not the rooms': it need not be read again."""
    offsets = await fill(shard, "abbb")
    replay = await shard.read({A: 0}, 0, PLENTY)
    assert names(replay.entries) == ["a0"]
    assert (replay.reached, replay.is_complete) == (offsets[-1], True)


@pytest.mark.parametrize("per_page", [1, 2, 3])
async def test_read_in_pages_gives_the_same(shard: Shard, per_page: int) -> None:
    """Page after page from where the last one reached: everything, once, in order."""
    rooms: Mapping[RoomId, int] = {A: 0, B: 0}
    offsets = await fill(shard, "acbacbab")
    limit = per_page * make_envelope("a", "a0").size
    entries: list[Entry] = []
    reached, is_complete, pages = 0, False, 0
    while not is_complete:
        replay = await shard.read(rooms, reached, limit)
        assert 0 < len(replay.entries) <= per_page
        assert all(reached < entry.offset <= replay.reached for entry in replay.entries)
        entries += replay.entries
        reached, is_complete, pages = replay.reached, replay.is_complete, pages + 1
    assert names(entries) == ["a0", "b2", "a3", "b5", "a6", "b7"]
    assert reached == offsets[-1]
    assert pages >= 6 / per_page


async def test_a_page_has_at_least_one_entry(shard: Shard) -> None:
    """A message above the limit comes alone: else it would never come."""
    await fill(shard, "aa")
    replay = await shard.read({A: 0}, 0, 1)
    assert names(replay.entries) == ["a0"]
    assert not replay.is_complete


async def test_what_comes_while_pages_are_read_is_in_the_next(shard: Shard) -> None:
    """A read is of the moment: entries stored since are above `reached`."""
    await fill(shard, "aa")
    first = await shard.read({A: 0}, 0, 1)
    (stored,) = await store(shard, make_envelope("a", "late"))
    rest = await shard.read({A: 0}, first.reached, PLENTY)
    assert names(rest.entries) == ["a1", "late"]
    assert (rest.reached, rest.is_complete) == (stored.offset, True)


async def test_a_join_offset_of_the_future_owes_nothing(shard: Shard) -> None:
    """As of a room that was joined where the shard was further."""
    offsets = await fill(shard, "ab")
    replay = await shard.read({A: offsets[-1] + 5, B: 0}, 0, PLENTY)
    assert names(replay.entries) == ["b1"]
    assert replay.is_complete


# Holes -----------------------------------------------------------------------------------------


async def test_a_hole_is_named(shard: Shard) -> None:
    """When a log no longer reaches back its room is named, and there are no entries."""
    offsets = await fill(shard, "b" + "a" * 6)
    replay = await shard.read({A: 0, B: 0}, 0, PLENTY)
    assert list(replay.holes) == [A]
    assert list(replay.entries) == []
    assert not replay.is_complete
    assert (await shard.read({A: 0, B: 0}, offsets[1], PLENTY)).holes == [A]


async def test_a_log_reaches_back_to_the_last_entry_it_lost(shard: Shard) -> None:
    """Exactly: one who has heard the newest lost entry misses nothing."""
    offsets = await fill(shard, "a" * 6)  # the first two are gone
    replay = await shard.read({A: 0}, offsets[1], PLENTY)
    assert names(replay.entries) == ["a2", "a3", "a4", "a5"]
    assert replay.is_complete


async def test_what_was_lost_before_a_join_is_no_hole(shard: Shard) -> None:
    """A room's hole is only one for those who were in it."""
    offsets = await fill(shard, "a" * 6)
    replay = await shard.read({A: offsets[1]}, 0, PLENTY)
    assert names(replay.entries) == ["a2", "a3", "a4", "a5"]


async def test_a_cursor_of_the_future_is_a_hole(shard: Shard) -> None:
    """An offset that was never given out: nobody knows what its client has."""
    (offset,) = await fill(shard, "a")
    replay = await shard.read({A: 0, B: 0}, offset + 1, PLENTY)
    assert set(replay.holes) == {A, B}


async def test_a_room_that_was_emptied_has_a_hole(site: Site) -> None:
    """Nothing kept and something lost is not the same as nothing missed."""
    shard = await site.make(RecordingSink(), log=LogLimits(age_s=60))
    (offset,) = [one.offset for one in await store(shard, make_envelope("a", "1", at_s=site.now()))]
    await site.pass_time(63)
    await store(shard, make_envelope("b", "2", at_s=site.now()))
    assert (await shard.read({A: 0}, 0, PLENTY)).holes == [A]
    assert (await shard.read({A: 0}, offset, PLENTY)).is_complete


# page ------------------------------------------------------------------------------------------


async def page(
    shard: Shard, *, before: int | None = None, after: int | None = None, limit: int
) -> Page:
    """Give a page of room a."""
    return await shard.page(A, before=before, after=after, limit=limit)


async def test_pages_back_from_the_newest(shard: Shard) -> None:
    """The newest page, then by `next` the ones before it; None at the end."""
    await fill(shard, "abacaba")
    newest = await page(shard, limit=3)
    assert names(newest.entries) == ["a2", "a4", "a6"]
    assert newest.next is not None
    oldest = await page(shard, before=newest.next, limit=3)
    assert names(oldest.entries) == ["a0"]
    assert oldest.next is None


async def test_pages_forward(shard: Shard) -> None:
    """From an offset on, by `next`; None when the newest is there."""
    await fill(shard, "abacaba")
    first = await page(shard, after=0, limit=3)
    assert names(first.entries) == ["a0", "a2", "a4"]
    assert first.next is not None
    last = await page(shard, after=first.next, limit=3)
    assert names(last.entries) == ["a6"]
    assert last.next is None


async def test_page_between_two_offsets(shard: Shard) -> None:
    """With `after` and `before`, only what is between them."""
    offsets = await fill(shard, "aaaa")
    between = await page(shard, after=offsets[0], before=offsets[3], limit=10)
    assert names(between.entries) == ["a1", "a2"]
    assert between.next is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("limit", [1, 2, 4, 5])
async def test_a_full_last_page_has_no_next(shard: Shard, count: int, limit: int) -> None:
    """`next` is there if and only if there is another page, in both directions."""
    await fill(shard, "a" * count)
    for direction in ("before", "after"):
        seen: list[Entry] = []
        edge: int | None = None if direction == "before" else 0
        pages = 0
        while True:
            one = await page(
                shard,
                before=edge if direction == "before" else None,
                after=edge if direction == "after" else None,
                limit=limit,
            )
            seen += one.entries
            pages += 1
            if one.next is None:
                break
            assert one.entries, "an empty page says there is another"
            edge = one.next
        assert sorted(names(seen)) == [f"a{number}" for number in range(count)]
        assert pages == max(1, -(-count // limit))


async def test_page_of_an_unknown_room(shard: Shard) -> None:
    """A room that nobody wrote to has an empty history, not an error."""
    for before, after in ((None, None), (5, None), (None, 5)):
        assert await page(shard, before=before, after=after, limit=5) == Page([], None)


@pytest.mark.parametrize(
    ("before", "after"),
    [(0, None), (1, None), (None, 2**53), (2**53, 2**53 - 1), (5, 5), (5, 9), (0, 0)],
)
async def test_pages_where_there_is_nothing(
    shard: Shard, before: int | None, after: int | None
) -> None:
    """Bounds that no entry is between, in a room that has some."""
    await fill(shard, "aaa")
    assert await page(shard, before=before, after=after, limit=5) == Page([], None)


@pytest.mark.parametrize("beyond", [1, 2**52])
async def test_pages_from_beyond_the_newest(shard: Shard, beyond: int) -> None:
    """`before` an offset that was never given is the newest page."""
    offsets = await fill(shard, "aaa")
    newest = await page(shard, before=offsets[-1] + beyond, limit=2)
    assert names(newest.entries) == ["a1", "a2"]


@pytest.mark.parametrize("direction", ["before", "after"])
async def test_pages_of_large_messages_are_small(site: Site, direction: str) -> None:
    """A page fits into a client's send buffer, whatever was asked for, and none is left out."""
    shard = await site.make(RecordingSink())
    for number in range(5):
        await store(shard, make_envelope("a", f"a{number}", body=b"x" * 100_000))
    await store(shard, make_envelope("a", "a5", body=b"x" * 900_000))
    seen: list[str] = []
    edge: int | None = 0 if direction == "after" else None
    while True:
        before, after = (edge, None) if direction == "before" else (None, edge)
        one = await page(shard, before=before, after=after, limit=100)
        size = sum(entry.envelope.size for entry in one.entries)
        assert len(one.entries) == 1 or size < 500_000
        seen = names(one.entries) + seen if direction == "before" else seen + names(one.entries)
        if one.next is None:
            break
        edge = one.next
    assert seen == [f"a{number}" for number in range(6)]
