"""Shards with replicas, writers, and controllers that die: all that happens to moving buckets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

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
from roomful.cluster.reshard import ReshardPlan, plan_reshard

__all__ = ["Attempt", "World"]

S = RecordState


@dataclass(slots=True)
class Server:
    """What a server of a shard has of each bucket: the record, and how many messages."""

    records: list[BucketRecord]
    stored: list[int]

    def copy(self) -> Server:
        """Give one that has the same."""
        return Server(list(self.records), list(self.stored))


@dataclass(slots=True)
class Attempt:
    """A move that the living controller makes, and its next step."""

    begin: Begin
    migration: str
    step: int = 0


@dataclass(slots=True)
class World:
    """Some buckets on some shards; each shard has a primary and what its replicas have of it."""

    # Mutable state: all of it.
    random: Random
    members: frozenset[ShardName]
    owners: list[ShardName]
    pins: dict[int, ShardName] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    primaries: dict[ShardName, Server] = field(default_factory=dict)
    replicas: dict[ShardName, Server] = field(default_factory=dict)
    hidden: set[ShardName] = field(default_factory=set)
    attempts: list[Attempt] = field(default_factory=list)
    cleared: set[tuple[ShardName, int, str]] = field(default_factory=set)
    acked: list[int] = field(default_factory=list)
    begun: int = 0
    waits: bool = True
    """Whether a controller waits for replicas before it goes on."""

    def __post_init__(self) -> None:
        self.versions = [1] * len(self.owners)
        self.acked = [0] * len(self.owners)
        for shard in sorted({*self.members, *self.owners}):
            self.add(shard)

    def add(self, shard: ShardName) -> None:
        """Begin a shard."""
        records = [
            BucketRecord(S.OWNED, 1) if owner == shard else NO_RECORD for owner in self.owners
        ]
        self.primaries[shard] = Server(records, [0] * len(records))
        self.replicas[shard] = self.primaries[shard].copy()

    # What the controller does ---------------------------------------------------------------

    def plan(self) -> ReshardPlan:
        """Look at what can be seen."""
        seen = frozenset(self.primaries.keys() - self.hidden)
        return plan_reshard(
            ReshardFacts(
                owners=self.owners,
                versions=self.versions,
                shards=frozenset(self.primaries),
                members=self.members,
                records={shard: self.primaries[shard].records for shard in seen},
                serving=seen,
                under_way=frozenset(one.migration for one in self.attempts),
                pins=self.pins,
                cleared=frozenset(self.cleared),
            )
        )

    def look_after(self, *, orders: int = 1000) -> ReshardPlan:
        """Make a pass, and die after so many orders."""
        plan = self.plan()
        for order in plan.orders[:orders]:
            self.obey(order)
        if len(plan.orders) <= orders:
            self.owners, self.versions = list(plan.owners), list(plan.versions)
        return plan

    def obey(self, order: Order) -> None:
        """Carry an order out, with the guards that the shards have."""
        match order:
            case Begin():
                self.begun += 1
                self.attempts.append(Attempt(order, f"m{self.begun}"))
            case Thaw(bucket, shard, migration):
                self.thaw(bucket, shard, migration)
            case Drop(bucket, shard, migration):
                record = self.record(shard, bucket)
                if record.state is S.IMPORTING and record.migration == migration:
                    self.put(shard, bucket, replace(record, state=S.GONE, is_whole=False))
            case Activate(bucket, source, target, migration, version):
                self.wait(source)
                self.activate(bucket, target, migration, version)
            case Clear(bucket, shard, migration):
                record = self.record(shard, bucket)
                assert (record.state, record.migration) == (S.GONE, migration)
                self.primaries[shard].stored[bucket] = 0
                self.cleared.add((shard, bucket, migration))

    def advance(self, attempt: Attempt) -> None:
        """Take an attempt's next step; one that is refused ends it."""
        steps = (
            *(self._move, self._begin_import, self._freeze, self._complete),
            *(self._release, self._activate),
        )
        is_hidden = {attempt.begin.source, attempt.begin.target} & self.hidden
        if is_hidden or not steps[attempt.step](attempt):
            self.attempts.remove(attempt)
            return
        attempt.step += 1
        if attempt.step == len(steps):
            self.attempts.remove(attempt)

    def _move(self, one: Attempt) -> bool:
        begin, record = one.begin, self.record(one.begin.source, one.begin.bucket)
        if record != BucketRecord(S.OWNED, begin.version):
            return False
        moving = BucketRecord(S.MOVING, begin.newest, one.migration, begin.target)
        self.put(begin.source, begin.bucket, moving)
        return True

    def _begin_import(self, one: Attempt) -> bool:
        begin, record = one.begin, self.record(one.begin.target, one.begin.bucket)
        if record.state not in (S.NONE, S.GONE) or record.version > begin.newest:
            return False
        copy = BucketRecord(S.IMPORTING, begin.newest, one.migration, begin.source)
        self.put(begin.target, begin.bucket, copy)
        return True

    def _freeze(self, one: Attempt) -> bool:
        begin, record = one.begin, self.record(one.begin.source, one.begin.bucket)
        if record.state is not S.MOVING or record.migration != one.migration:
            return False
        frozen = replace(record, state=S.FROZEN, version=record.version + 1)
        self.put(begin.source, begin.bucket, frozen)
        return True

    def _complete(self, one: Attempt) -> bool:
        begin = one.begin
        source, target = (
            self.record(shard, begin.bucket) for shard in (begin.source, begin.target)
        )
        if target.state is not S.IMPORTING or target.migration != one.migration:
            return False
        if source.migration != one.migration:
            return False  # what was not copied yet cannot be read any more
        stored = self.primaries[begin.source].stored[begin.bucket]
        self.primaries[begin.target].stored[begin.bucket] = stored
        self.put(begin.target, begin.bucket, replace(target, is_whole=True))
        self.wait(begin.target)
        return True

    def _release(self, one: Attempt) -> bool:
        begin, record = one.begin, self.record(one.begin.source, one.begin.bucket)
        if record.state is not S.FROZEN or record.migration != one.migration:
            return False
        gone = replace(record, state=S.GONE, version=record.version + 1)
        self.put(begin.source, begin.bucket, gone)
        return True

    def _activate(self, one: Attempt) -> bool:
        begin, record = one.begin, self.record(one.begin.source, one.begin.bucket)
        if record.state is not S.GONE or record.migration != one.migration:
            return False
        self.wait(begin.source)
        self.activate(begin.bucket, begin.target, one.migration, record.version)
        return True

    # What shards do -------------------------------------------------------------------------

    def record(self, shard: ShardName, bucket: int) -> BucketRecord:
        """Give the record of a primary."""
        return self.primaries[shard].records[bucket]

    def put(self, shard: ShardName, bucket: int, record: BucketRecord) -> None:
        """Write a record; replicas may get it, or not yet."""
        self.primaries[shard].records[bucket] = record
        if self.random.random() < 0.5:
            self.replicate(shard)

    def thaw(self, bucket: int, shard: ShardName, migration: str) -> None:
        """Give up an attempt at its source."""
        record = self.record(shard, bucket)
        if record.state in (S.MOVING, S.FROZEN) and record.migration == migration:
            raised = record.version + (record.state is S.FROZEN)
            self.put(shard, bucket, BucketRecord(S.OWNED, raised))

    def activate(self, bucket: int, shard: ShardName, migration: str, version: int) -> None:
        """Let a target own what it has."""
        record = self.record(shard, bucket)
        if record.state is S.IMPORTING and record.migration == migration and record.is_whole:
            self.put(shard, bucket, BucketRecord(S.OWNED, version))

    def replicate(self, shard: ShardName) -> None:
        """Let the replicas have everything."""
        self.replicas[shard] = self.primaries[shard].copy()

    def wait(self, shard: ShardName) -> None:
        """Have the replicas confirm."""
        if self.waits:
            self.replicate(shard)

    def fail_over(self, shard: ShardName) -> None:
        """Lose what the replicas do not have."""
        self.primaries[shard] = self.replicas[shard].copy()
        # What was deleted may be there again, so it is deleted once more in the new term.
        self.cleared = {one for one in self.cleared if one[0] != shard}

    def write(self, bucket: int) -> None:
        """Send a message; it is acknowledged when the replicas have it."""
        for shard, server in self.primaries.items():
            if server.records[bucket].state in (S.OWNED, S.MOVING):
                server.stored[bucket] = self.acked[bucket] = max(
                    server.stored[bucket] + 1, self.acked[bucket]
                )
                self.replicate(shard)

    # What happens ---------------------------------------------------------------------------

    def happen(self) -> None:
        """Let one thing happen that can happen."""
        random = self.random
        shard = random.choice(sorted(self.primaries))
        bucket = random.randrange(len(self.owners))
        events: list[Callable[[], object]] = [
            *[lambda: self.look_after(orders=random.choice((1, 2, 1000)))] * 4,
            *[lambda: self.advance(random.choice(self.attempts)) if self.attempts else None] * 8,
            *[lambda: self.write(bucket)] * 3,
            self.die,
            lambda: self.fail_over(shard),
            lambda: self.lapse(shard, bucket),
            lambda: self.hidden.symmetric_difference_update({shard}),
            self.change_mind,
        ]
        random.choice(events)()

    def die(self) -> None:
        """Let another controller take over, which knows nothing."""
        self.attempts.clear()
        self.cleared.clear()

    def lapse(self, shard: ShardName, bucket: int) -> None:
        """Let a freeze end by itself."""
        record = self.record(shard, bucket)
        if record.state is S.FROZEN:
            self.put(shard, bucket, BucketRecord(S.OWNED, record.version + 1))

    def change_mind(self) -> None:
        """Let people add or drain shards, and pin buckets."""
        everyone = sorted(self.primaries)
        if len(everyone) < 4 and self.random.random() < 0.3:
            self.add(ShardName(f"s{len(everyone) + 1}"))
        count = self.random.randint(1, len(everyone))
        self.members = frozenset(self.random.sample(everyone, count))
        self.pins = {
            self.random.randrange(len(self.owners)): self.random.choice(sorted(self.members))
        }

    # What has to be true --------------------------------------------------------------------

    def check(self) -> None:
        """At most one shard owns a bucket, and whoever does has all that was acknowledged."""
        for bucket, acked in enumerate(self.acked):
            owning = [
                shard
                for shard, server in self.primaries.items()
                if server.records[bucket].is_owning
            ]
            assert len(owning) <= 1, f"{owning} own bucket {bucket}"
            for shard in owning:
                assert self.primaries[shard].stored[bucket] >= acked, f"bucket {bucket} lacks some"

    def settle(self) -> None:
        """Let everything go well until nothing is to be done."""
        self.hidden.clear()
        for _ in range(100 * len(self.owners)):
            plan = self.look_after()
            self.check()
            if not plan.orders and not self.attempts:
                return
            for attempt in list(self.attempts):
                while attempt in self.attempts:
                    self.advance(attempt)
                    self.check()
        raise AssertionError(f"it does not end: {self.plan()}")
