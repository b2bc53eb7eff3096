"""An attempt that does not come to its end: the bucket is where it was."""

from __future__ import annotations

import pytest

from functions.calls import TERM, Post
from functions.moving import (
    SESSION,
    A,
    Journey,
    contents,
    fill,
)


@pytest.mark.parametrize("steps", range(5))
def test_given_up_it_is_where_it_was(journey: Journey, steps: int) -> None:
    """Open at the source, in a newer version if it was closed; the target sends everyone there."""
    fill(journey.source)
    before = contents(journey.source, A)
    todo = [
        lambda: journey.source("move", [f"{A}b"], TERM, "m1", 1, "s2"),
        journey.begin,
        journey.copy_all,
        journey.freeze,
        journey.complete,
    ]
    for step in todo[: steps + 1]:
        step()
    journey.abort()
    version = 3 if steps >= 3 else 1
    assert journey.source.record(A) == f"OWNED {version}"
    assert contents(journey.source, A) == before
    if steps:
        assert journey.target.publish(Post("a")) == ["MOVED 1 s1"]
    again = Journey(journey.source, journey.target, A, "m2", version)
    again.travel()
    assert contents(journey.target, A) == before


def test_a_source_that_lost_the_end_of_an_attempt_leaves_in_the_version_the_target_knows(
    journey: Journey,
) -> None:
    """The end of an attempt need not be replicated: a failover of the source can lose it."""
    for migration, version in (("m1", 1), ("m2", 3)):
        later = Journey(journey.source, journey.target, A, migration, version)
        later.freeze_and_copy()
        later.abort()
    assert journey.target.record(A) == "GONE 3 m2 s1"
    journey.source.command("SET", f"{A}b", "OWNED 1")
    journey.source("move", [f"{A}b"], TERM, "m3", 1, "s2", 3)
    assert journey.source.record(A) == "MOVING 3 m3 s2"
    again = Journey(journey.source, journey.target, A, "m3", 3)
    again.travel()
    assert journey.target.record(A) == "OWNED 5"


def test_what_an_attempt_left_is_no_part_of_the_next(journey: Journey) -> None:
    """Keys that were there only then are gone before anything is taken."""
    fill(journey.source)
    journey.begin()
    journey.copy_all()
    journey.abort()
    journey.source("drop_session", [SESSION], TERM, 1, 1)
    Journey(journey.source, journey.target, A, "m2").travel()
    assert f"{A}l:a" in contents(journey.target, A)
    assert journey.target.command("EXISTS", SESSION) == 0
