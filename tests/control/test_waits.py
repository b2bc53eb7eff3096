"""How long clients waited for a primary, by a clock that is a test's."""

from __future__ import annotations

import pytest

from roomful.cluster.cursor import ShardName
from roomful.control.waits import Change, Listener, Waits

S1, S2 = ShardName("s1"), ShardName("s2")


@pytest.fixture
def heard() -> list[tuple[Change, float]]:
    """What the listener was told."""
    return []


@pytest.fixture
def waits(heard: list[tuple[Change, float]]) -> Waits:
    """Give one with a listener."""
    return Waits(Listener(lambda change, took_s: heard.append((change, took_s))))


def test_a_failover_counts_from_the_first_look_that_missed_the_primary(
    waits: Waits, heard: list[tuple[Change, float]]
) -> None:
    """Later looks change nothing; other shards have times of their own."""
    waits.miss(S1, 10.0)
    waits.miss(S2, 12.0)
    waits.miss(S1, 13.0)
    waits.end([S1], 14.0)
    waits.end([S2], 15.0)
    assert heard == [(Change.FAILOVER, 4.0), (Change.FAILOVER, 3.0)]


def test_a_primary_that_came_back_was_not_lost(
    waits: Waits, heard: list[tuple[Change, float]]
) -> None:
    """The next time is counted from its own beginning."""
    waits.miss(S1, 10.0)
    waits.meet(S1)
    waits.miss(S1, 20.0)
    waits.end([S1], 21.0)
    assert heard == [(Change.FAILOVER, 1.0)]


def test_a_hand_over_counts_from_its_order(waits: Waits, heard: list[tuple[Change, float]]) -> None:
    """The primary pauses when it is asked, and is there until it has given its role."""
    waits.order(S1, 10.0)
    waits.meet(S1)
    waits.miss(S1, 11.0)
    waits.end([S1], 12.0)
    assert heard == [(Change.HAND_OVER, 2.0)]


def test_a_primary_that_dies_long_after_is_a_failover(
    waits: Waits, heard: list[tuple[Change, float]]
) -> None:
    """The hand-over came to nothing by then."""
    waits.order(S1, 10.0)
    waits.miss(S1, 60.0)
    waits.end([S1], 64.0)
    assert heard == [(Change.FAILOVER, 4.0)]


def test_what_another_controller_did_meanwhile_is_not_counted(
    waits: Waits, heard: list[tuple[Change, float]]
) -> None:
    """Who had no lead begins anew."""
    waits.miss(S1, 10.0)
    waits.forget()
    waits.miss(S1, 50.0)
    waits.end([S1], 51.0)
    assert heard == [(Change.FAILOVER, 1.0)]
