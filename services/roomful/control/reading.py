"""
What a cluster says of itself, read without ordering anything and without asking for the lead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from roomful.cluster.bucket_facts import BadRecord, RecordState, parse_record
from roomful.cluster.cursor import ShardName
from roomful.cluster.failover import ShardState
from roomful.cluster.placement import BUCKETS
from roomful.cluster.topology import Address, BadTopology, Topology
from roomful.control.link import Credentials, ServerUnreachable
from roomful.control.observation import Observation
from roomful.control.server import OrderRefused, Server
from roomful.control.succession import plan_succession
from roomful.control.view import Phase, ShardStatus, ShardView, describe

__all__ = ["MoveUnderWay", "Reading", "read_cluster", "read_moves"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A cluster at one moment."""

    topology: Topology | None
    """The newest that any server keeps; None: none does."""
    seen: Mapping[Address, Observation] = field(default_factory=dict)
    unreachable: Mapping[Address, str] = field(default_factory=dict)
    """Why each of the others could not be read."""

    def shards(self) -> list[ShardStatus]:
        """Give how each shard is, by name."""
        if self.topology is None:
            return []
        return [self._status(name) for name in sorted(self.topology.shards)]

    def _status(self, name: ShardName) -> ShardStatus:
        """Give how a shard is; if only people can go on, the reason says how, as a controller's."""
        assert self.topology is not None
        view, record = self.view(name), self.topology.shards[name]
        # One that does not answer may be back in a moment.
        if record.primary in view.seen and not view.is_alive(record):
            plan = plan_succession(view, record, 0.0)
            if plan.state is ShardState.BLOCKED:
                return describe(view, record, Phase.BLOCKED, plan.reason)
        return describe(view, record)

    def view(self, name: ShardName) -> ShardView:
        """Give the shard *name* of the topology, as it is seen."""
        assert self.topology is not None
        record = self.topology.shards[name]
        everyone = (record.primary, *record.replicas)
        return ShardView(name, record, everyone, self.topology.acks, self.seen)


@dataclass(frozen=True, slots=True)
class MoveUnderWay:
    """A bucket that leaves its shard now."""

    bucket: int
    source: ShardName
    target: ShardName | None
    state: RecordState


async def read_moves(
    topology: Topology, credentials: Credentials | None = None, *, timeout_s: float = 2.0
) -> list[MoveUnderWay]:
    """Give the buckets that are on their way, of the shards that answer."""

    async def ask(name: ShardName) -> list[MoveUnderWay]:
        primary = topology.shards[name].primary
        server = Server(primary, credentials or Credentials(), timeout_s=timeout_s, is_reader=True)
        try:
            records = [parse_record(text) for text in await server.records(range(BUCKETS))]
        except (ServerUnreachable, OrderRefused, BadRecord):
            return []
        finally:
            server.close()
        return [
            MoveUnderWay(bucket, name, record.other, record.state)
            for bucket, record in enumerate(records)
            if record.state in (RecordState.MOVING, RecordState.FROZEN)
        ]

    found = await asyncio.gather(*map(ask, topology.shards))
    await asyncio.sleep(0)  # transports are closed by the next turn of the loop
    return sorted((one for some in found for one in some), key=lambda one: one.bucket)


async def read_cluster(
    addresses: Iterable[Address],
    credentials: Credentials | None = None,
    *,
    timeout_s: float = 2.0,
) -> Reading:
    """
    Read the cluster that the servers at *addresses* are of: one of them is enough.

    A server that does not answer is in the result; nothing is raised.
    """
    credentials = credentials or Credentials()
    topology: Topology | None = None
    seen: dict[Address, Observation] = {}
    unreachable: dict[Address, str] = {}

    async def ask(address: Address) -> Topology | None:
        server = Server(address, credentials, timeout_s=timeout_s, is_reader=True)
        try:
            seen[address] = await server.observe()
            return await server.topology() if seen[address].state.generation else None
        except (ServerUnreachable, BadTopology, OrderRefused) as exc:
            unreachable[address] = getattr(exc, "why", str(exc))
            return None
        finally:
            server.close()

    wanted = set(addresses)
    while fresh := wanted - seen.keys() - unreachable.keys():
        for found in await asyncio.gather(*map(ask, fresh)):
            if found is not None and found.newer_than(topology):
                topology = found
        if topology is not None:
            for record in topology.shards.values():
                wanted |= {record.primary, *record.replicas}
    await asyncio.sleep(0)  # transports are closed by the next turn of the loop
    return Reading(topology, seen, unreachable)
