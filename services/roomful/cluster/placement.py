"""
Which bucket a room is in, and which shard owns each bucket: balanced, with the fewest moves.

A room's bucket is a number for life. The owner of a bucket is data: the map that is stored in the
topology decides. uhashring only proposes where a bucket without an owner goes, and which buckets
a shard with too many gives away; no edge ever asks a ring.

Source: docs/adr/0006-buckets-and-the-ring.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from zlib import crc32

from uhashring import HashRing  # type: ignore[import-untyped]  # it ships no types

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import RoomfulError

__all__ = ["BUCKETS", "UNPLACED", "Move", "Unplaceable", "bucket_of", "moves", "place"]

BUCKETS: Final = 1024
"""How many buckets there are, in each cluster and for ever: the keys of a room hold its bucket."""

UNPLACED: Final[tuple[None, ...]] = (None,) * BUCKETS
"""The map of a cluster that owns nothing yet."""

POINTS_PER_SHARD: Final = 160


class Unplaceable(RoomfulError):
    """There is no shard to place buckets on."""


@dataclass(frozen=True, slots=True)
class Move:
    """A bucket that changes its owner."""

    bucket: int
    source: ShardName
    target: ShardName


def bucket_of(name: str) -> int:
    """
    Give the bucket, 0 to 1023, of the room or the session with this *name*.

    The same on every machine and in every version. The high ten of 32 bits of the name's CRC-32
    (UTF-8; RFC 1952 section 8) times the prime next to 2**32 divided by the golden ratio: CRC
    alone is linear, and names that differ in a few bits would leave half of the buckets empty.
    A shard does not compute it; it is told.

    Raises:
        UnicodeEncodeError: *name* holds a lone surrogate, which no name of a room does.
    """
    return crc32(name.encode()) * 2_654_435_761 >> 22 & 1023


def place(
    shards: Iterable[ShardName],
    current: Sequence[ShardName | None],
    pins: Mapping[int, ShardName] | None = None,
) -> tuple[ShardName, ...]:
    """
    Give each bucket its owner among *shards*: their shares differ by at most one bucket.

    No other map as balanced as this is fewer moves away from *current*. A bucket moves only if
    its owner is not among *shards* or has more than its share. The answer depends on nothing but
    the arguments, not even on the order of *shards*; and it is the same again after any of the
    moves that lead to it, so a plan that was cut short is found again.

    Args:
        current: each bucket's owner now, None where there is none.
        pins: buckets with the owner that they shall have; another bucket goes back for each. A
            shard with more of them than its share of all gets the first ones of the ring only.

    Raises:
        Unplaceable: *shards* is empty.
    """
    names = sorted(set(shards))
    if not names:
        raise Unplaceable("there is no shard to place buckets on")
    ring = _Ring(names)
    pinned = {bucket: name for bucket, name in (pins or {}).items() if name in names}
    before = [pinned.get(bucket, owner) for bucket, owner in enumerate(current)]
    room = _shares(names, before)
    kept = _keep(ring, room, before, pinned)
    return tuple(
        _take(ring, room, bucket) if owner is None else owner for bucket, owner in enumerate(kept)
    )


def moves(current: Sequence[ShardName | None], wanted: Sequence[ShardName]) -> tuple[Move, ...]:
    """
    Give what has to move to come from *current* to *wanted*, by bucket.

    A bucket without an owner has nothing that could move. Both maps have the same length.
    """
    return tuple(
        Move(bucket, source, target)
        for bucket, (source, target) in enumerate(zip(current, wanted, strict=True))
        if source is not None and source != target
    )


def _shares(names: Sequence[ShardName], current: Sequence[ShardName | None]) -> Counter[ShardName]:
    """
    Give how many buckets each shard shall own: all the same, or one more for the first few.

    The one more goes to shards that have it already, else it would cost a move. Among those the
    name decides, not by how much they are over: that changes while a plan is being carried out.
    """
    share, left_over = divmod(len(current), len(names))
    held = Counter(current)
    by_claim = sorted(names, key=lambda name: (held[name] <= share, name))
    return Counter({name: share + (i < left_over) for i, name in enumerate(by_claim)})


def _keep(
    ring: _Ring,
    room: Counter[ShardName],
    current: Sequence[ShardName | None],
    pinned: Mapping[int, ShardName],
) -> list[ShardName | None]:
    """Give the map of what stays where it is, and take its number from *room*."""
    kept: list[ShardName | None] = [None] * len(current)
    held: dict[ShardName, list[int]] = {name: [] for name in room}
    for bucket, owner in enumerate(current):
        if owner in held:
            held[owner].append(bucket)
    for name, buckets in held.items():
        if len(buckets) > room[name]:
            buckets.sort(key=lambda bucket: (bucket not in pinned, ring.rank(bucket, name)))
        stay = buckets[: room[name]]
        room[name] -= len(stay)
        for bucket in stay:
            kept[bucket] = name
    return kept


def _take(ring: _Ring, room: Counter[ShardName], bucket: int) -> ShardName:
    """Give the first shard on the ring that has *room* for *bucket*, and take one from there."""
    name = next(name for name in ring.preferences(bucket) if room[name])
    room[name] -= 1
    return name


class _Ring:
    """
    The only use of uhashring, which has no types and some traps.

    Always a new ring, of all names at once and with equal weights: before 2.5 a ring that was
    changed kept points of before. Nodes are logical names, never addresses, and keys are str,
    since it hashes str(key). The hash is given, so that neither its default nor a build of
    OpenSSL without MD5 can change a plan.
    """

    def __init__(self, names: Sequence[ShardName]) -> None:
        self._ring = HashRing(nodes=list(names), vnodes=POINTS_PER_SHARD, hash_fn=_point)

    def preferences(self, bucket: int) -> Iterator[ShardName]:
        """Give every shard once, in the order in which the ring proposes them for *bucket*."""
        # A key that is a number can be no point of a shard's: names begin with a letter.
        names: Iterator[ShardName] = self._ring.iterate_nodes(str(bucket))
        return names

    def rank(self, bucket: int, name: ShardName) -> int:
        """Give how many shards the ring prefers to *name* for *bucket*."""
        return next(rank for rank, found in enumerate(self.preferences(bucket)) if found == name)


def _point(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
