"""Reading: replays that miss nothing, holes that are exact, pages, newest offsets."""

from __future__ import annotations

from typing import Any

import pytest

from functions.calls import FIRST, TERM, Calls, Limits, Post, bucket_of
from functions.server import RunningServer

SIZE = 400 + len(Post("a", "a0").envelope)
HOUR_MS = 3_600_000
DAY_S = 86_400


def fill(shard: Calls, rooms: str, limits: Limits | None = None) -> list[int]:
    """Store one message in each of *rooms*, one batch each; gives their offsets."""
    return [
        offset
        for number, room in enumerate(rooms)
        for offset in shard.store(Post(room, f"{room}{number}"), limits=limits)
    ]


# read ------------------------------------------------------------------------------------------


def test_read_gives_what_came_after(shard: Calls) -> None:
    """The rooms' entries above the offset in one order, and up to the shard's newest."""
    offsets = fill(shard, "abacbabc")
    replay = shard.read({"a": 0, "b": 0}, offsets[1])
    assert replay.bodies == ["a2", "b4", "a5", "b6"]
    assert [offset for offset, _, _ in replay.entries] == [offsets[n] for n in (2, 4, 5, 6)]
    assert [room for _, room, _ in replay.entries] == ["a", "b", "a", "b"]
    assert (replay.reached, replay.is_complete, replay.holes) == (offsets[-1], True, [])


def test_read_knows_when_each_room_was_joined(shard: Calls) -> None:
    """What is at or below a room's join offset is not owed (rule d)."""
    offsets = fill(shard, "abab")
    assert shard.read({"a": offsets[2], "b": offsets[1]}, 0).bodies == ["b3"]


def test_read_of_quiet_and_unknown_rooms_is_complete(shard: Calls) -> None:
    """Nothing new, or never anything: the answer reaches the newest offset."""
    offsets = fill(shard, "ab")
    replay = shard.read({"a": 0, "b": 0, "never": 0}, offsets[-1])
    assert (replay.entries, replay.reached, replay.is_complete) == ([], offsets[-1], True)
    assert shard.read({"never": 0}, 0).is_complete


@pytest.mark.parametrize("per_page", [1, 2, 3, 7])
def test_read_in_pages_gives_the_same(shard: Calls, per_page: int) -> None:
    """Page after page from where the last one reached: everything, once, in order."""
    offsets = fill(shard, "acbacbab" * 12)
    reached, is_complete, bodies = 0, False, list[str]()
    while not is_complete:
        replay = shard.read({"a": 0, "b": 0}, reached, per_page * (SIZE + 1))
        assert 0 < len(replay.entries) <= per_page
        assert all(reached < offset <= replay.reached for offset, _, _ in replay.entries)
        bodies += replay.bodies
        reached, is_complete = replay.reached, replay.is_complete
    assert bodies == [f"{room}{n}" for n, room in enumerate("acbacbab" * 12) if room in "ab"]
    assert reached == offsets[-1]


def test_a_page_has_at_least_one_entry(shard: Calls) -> None:
    """A message above the limit comes alone: else it would never come."""
    offsets = fill(shard, "aa")
    replay = shard.read({"a": 0}, 0, 1)
    assert (replay.bodies, replay.reached, replay.is_complete) == (["a0"], offsets[0], False)


@pytest.mark.parametrize("rooms", [1, 3, 200])
def test_one_order_over_rooms_of_any_length(shard: Calls, rooms: int) -> None:
    """More entries than are read at a time, from rooms that are not equally busy."""
    names = [f"room {n}" for n in range(rooms)]
    posts = [Post(names[(n * n) % rooms], str(n)) for n in range(1000)]
    stored = dict(zip(shard.store(*posts), (post.body for post in posts), strict=True))
    replay = shard.read(dict.fromkeys(names, 0), FIRST + 9)
    assert replay.bodies == [stored[offset] for offset in range(FIRST + 10, FIRST + 1000)]


def test_an_offset_of_the_future_is_a_hole(shard: Calls) -> None:
    """One that was never given out: nobody knows what its client has."""
    (offset,) = fill(shard, "a")
    replay = shard.read({"a": 0, "b": 0}, offset + 1)
    assert (replay.holes, replay.entries, replay.is_complete) == (["a", "b"], [], False)


# Holes -----------------------------------------------------------------------------------------


def test_a_hole_is_exact(shard: Calls) -> None:
    """One who has the newest lost entry misses nothing, one who has the one before it does."""
    limits = Limits(keep=1)
    offsets = fill(shard, "ab" * 150, limits)
    kept = shard.bodies("a")
    first = next(n for n in range(0, 300, 2) if f"a{n}" == kept[0])
    assert first >= 100
    lost = offsets[first - 2]
    assert shard.read({"a": 0}, lost).bodies == kept
    assert shard.read({"a": lost}, 0).bodies == kept
    assert shard.read({"a": 0, "b": offsets[-1]}, lost - 1).holes == ["a"]
    assert shard.read({"a": lost - 1}, 0).entries == []


def test_a_hole_is_exact_after_an_hour(server: RunningServer, shard: Calls) -> None:
    """Entries go at most 1/64 after their age; who has heard the last of them misses nothing."""
    limits = Limits(age_ms=HOUR_MS)
    (first,) = fill(shard, "a", limits)
    server.pass_time(1800)
    second, _ = fill(shard, "ab", limits)
    server.pass_time(1800)
    assert [offset for offset, _ in shard.page("a", 9)[0]] == [first, second]
    server.pass_time(60)
    assert shard.page("a", 9) == ([(second, "a0")], None)
    assert shard.read({"a": 0}, first).entries == [(second, "a", "a0")]
    assert shard.read({"a": 0}, first - 1).holes == ["a"]
    server.pass_time(1800)
    assert shard.bodies("a") == []
    assert shard.read({"a": 0}, second).is_complete
    assert shard.read({"a": 0}, second - 1).holes == ["a"]


def test_old_entries_do_not_stay_in_memory(server: RunningServer, shard: Calls) -> None:
    """A room that goes on loses them when something is stored, a quiet one its whole log."""
    log = f"{bucket_of('a')}l:a"
    for _ in range(12):
        fill(shard, "a" * 5)
        server.pass_time(600)
    assert 35 <= shard.command("XLEN", log) <= 45
    server.pass_time(3600)
    assert shard.command("EXISTS", log) == 0


def test_a_room_that_comes_back_has_its_hole(server: RunningServer, shard: Calls) -> None:
    """What it lost before its log began anew is still known."""
    (lost,) = fill(shard, "a")
    server.pass_time(3 * 3600)
    (offset,) = fill(shard, "a")
    assert shard.read({"a": 0}, lost).entries == [(offset, "a", "a0")]
    assert shard.read({"a": 0}, lost - 1).holes == ["a"]


def test_a_room_that_is_forgotten_has_a_hole_for_old_offsets(
    server: RunningServer, shard: Calls
) -> None:
    """After a day more nothing is known of it, so an offset that is as old may miss something."""
    offsets = fill(shard, "ab")
    server.pass_time(3 * 3600 + DAY_S)
    assert shard.command("KEYS", "*t:*") == []
    assert shard.read({"a": 0, "never": 0}, offsets[0]).holes == ["a", "never"]
    assert shard.read({"a": 0, "never": 0}, offsets[1]).is_complete
    (after,) = fill(shard, "b")
    assert shard.read({"a": 0}, offsets[0]).holes == ["a"]
    assert shard.read({"b": 0}, offsets[0]).holes == ["b"]
    assert shard.read({"b": 0}, offsets[1]).entries == [(after, "b", "b0")]
    assert shard.read({"a": 0, "never": 0}, after).is_complete


def test_a_shard_that_forgets_for_days_stays_small(server: RunningServer, shard: Calls) -> None:
    """Marks of which offsets are how old go too, and holes of long ago are holes."""
    (lost,) = fill(shard, "a")
    for _ in range(10):
        server.pass_time(DAY_S // 2)
        fill(shard, "b")
    assert shard.command("ZCARD", "roomful:marks") <= 6
    assert shard.read({"a": 0}, lost - 1).holes == ["a"]


# page ------------------------------------------------------------------------------------------


def test_pages_back_from_the_newest(shard: Calls) -> None:
    """The newest page, then by `next` the ones before it; None at the end."""
    offsets = fill(shard, "abacaba")
    newest, following = shard.page("a", 3)
    assert newest == [(offsets[n], f"a{n}") for n in (2, 4, 6)]
    assert following == offsets[2]
    assert shard.page("a", 3, before=following) == ([(offsets[0], "a0")], None)


def test_pages_forward_and_between(shard: Calls) -> None:
    """From an offset on, by `next`; and with both bounds what is between them."""
    offsets = fill(shard, "abacaba")
    first, following = shard.page("a", 3, after=0)
    assert [body for _, body in first] == ["a0", "a2", "a4"]
    assert following == offsets[4]
    assert shard.page("a", 3, after=following) == ([(offsets[6], "a6")], None)
    assert shard.page("a", 9, after=offsets[0], before=offsets[6])[0] == first[1:]
    assert shard.page("a", 9, after=offsets[5], before=offsets[2]) == ([], None)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 130])
@pytest.mark.parametrize("limit", [1, 64, 65, 200])
def test_a_full_last_page_has_no_next(shard: Calls, count: int, limit: int) -> None:
    """`next` is there if and only if there is another page, in both directions."""
    if count:
        shard.store(*(Post("a", str(n)) for n in range(count)))
    for is_forward in (False, True):
        seen: list[str] = []
        bound: int | None = 0 if is_forward else None
        pages = 0
        while True:
            bounds: dict[str, Any] = {"after" if is_forward else "before": bound}
            entries, bound = shard.page("a", limit, **bounds)
            bodies = [body for _, body in entries]
            seen = seen + bodies if is_forward else bodies + seen
            pages += 1
            if bound is None:
                break
        assert seen == [str(n) for n in range(count)]
        assert pages == max(1, -(-count // limit))


def test_a_page_is_bounded_in_bytes(shard: Calls) -> None:
    """It holds fewer when they are large, but one at least."""
    fill(shard, "aaaa")
    assert [body for _, body in shard.page("a", 9, limit=2 * SIZE)[0]] == ["a2", "a3"]
    assert [body for _, body in shard.page("a", 9, after=0, limit=1)[0]] == ["a0"]


# tails -----------------------------------------------------------------------------------------


def test_tails_are_the_rooms_newest_offsets(shard: Calls) -> None:
    """And the shard's; 0 for a room that has none."""
    offsets = fill(shard, "abab")
    keys = [f"{bucket_of(room)}l:{room}" for room in ("a", "b", "never")]
    assert shard("tails", keys, TERM) == [offsets[3], [offsets[2], offsets[3], 0]]


def test_tails_of_no_rooms_is_the_shards_newest_offset(shard: Calls) -> None:
    """An edge that holds nothing asks how far the shard is."""
    (offset,) = shard.store(Post("a"))
    assert shard("tails", [], TERM) == [offset, []]
