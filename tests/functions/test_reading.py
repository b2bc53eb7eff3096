"""Reading: holes that are exact whatever was trimmed or forgotten, and newest offsets."""

from __future__ import annotations

import pytest

from functions.calls import FIRST, TERM, Calls, Limits, Post, bucket_of
from functions.server import RunningServer

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


def test_read_of_quiet_and_unknown_rooms_is_complete(shard: Calls) -> None:
    """Nothing new, or never anything: the answer reaches the newest offset."""
    offsets = fill(shard, "ab")
    replay = shard.read({"a": 0, "b": 0, "never": 0}, offsets[-1])
    assert (replay.entries, replay.reached, replay.is_complete) == ([], offsets[-1], True)
    assert shard.read({"never": 0}, 0).is_complete


@pytest.mark.parametrize("rooms", [1, 3, 200])
def test_one_order_over_rooms_of_any_length(shard: Calls, rooms: int) -> None:
    """More entries than are read at a time, from rooms that are not equally busy."""
    names = [f"room {n}" for n in range(rooms)]
    posts = [Post(names[(n * n) % rooms], str(n)) for n in range(1000)]
    stored = dict(zip(shard.store(*posts), (post.body for post in posts), strict=True))
    replay = shard.read(dict.fromkeys(names, 0), FIRST + 9)
    assert replay.bodies == [stored[offset] for offset in range(FIRST + 10, FIRST + 1000)]


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


def test_a_key_that_is_no_log_is_a_hole_in_its_room(shard: Calls) -> None:
    """Somebody made it something else: the other rooms are read as before."""
    offsets = fill(shard, "abc")
    log = f"{bucket_of('b')}l:b"
    shard.command("DEL", log)
    shard.command("SET", log, "poison")
    assert shard.read(dict.fromkeys("abc", 0), 1).holes == ["b"]
    assert shard.read({"a": 0, "c": 0}, 1).bodies == ["a0", "c2"]
    assert shard.read({"b": offsets[1]}, 1).is_complete


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


@pytest.mark.parametrize("back_s", [10, 300, 2 * DAY_S])
def test_nothing_is_old_because_a_clock_was_set_back(
    server: RunningServer, shard: Calls, back_s: int
) -> None:
    """Or because the next primary's is behind: what is stored has an hour from then on."""
    limits = Limits(age_ms=HOUR_MS)
    offsets = fill(shard, "a", limits)
    for passed_s in (60, -back_s, 600, 1200):
        server.pass_time(passed_s)
        offsets += fill(shard, "a", limits)
        assert [offset for offset, _ in shard.page("a", 9)[0]] == offsets
    server.pass_time(3600 + 60)
    assert [offset for offset, _ in shard.page("a", 9)[0]] == []
    assert shard.read({"a": 0}, offsets[-1] - 1).holes == ["a"]
    assert shard.command("ZCARD", "roomful:marks") <= 5


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
