"""Senders' ids: remembered for their window, the oldest go first where there are too many."""

from __future__ import annotations

from roomful.shard.base import Stored
from roomful.shard.message import RoomId, UserId
from roomful.shard.sender_ids import IdKey, SenderIds


def key(number: int) -> IdKey:
    """Make the key of message *number*."""
    return (RoomId("a"), UserId("ann"), f"m{number}")


def remember(ids: SenderIds, numbers: range, lapses_at: float) -> None:
    """Remember a batch of messages, whose offsets are their numbers."""
    keys = [key(number) for number in numbers]
    ids.first |= {key(number): Stored(number, 0) for number in numbers}
    ids.keep(keys, lapses_at)


def test_ids_lapse_with_their_batch() -> None:
    """At the end of the window, and not before; none of it counts as dropped."""
    ids = SenderIds(10)
    remember(ids, range(1, 3), 5.0)
    remember(ids, range(3, 5), 6.0)
    assert ids.forget(4.9) == 0
    assert len(ids.first) == 4
    assert ids.forget(5.0) == 0
    assert ids.first.keys() == {key(3), key(4)}


def test_above_the_bound_the_oldest_go_first() -> None:
    """Also from the middle of a batch; each that had not lapsed counts."""
    ids = SenderIds(3)
    remember(ids, range(1, 4), 5.0)
    remember(ids, range(4, 6), 6.0)
    assert ids.forget(0.0) == 2
    assert ids.first.keys() == {key(3), key(4), key(5)}


def test_a_batch_that_was_not_kept_is_forgotten_whole() -> None:
    """Its ids are free again."""
    ids = SenderIds(10)
    remember(ids, range(1, 2), 5.0)
    ids.first[key(2)] = Stored(2, 0)
    ids.forget_batch([key(2)])
    assert ids.first.keys() == {key(1)}


def test_what_is_dumped_is_restored() -> None:
    """In its order, with its ends."""
    ids, others = SenderIds(10), SenderIds(3)
    remember(ids, range(1, 4), 5.0)
    remember(ids, range(4, 6), 6.0)
    dumped = list(ids.dump())
    assert [number[2] for _, number, _ in dumped] == ["m1", "m2", "m3", "m4", "m5"]
    others.restore(dumped)
    assert list(others.dump()) == dumped
    others.forget(0.0)
    assert others.first.keys() == {key(3), key(4), key(5)}
