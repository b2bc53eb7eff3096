"""
Carries out what cluster/reshard.py and cluster/requests.py decide, beside a controller's passes.

What takes long (a move, a deletion) is one task at a time, so that a pass is never late for a
failover. Nothing that it knows matters: the next controller finds everything in the records.

A shard that is drained leaves the topology when it owns nothing, its outbox is empty (the archive
has everything that was stored there), and edges have had QUIET_S to hear it to the end. Since when
it owns nothing is in the topology: a controller that is killed does not make it stay longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from roomful.cluster.bucket_facts import (
    Activate,
    BadRecord,
    Begin,
    BucketRecord,
    Clear,
    Drop,
    Order,
    ReshardFacts,
    Thaw,
    parse_record,
)
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS
from roomful.cluster.requests import CannotBe, decode_request, take_up
from roomful.cluster.reshard import ReshardPlan, empty_since, plan_reshard
from roomful.cluster.topology import Address, Topology
from roomful.control.bucket_orders import BucketOrders
from roomful.control.link import ServerUnreachable
from roomful.control.moving import Attempt, Parcel, finish
from roomful.control.observation import Observation
from roomful.control.server import OrderRefused, Server
from roomful.control.view import Phase, ShardStatus

__all__ = ["QUIET_S", "Resharding"]

logger = logging.getLogger("roomful.control")

QUIET_S: Final = 10.0
"""A drained shard stays so long with nothing: what edges still fetch there is fetched by then."""

LOOK_S: Final = 10.0
"""So often all records are read when nothing is known to have changed."""

PAUSE_S: Final = 1.0
"""After an attempt in which some bucket stayed where it was."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What decides whether the records have to be read again."""

    generation: int
    terms: tuple[tuple[ShardName, int], ...]
    serving: frozenset[ShardName]


class Resharding:
    """The moves of one controller."""

    # Mutable state: what is done now, what is known to be deleted and in which term, and what was
    # looked at last, when, and with what result.
    def __init__(
        self,
        servers: Mapping[Address, Server],
        publish: Callable[[Topology, Iterable[ShardName]], Awaitable[None]],
        *,
        quiet_s: float = QUIET_S,
        on_done: Callable[[], None] = lambda: None,
        on_moved: Callable[[float], None] = lambda _closed_s: None,
    ) -> None:
        """
        Use the connections of *servers*.

        Args:
            publish: keeps a topology, first on the shards that it is about.
            on_done: called when a next step may be possible.
            on_moved: called for each bucket that has moved, with the seconds that it was closed.
        """
        self._servers = servers
        self._publish = publish
        self._quiet_s = quiet_s
        self._on_done = on_done
        self._on_moved = on_moved
        self._task: asyncio.Task[None] | None = None
        self._cleared: set[tuple[ShardName, int, int, str]] = set()
        self._looked: tuple[_Look, float] | None = None
        self._plan: ReshardPlan | None = None
        self._not_before = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether something is being done now."""
        return self._task is not None and not self._task.done()

    async def aclose(self) -> None:
        """End as the death of the controller would: everything is as it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._looked = self._plan = None

    # A pass ---------------------------------------------------------------------------------

    async def look_after(
        self,
        topology: Topology,
        seen: Mapping[Address, Observation],
        shards: Mapping[ShardName, ShardStatus],
    ) -> None:
        """
        Take up what people ask, and begin what has to be done next.

        Raises:
            ServerUnreachable, OrderRefused: a shard could not be asked; the next pass does it.
        """
        topology = await self._take_up(topology, seen)
        if self.is_busy or not self._is_due(topology, shards):
            return
        after = await self._plan_next(topology, seen, shards)
        if after == topology:
            return
        pairs = zip(topology.buckets, after.buckets, strict=True)
        concerned = {name for pair in pairs if pair[0] != pair[1] for name in pair}
        first = sorted((concerned or after.shards.keys()) & after.shards.keys())
        await self._publish(_next(topology, after), first)

    async def _take_up(self, topology: Topology, seen: Mapping[Address, Observation]) -> Topology:
        """Let the topology say what people want; what they left is forgotten after that."""
        left: dict[ShardName, Mapping[bytes, bytes]] = {}
        for name, record in topology.shards.items():
            one = seen.get(record.primary)
            if one is not None and one.state.requests:
                left[name] = await self._servers[record.primary].requests()
        # In the order in which they were left, wherever that was.
        pairs = sorted(pair for requests in left.values() for pair in requests.items())
        wanted = _taken_up(topology, [document for _, document in pairs])
        if wanted is not topology:
            topology = _next(topology, wanted)
            await self._publish(topology, left)
        for name, requests in left.items():
            await self._servers[topology.shards[name].primary].forget_requests(list(requests))
        return topology

    async def _plan_next(
        self,
        topology: Topology,
        seen: Mapping[Address, Observation],
        shards: Mapping[ShardName, ShardStatus],
    ) -> Topology:
        """Begin what has to be done next, and give what the topology should be."""
        serving = _serving(topology, shards)
        records = await self._read(topology, seen)
        facts = _facts(topology, serving, records, self._known(topology))
        self._plan = plan = plan_reshard(facts)
        if plan.reasons:
            bucket, why = next(iter(plan.reasons.items()))
            logger.warning(
                "buckets wait",
                extra={"buckets": len(plan.reasons), "first": bucket, "why": why},
            )
        if plan.orders:
            self._begin(topology, plan)
        changed = msgspec.structs.replace(topology, buckets=plan.owners, versions=plan.versions)
        return await self._without_drained(changed, plan, seen)

    def _is_due(self, topology: Topology, shards: Mapping[ShardName, ShardStatus]) -> bool:
        now = asyncio.get_running_loop().time()
        terms = tuple((name, record.term) for name, record in sorted(topology.shards.items()))
        look = _Look(topology.generation, terms, _serving(topology, shards))
        if now < self._not_before:
            return False
        plan = self._plan
        is_at_rest = plan is not None and not (
            plan.orders or plan.moves or plan.reasons or topology.intents.draining
        )
        if self._looked is not None and is_at_rest:
            before, at = self._looked
            if before == look and now < at + LOOK_S:
                return False
        self._looked = (look, now)
        return True

    async def _read(
        self, topology: Topology, seen: Mapping[Address, Observation]
    ) -> dict[ShardName, Sequence[BucketRecord]]:
        """Read all records of the shards whose primary is the recorded one."""
        found: dict[ShardName, Sequence[BucketRecord]] = {}

        async def read(name: ShardName) -> None:
            record = topology.shards[name]
            one = seen.get(record.primary)
            if one is None or (one.state.name, one.state.term) != (name, record.term):
                return
            try:
                texts = await self._servers[record.primary].records(range(BUCKETS))
                found[name] = [parse_record(text) for text in texts]
            except (ServerUnreachable, OrderRefused, BadRecord) as exc:
                logger.warning("records not read", extra={"shard": name, "why": str(exc)})

        async with asyncio.TaskGroup() as group:
            for name in topology.shards:
                group.create_task(read(name))
        return found

    def _known(self, topology: Topology) -> frozenset[tuple[ShardName, int, str]]:
        """Give what was deleted in the terms of now: a failover can bring it back."""
        return frozenset(
            (shard, bucket, migration)
            for shard, term, bucket, migration in self._cleared
            if shard in topology.shards and topology.shards[shard].term == term
        )

    async def _without_drained(
        self, topology: Topology, plan: ReshardPlan, seen: Mapping[Address, Observation]
    ) -> Topology:
        """Take out a shard that has had nothing for long enough, or note since when it has."""
        intents = topology.intents
        now_ms = {
            name: one.now_ms
            for name in intents.draining
            if (one := seen.get(topology.shards[name].primary)) is not None
        }
        since_ms = empty_since(intents.emptied, plan, intents.draining, now_ms)
        for name in sorted(plan.empty & since_ms.keys() & now_ms.keys()):
            if now_ms[name] < since_ms[name] + self._quiet_s * 1000:
                continue
            left = await self._servers[topology.shards[name].primary].outbox()
            if left:
                logger.info("drained shard waits", extra={"shard": name, "not archived": left})
                continue
            logger.info("shard leaves", extra={"shard": name})
            return _without(topology, name)
        if since_ms == intents.emptied:
            return topology
        changed = msgspec.structs.replace(intents, emptied=since_ms)
        return msgspec.structs.replace(topology, intents=changed)

    # What takes long ------------------------------------------------------------------------

    def _begin(self, topology: Topology, plan: ReshardPlan) -> None:
        try:
            orders = {
                name: self._orders(topology, name)
                for name in sorted({name for order in plan.orders for name in _concerned(order)})
            }
        except ServerUnreachable as exc:
            logger.info("not begun", extra={"why": str(exc)})
            return
        self._task = asyncio.create_task(self._carry_out(plan.orders, orders, topology))

    def _orders(self, topology: Topology, name: ShardName) -> BucketOrders:
        record = topology.shards[name]
        return BucketOrders(
            self._servers[record.primary],
            name,
            record.term,
            acks=topology.acks,
            is_fsynced=topology.is_fsynced,
        )

    async def _carry_out(
        self,
        orders: Sequence[Order],
        shards: Mapping[ShardName, BucketOrders],
        topology: Topology,
    ) -> None:
        try:
            for order in orders:
                await _mend(order, shards)
            await self._move([one for one in orders if isinstance(one, Begin)], shards, topology)
            await self._clear([one for one in orders if isinstance(one, Clear)], shards, topology)
        except (ServerUnreachable, OrderRefused) as exc:
            logger.warning("not done", extra={"why": str(exc)})
            self._not_before = asyncio.get_running_loop().time() + PAUSE_S
        finally:
            self._on_done()

    async def _move(
        self, begins: Sequence[Begin], shards: Mapping[ShardName, BucketOrders], topology: Topology
    ) -> None:
        if not begins:
            return
        source = begins[0].source
        parcels = [
            Parcel(one.bucket, one.version, one.newest, shards[one.target], is_clear=one.is_clear)
            for one in begins
        ]
        attempt = Attempt(shards[source], parcels)
        try:
            outcome = await attempt.run()
        finally:
            # Also of an attempt that ends in its middle.
            for pause_ms in attempt.progress.pauses_ms.values():
                self._on_moved(pause_ms / 1000)
        term = topology.shards[source].term
        if not outcome.uncleared:
            for bucket in outcome.moved:
                self._cleared.add((source, term, bucket, attempt.migration))
        if outcome.kept or outcome.unsettled:
            why = next(iter((*outcome.unsettled.values(), *outcome.kept.values())))
            logger.warning("attempt not finished", extra={"moved": len(outcome.moved), "why": why})
            self._not_before = asyncio.get_running_loop().time() + PAUSE_S

    async def _clear(
        self, clears: Sequence[Clear], shards: Mapping[ShardName, BucketOrders], topology: Topology
    ) -> None:
        for shard in sorted({one.shard for one in clears}):
            migrations = {one.bucket: one.migration for one in clears if one.shard == shard}
            count = await shards[shard].clear(migrations)
            logger.info(
                "left-over deleted",
                extra={"shard": shard, "buckets": len(migrations), "keys": count},
            )
            term = topology.shards[shard].term
            self._cleared |= {(shard, term, *one) for one in migrations.items()}


async def _mend(order: Order, shards: Mapping[ShardName, BucketOrders]) -> None:
    match order:
        case Thaw(bucket, shard, migration):
            await shards[shard].thaw(bucket, migration)
        case Drop(bucket, shard, migration):
            await shards[shard].drop(bucket, migration)
        case Activate(bucket, source, target, migration, version):
            await finish(shards[source], shards[target], bucket, migration, version=version)
        case Begin() | Clear():
            return
    logger.info("mended", extra={"order": repr(order)})


def _concerned(order: Order) -> tuple[ShardName, ...]:
    match order:
        case Begin() | Activate():
            return order.source, order.target
        case Thaw() | Drop() | Clear():
            return (order.shard,)


def _serving(topology: Topology, shards: Mapping[ShardName, ShardStatus]) -> frozenset[ShardName]:
    return frozenset(
        name
        for name, status in shards.items()
        if status.phase is Phase.SERVING and name in topology.shards
    )


def _facts(
    topology: Topology,
    serving: frozenset[ShardName],
    records: Mapping[ShardName, Sequence[BucketRecord]],
    cleared: frozenset[tuple[ShardName, int, str]],
) -> ReshardFacts:
    return ReshardFacts(
        owners=topology.buckets,
        versions=topology.versions,
        shards=frozenset(topology.shards),
        members=frozenset(topology.owners),
        records=records,
        serving=serving & records.keys(),
        pins=dict(topology.intents.pins),
        cleared=cleared,
    )


def _taken_up(topology: Topology, documents: Iterable[bytes]) -> Topology:
    """Give *topology* with what is asked for; what cannot be is refused in the log."""
    for document in documents:
        try:
            topology = take_up(topology, request := decode_request(document))
            logger.info("request taken up", extra={"request": repr(request)})
        except CannotBe as exc:
            logger.warning("request refused", extra={"why": str(exc)})
    return topology


def _next(topology: Topology, changed: Topology) -> Topology:
    return msgspec.structs.replace(changed, generation=topology.generation + 1)


def _without(topology: Topology, name: ShardName) -> Topology:
    intents = topology.intents.without_drain(name)
    return msgspec.structs.replace(
        topology,
        shards={one: record for one, record in topology.shards.items() if one != name},
        intents=msgspec.structs.replace(intents, retired=tuple(sorted({*intents.retired, name}))),
    )
