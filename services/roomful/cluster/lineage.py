"""
Where what is in a bucket was stored, when it has moved, and what a cursor says of it.

A bucket that moves takes its messages along, and a message keeps its offset. The new shard begins
above all that the old one gave, so offsets of a bucket grow through moves and an offset alone tells
the shard that gave it (docs/adr/0022-hearing-a-bucket-that-moves.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roomful.cluster.cursor import ShardName

__all__ = ["Segment", "Stretch", "find_owed"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stay of a bucket on a shard where it is not any more."""

    shard: ShardName
    """Empty: nobody knows."""
    upto: int
    """Above the segment before and up to this are its offsets; the next shard's are above."""
    unkept: Sequence[tuple[int, int]] = ()
    """Pairs: offsets between the two the shard gave out and lost, in a failover."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is owed of a room, of what one shard stored in one stay."""

    origin: ShardName
    after: int
    """How far the cursor is on that shard."""
    low: int
    """Owed is what is above both: the room was joined then, or the bucket came."""
    upto: int | None
    """Up to where; None: the shard has the bucket now."""


def find_owed(
    segments: Sequence[Segment], home: ShardName, cursor: Mapping[ShardName, int], joined: int
) -> Sequence[Stretch] | None:
    """
    Say what is owed of a room to a client that was sent everything up to *cursor*.

    Args:
        segments: oldest first.
        home: where the bucket is.
        joined: the newest offset of the room's shard when the room was joined.

    Returns:
        In the order of the room; None: that cannot be said.
    """
    shards = [*(one.shard for one in segments), home]
    begins = [0, *(one.upto for one in segments)]
    owed = []
    for place, shard in enumerate(shards):
        segment = segments[place] if place < len(segments) else None
        if segment is not None:
            # Nobody is given a position of a later shard at which something earlier is missing.
            later = zip(shards[place + 1 :], begins[place + 1 :], strict=True)
            is_behind = any(cursor.get(one, -1) >= begin for one, begin in later)
            if joined >= segment.upto or is_behind:
                continue
        after = cursor.get(shard)
        if after is None:
            if not any(earlier in cursor for earlier in shards[:place]):
                return None
            after = 0
        low = max(joined, begins[place])
        if segment is None:
            owed.append(Stretch(shard, after, low, None))
        elif max(after, low) < segment.upto:
            if any(kept < after < began for kept, began in segment.unkept):
                return None
            owed.append(Stretch(shard, after, low, segment.upto))
    return owed
