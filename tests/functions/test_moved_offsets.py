"""Offsets, arrivals, tails and the lineage of a bucket that moved."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from functions.calls import FIRST, TERM, Post
from functions.moving import (
    A,
    Arrival,
    B,
    Journey,
    Segment,
    back,
    lineage,
)

FAR = (7 << 40) + 5
"""An offset of a much later term."""


@pytest.mark.parametrize("ahead", ["source", "target"])
def test_offsets_only_grow(journey: Journey, ahead: str) -> None:
    """The target's are above all that the source gave, in whatever bucket."""
    getattr(journey, ahead).command("HSET", "roomful:shard", "seq", FAR)
    born = journey.source.store(Post("a", "1"), Post("b", "2"), Post("e", "3"))
    journey.travel()
    (later,) = journey.target.publish(Post("a", "4"), versions={A: 3})
    assert isinstance(later, int)
    assert later > max(born)
    assert journey.target.bodies("a") == ["1", "4"]
    entries = journey.target.command("XRANGE", f"{A}l:a", "-", "+")
    assert entries[-1][0] == b"%d-%d" % (later, born[0])


def test_an_arrival_is_told_in_the_order_of_the_stream(journey: Journey) -> None:
    """It has an offset of its own: what is stored there afterwards is above it."""
    journey.source.store(Post("a"), Post("b"))
    journey.target("claim", [f"{B}b"], TERM, 1)
    journey.target.store(Post("b"))
    ear = journey.target.listen("roomful:arrivals", "r:a", "r:b")
    journey.freeze_and_copy()
    journey.complete()
    (between,) = journey.target.store(Post("b"))
    journey.release()
    journey.activate()
    journey.target.publish(Post("a"), versions={A: 3})
    channels = [channel for channel, _ in ear.raw()]
    assert channels == ["r:b", "roomful:arrivals", "r:a"]
    seq, kept = journey.target("arrivals", [], TERM)
    assert seq == between + 2
    assert kept == [b"1", b"3 s1 %d %d" % (FIRST + 1, between + 1)]


def test_what_is_told_is_what_is_kept(journey: Journey) -> None:
    """For an edge that was not there, also when the bucket has gone on."""
    ear = journey.target.listen("roomful:arrivals")
    journey.travel()
    ((_, words),) = ear.raw()
    arrival = Arrival.parse(words)
    assert arrival == Arrival(1, 3, "s1", TERM << 40, (TERM << 40) + 1)
    _, (bucket, rest) = journey.target("arrivals", [], TERM)
    assert words == bucket + b" " + rest
    back(journey, "m2", 3).travel()
    assert journey.target("arrivals", [], TERM)[1] == [bucket, rest]
    assert journey.source("arrivals", [], TERM)[1] != []


def test_tails_tell_what_is_not_there(journey: Journey) -> None:
    """Whoever was away when it went must not take a room that is elsewhere for a quiet one."""
    (born,) = journey.source.store(Post("a"))
    journey.freeze_and_copy()
    assert journey.source("tails", [f"{A}l:a"], TERM)[1] == [born]
    journey.complete()
    assert journey.target("tails", [f"{A}l:a"], TERM)[1] == [-1]
    journey.release()
    journey.activate()
    assert journey.source("tails", [f"{A}l:a"], TERM)[1] == [-1]
    assert journey.target("tails", [f"{A}l:a"], TERM)[1] == [born]


def test_a_room_that_went_there_and_back_has_its_lineage(journey: Journey) -> None:
    """Each entry can be told by its offset to have been stored on this shard or that."""
    assert lineage(journey.source, A) == (1, [])
    first = journey.source.store(Post("a", "1"))
    journey.travel()
    second = journey.target.publish(Post("a", "2"), versions={A: 3})
    homeward = back(journey, "m2", 3)
    homeward.travel()
    third = journey.source.publish(Post("a", "3"), versions={A: 5})
    version, (one, two) = lineage(journey.source, A)
    assert (version, one.shard, two.shard) == (5, "s1", "s2")
    assert first[0] <= one.upto < int(second[0]) <= two.upto < int(third[0])
    assert journey.source.bodies("a") == ["1", "2", "3"]


def test_a_lineage_says_what_its_shard_never_kept(journey: Journey) -> None:
    """Offsets that a failover lost: nobody knows what a cursor among them has heard."""
    (kept,) = journey.source.store(Post("a"))
    journey.source("take_term", [], "s1", 3)
    journey.term = 3
    journey.travel()
    since = (3 << 40) + 1
    assert lineage(journey.target, A)[1] == [Segment("s1", since, [(3 << 40, kept)], 0)]


def test_a_long_lineage_forgets_its_beginning(journey: Journey) -> None:
    """32 segments; what is older was stored on a shard that nobody knows any more."""
    journey.source.store(Post("a"))
    version = 1
    one = journey
    for number in range(35):
        one.migration, one.version = f"m{number}", version
        one.travel()
        version += 2
        one = back(one, "", 0)
    _, segments = lineage(one.source, A)
    assert len(segments) == 32
    assert [segment.shard for segment in segments[:2]] == [
        "",
        "s2" if segments[2].shard == "s1" else "s1",
    ]
    uptos = [segment.upto for segment in segments]
    assert uptos == sorted(uptos)


def test_where_it_is_not_it_has_no_lineage(journey: Journey) -> None:
    """Asked in vain, as for its messages."""
    journey.travel()
    with pytest.raises(ResponseError, match=rf"^ROOMFUL MOVED 3 s2 \{A}$"):
        lineage(journey.source, A)
    assert lineage(journey.target, A)[0] == 3
