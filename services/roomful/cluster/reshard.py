"""
Which bucket moves next, and what to do about moves that somebody left unfinished: pure.

A move is an attempt of one controller, under a name of its own (`migration`), and lives in its
memory alone. What the shards' records say of a bucket is all that is needed to go on after it:

- Until the source has released the bucket (GONE), the attempt is given up: the source first, so
  that nothing can be released any more, then the target drops its copy.
- From then on it is always finished: the target has everything and becomes the owner.

Rule 1: a bucket's state follows from its records and from which attempts are under way, never from
what was ordered before.
Rule 2: each state has one row, which gives its orders. All may be repeated, and carried out or not.
Rule 3: a copy is dropped only while another shard is seen to own the bucket.

Source: docs/adr/0020-moving-a-bucket.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from roomful.cluster.bucket_facts import (
    NO_RECORD,
    Activate,
    Begin,
    BucketRecord,
    Clear,
    Drop,
    Order,
    RecordState,
    ReshardFacts,
    Thaw,
)
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import Move, moves, place

__all__ = [
    "MAX_MOVES",
    "RESHARD_TABLE",
    "BucketState",
    "ReshardPlan",
    "empty_since",
    "plan_reshard",
]

MAX_MOVES: Final = 4
"""So many buckets move at once; all of them from one shard, which is scanned once for them."""

_SETTLED: Final = (RecordState.OWNED, RecordState.MOVING)
"""Owning, and in the version in which it takes writes."""


class BucketState(Enum):
    """Where a bucket is on its way."""

    RESTING = "resting"
    MISPLACED = "misplaced"
    """It is owned, and another shard shall have it."""
    UNDER_WAY = "under way"
    """An attempt of ours moves it."""
    STRAY = "stray"
    """An attempt of nobody left its source open or frozen for it."""
    ABANDONED = "abandoned"
    """An attempt of nobody left a copy at its target; the owner knows nothing of it."""
    RELEASED = "released"
    """Its source has let go of it, and its target does not own it yet."""
    UNSEEN = "unseen"
    """No shard that can be read has it."""
    STUCK = "stuck"
    """Its records are none that any order of steps leads to: nobody touches it."""


@dataclass(frozen=True, slots=True)
class ReshardPlan:
    """What there is to do, and what the topology should say."""

    orders: tuple[Order, ...]
    """None depends on the answer to another."""
    owners: tuple[ShardName, ...]
    versions: tuple[int, ...]
    moves: tuple[Move, ...]
    """What is not where it shall be, those under way among them."""
    empty: frozenset[ShardName]
    """The shards that shall have nothing and have nothing."""
    reasons: Mapping[int, str]
    """Why nothing can be said of a bucket, or nobody touches it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """One bucket: its state, and what its row has to know."""

    bucket: int
    state: BucketState
    owner: ShardName
    """Who has it, or gets it for certain; if nobody can be seen, who had it last."""
    record: BucketRecord = NO_RECORD
    """The owner's, if it is known."""
    wanted: ShardName | None = None
    source: ShardName | None = None
    """Who has released it."""
    reason: str = ""


def plan_reshard(facts: ReshardFacts) -> ReshardPlan:
    """
    Give what has to be done next so that every bucket comes to its place.

    The same facts give the same plan; a cluster at rest has no orders. Shards that cannot be read
    or do not serve delay what concerns them, and nothing else.
    """
    places = [_locate(facts, bucket) for bucket in range(len(facts.owners))]
    current = [one.owner for one in places]
    wanted = place(facts.members, current, facts.pins)
    places = [
        replace(one, state=BucketState.MISPLACED, wanted=shall)
        if one.state is BucketState.RESTING and one.owner != shall
        else one
        for one, shall in zip(places, wanted, strict=True)
    ]
    orders = [order for one in places for order in RESHARD_TABLE[one.state](facts, one)]
    known = {one.bucket: one for one in places if one.record.state in _SETTLED}
    return ReshardPlan(
        orders=tuple(_limited(facts, orders)),
        owners=tuple(
            known[bucket].owner if bucket in known else owner
            for bucket, owner in enumerate(facts.owners)
        ),
        versions=tuple(
            known[bucket].record.version if bucket in known else version
            for bucket, version in enumerate(facts.versions)
        ),
        moves=moves(current, wanted),
        empty=frozenset(_empty(facts, places)),
        reasons={one.bucket: one.reason for one in places if one.reason},
    )


def empty_since(
    before: Mapping[ShardName, int],
    plan: ReshardPlan,
    draining: Collection[ShardName],
    now: Mapping[ShardName, int],
) -> dict[ShardName, int]:
    """
    Give since when each drained shard has had nothing, by its own clock (*now*).

    A shard that cannot be read for a moment, or another one, does not begin its time anew: nobody
    gets a bucket of which no plan said so. Having one again does, and so does a drain called off,
    or a clock that was set back, or is another server's: nobody waits until a time far ahead.
    """
    named = set(plan.owners)
    kept = {
        name: min(at, now.get(name, at))
        for name, at in before.items()
        if name in draining and name not in named
    }
    return {name: now[name] for name in sorted(plan.empty & now.keys())} | kept


# The table --------------------------------------------------------------------------------------


def _nothing(_facts: ReshardFacts, _place: _Place) -> Iterator[Order]:
    yield from ()


def _tidy(facts: ReshardFacts, place: _Place) -> Iterator[Order]:
    for shard, record in _records(facts, place.bucket):
        known = (shard, place.bucket, record.migration) in facts.cleared
        if record.state is RecordState.GONE and shard in facts.serving and not known:
            yield Clear(place.bucket, shard, record.migration)


def _move(facts: ReshardFacts, place: _Place) -> Iterator[Order]:
    assert place.wanted is not None
    if {place.owner, place.wanted} <= facts.serving:
        bucket, records = place.bucket, dict(_records(facts, place.bucket))
        newest = max(record.version for record in records.values())
        # A copy is never without a record; what is left when an attempt is given up is GONE.
        there = records.get(place.wanted)
        is_clear = there is not None and (
            there.state is RecordState.NONE
            or (place.wanted, bucket, there.migration) in facts.cleared
        )
        yield Begin(bucket, place.owner, place.wanted, place.record.version, newest, is_clear)


def _give_up(facts: ReshardFacts, place: _Place) -> Iterator[Order]:
    if place.owner in facts.serving:
        yield Thaw(place.bucket, place.owner, place.record.migration)


def _forget_copies(facts: ReshardFacts, place: _Place) -> Iterator[Order]:
    for shard, record in _records(facts, place.bucket):
        if record.state is RecordState.IMPORTING and shard in facts.serving:
            yield Drop(place.bucket, shard, record.migration)


def _finish(facts: ReshardFacts, place: _Place) -> Iterator[Order]:
    assert place.source is not None
    if {place.source, place.owner} <= facts.serving:
        released = facts.records[place.source][place.bucket]
        yield Activate(
            place.bucket, place.source, place.owner, released.migration, released.version
        )


_S = BucketState
RESHARD_TABLE: Final[dict[BucketState, Callable[[ReshardFacts, _Place], Iterator[Order]]]] = {
    _S.RESTING: _tidy,
    _S.MISPLACED: _move,
    _S.UNDER_WAY: _nothing,
    _S.STRAY: _give_up,
    _S.ABANDONED: _forget_copies,
    _S.RELEASED: _finish,
    _S.UNSEEN: _nothing,
    _S.STUCK: _nothing,
}


# Where a bucket is ------------------------------------------------------------------------------


def _locate(facts: ReshardFacts, bucket: int) -> _Place:
    records = _records(facts, bucket)
    owning = [(shard, record) for shard, record in records if record.is_owning]
    if any(record.migration in facts.under_way for _, record in records):
        return _Place(bucket, _S.UNDER_WAY, _heir(facts, bucket, owning))
    if len(owning) > 1:
        # Shards are read one after the other: mostly it is over at the next look.
        names = " and ".join(shard for shard, _ in owning)
        return _Place(bucket, _S.STUCK, facts.owners[bucket], reason=f"{names} have it")
    if owning:
        ((shard, record),) = owning
        return _Place(bucket, _state_of(record, records), shard, record)
    return _locate_released(facts, bucket, records)


def _state_of(
    owner: BucketRecord, records: Sequence[tuple[ShardName, BucketRecord]]
) -> BucketState:
    if owner.state is not RecordState.OWNED:
        return _S.STRAY
    if any(record.state is RecordState.IMPORTING for _, record in records):
        return _S.ABANDONED
    return _S.RESTING


def _locate_released(
    facts: ReshardFacts, bucket: int, records: Sequence[tuple[ShardName, BucketRecord]]
) -> _Place:
    by_shard = dict(records)
    for shard, record in records:
        if record.state is not RecordState.GONE or record.other not in by_shard:
            continue
        copy = by_shard[record.other]
        is_meant = copy.state is RecordState.IMPORTING and copy.migration == record.migration
        if is_meant and copy.is_whole:
            return _Place(bucket, _S.RELEASED, record.other, source=shard)
        if is_meant:
            reason = f"{shard} released it, and {record.other} does not have all of it"
            return _Place(bucket, _S.STUCK, facts.owners[bucket], reason=reason)
    if unread := facts.shards - facts.records.keys():
        reason = f"{', '.join(sorted(unread))} cannot be read"
        return _Place(bucket, _S.UNSEEN, facts.owners[bucket], reason=reason)
    return _Place(bucket, _S.STUCK, facts.owners[bucket], reason="no shard has it")


def _heir(
    facts: ReshardFacts, bucket: int, owning: Sequence[tuple[ShardName, BucketRecord]]
) -> ShardName:
    """Give who has a bucket that moves now: its target from the release on."""
    if owning:
        return owning[0][0]
    for _, record in _records(facts, bucket):
        if (
            record.state is RecordState.GONE
            and record.migration in facts.under_way
            and record.other
        ):
            return record.other
    return facts.owners[bucket]


def _records(facts: ReshardFacts, bucket: int) -> list[tuple[ShardName, BucketRecord]]:
    return [(shard, records[bucket]) for shard, records in sorted(facts.records.items())]


# How much at once -------------------------------------------------------------------------------


def _limited(facts: ReshardFacts, orders: Sequence[Order]) -> Sequence[Order]:
    """Give the mending first and at any time, then moves, then what is only tidy."""
    mending = [order for order in orders if not isinstance(order, Begin | Clear)]
    if mending or facts.under_way:
        return mending
    begins = [order for order in orders if isinstance(order, Begin)]
    if begins:
        waiting = Counter(order.source for order in begins)
        source = min(waiting, key=lambda name: (name in facts.members, -waiting[name], name))
        return [order for order in begins if order.source == source][:MAX_MOVES]
    return orders


def _empty(facts: ReshardFacts, places: Sequence[_Place]) -> Iterator[ShardName]:
    if any(one.state not in (_S.RESTING, _S.MISPLACED) for one in places):
        return
    for shard in sorted(facts.shards - facts.members):
        is_named = shard in facts.owners or any(one.owner == shard for one in places)
        if shard in facts.records and not is_named:
            yield shard
