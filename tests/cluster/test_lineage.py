"""What is owed of a room whose bucket has moved, by what the cursor names."""

from __future__ import annotations

import pytest

from roomful.cluster.cursor import ShardName
from roomful.cluster.lineage import Segment, Stretch, find_owed

A, B, C, NOBODY = map(ShardName, ("a", "b", "c", ""))
THERE_AND_ON = [Segment(A, 100), Segment(B, 200)]
BACK = [Segment(A, 100), Segment(B, 200), Segment(A, 300)]


def test_a_bucket_that_never_moved_is_owed_after_cursor_and_join() -> None:
    """As it always was."""
    assert find_owed([], A, {A: 7}, 5) == [Stretch(A, 7, 5, None)]
    assert find_owed([], A, {B: 7}, 5) is None


@pytest.mark.parametrize(
    ("cursor", "owed"),
    [
        ({A: 50, B: 20}, [(A, 50, 0, 100), (B, 20, 100, 200), (C, 0, 200, None)]),
        ({A: 50, B: 99, C: 199}, [(A, 50, 0, 100), (B, 99, 100, 200), (C, 199, 200, None)]),
        ({A: 50, B: 100, C: 9}, [(B, 100, 100, 200), (C, 9, 200, None)]),
        ({A: 50, C: 200}, [(C, 200, 200, None)]),
        ({B: 150}, [(B, 150, 100, 200), (C, 0, 200, None)]),
        ({B: 250}, [(C, 0, 200, None)]),
        ({C: 200}, [(C, 200, 200, None)]),
        ({C: 199}, None),
        ({B: 99}, None),
        ({}, None),
    ],
)
def test_what_a_cursor_says_of_each_stay(
    cursor: dict[ShardName, int], owed: list[tuple[ShardName, int, int, int | None]] | None
) -> None:
    """A position at or above an arrival has all of before; none of what came after is named."""
    expected = None if owed is None else [Stretch(*one) for one in owed]
    assert find_owed(THERE_AND_ON, C, cursor, 0) == expected


def test_what_was_stored_before_the_join_is_not_owed() -> None:
    """Nor need the cursor name who stored it."""
    assert find_owed(THERE_AND_ON, C, {C: 150}, 200) == [Stretch(C, 150, 200, None)]
    assert find_owed(THERE_AND_ON, C, {B: 120}, 150) == [
        Stretch(B, 120, 150, 200),
        Stretch(C, 0, 200, None),
    ]
    assert find_owed(THERE_AND_ON, C, {B: 90}, 50) is None


def test_a_shard_that_had_it_twice_has_one_position() -> None:
    """Each stay has its own part of the shard's offsets."""
    assert find_owed(BACK, C, {A: 60, B: 150}, 0) == [
        Stretch(B, 150, 100, 200),
        Stretch(A, 60, 200, 300),
        Stretch(C, 0, 300, None),
    ]
    assert find_owed(BACK[:2], A, {A: 60, B: 9}, 0) == [
        Stretch(A, 60, 0, 100),
        Stretch(B, 9, 100, 200),
        Stretch(A, 60, 200, None),
    ]
    assert find_owed(BACK, C, {A: 250, B: 9}, 0) == [
        Stretch(A, 250, 200, 300),
        Stretch(C, 0, 300, None),
    ]


def test_a_shard_that_nobody_knows_cannot_be_read() -> None:
    """Unless everything of it is known to have come."""
    forgotten = [Segment(NOBODY, 100), Segment(B, 200)]
    assert find_owed(forgotten, C, {B: 50}, 0) is None
    assert find_owed(forgotten, C, {B: 100}, 0) == [
        Stretch(B, 100, 100, 200),
        Stretch(C, 0, 200, None),
    ]


def test_a_cursor_among_what_was_lost_says_nothing() -> None:
    """Whoever heard that much of the shard may have heard what it has not."""
    segments = [Segment(A, 100, [(40, 60)])]
    assert find_owed(segments, B, {A: 50}, 0) is None
    assert find_owed(segments, B, {A: 40}, 0) == [Stretch(A, 40, 0, 100), Stretch(B, 0, 100, None)]
    assert find_owed(segments, B, {A: 50, B: 100}, 0) == [Stretch(B, 100, 100, None)]
