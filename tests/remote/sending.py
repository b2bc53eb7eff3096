"""An edge's side of a cluster: who publishes on it, and whether all of that is stored."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from remote.cluster import Cluster, address_of
from roomful.cluster.placement import bucket_of
from roomful.cluster.topology import Address, ShardRecord, Topology
from roomful.protocol.errors import Refused
from roomful.shard.base import Stored
from roomful.shard.batch import PublishRules
from roomful.shard.commit import CommitLimits
from roomful.shard.directory import Directory
from roomful.shard.message import RoomId
from roomful.shard.redis import ShardOptions
from roomful.shard.redis_shards import RedisShards
from shard.recording import RecordingSink, make_envelope
from support.deadline import DEADLINE_S, until
from support.users import EDGE

__all__ = ["QUICK", "Sender", "change", "replace_primary", "rooms_of", "using"]

QUICK = ShardOptions(
    commit=CommitLimits(batch_messages=16, wait_s=0.2, publish_timeout_s=DEADLINE_S),
    rules=PublishRules(keep=1_000_000),
    call_timeout_s=DEADLINE_S,
)


@dataclass
class Sender:
    """Publishes numbered messages into rooms, one after another, and notes what becomes of them."""

    # Mutable state: everything.
    shards: RedisShards
    sent: dict[str, list[str]] = field(default_factory=dict)
    acked: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def send(self, room: str, *, is_named: bool = False) -> None:
        """Publish one more into *room*."""
        numbers = self.sent.setdefault(room, [])
        name = f"{room}-{len(numbers)}"
        numbers.append(name)

        def settle(outcome: Stored | Refused) -> None:
            if isinstance(outcome, Refused):
                self.refused.append(outcome)
            else:
                self.acked.append(name)

        self.shards.publish(make_envelope(room, name), settle, is_named=is_named)

    @property
    def settled(self) -> int:
        """How many have an answer."""
        return len(self.acked) + len(self.refused)

    async def all_settled(self) -> None:
        """Wait until each has its answer."""
        total = sum(map(len, self.sent.values()))
        await until(lambda: self.settled >= total, seconds=3 * DEADLINE_S)

    async def logs(self) -> dict[str, list[str]]:
        """Give what is stored of each room, in order."""
        found = {}
        for room in self.sent:
            stored: list[str] = []
            after: int | None = 0
            while after is not None:
                page = await self.shards.page(RoomId(room), before=None, after=after, limit=100_000)
                stored += [entry.envelope.id for entry in page.entries]
                after = page.next
            found[room] = stored
        return found

    async def check_whole(self) -> None:
        """All that was sent is stored, once and in order, and acknowledged once."""
        await self.all_settled()
        assert self.refused == []
        assert sorted(self.acked) == sorted(name for sent in self.sent.values() for name in sent)
        assert await self.logs() == self.sent


@asynccontextmanager
async def using(
    cluster: Cluster, options: ShardOptions = QUICK, *, proxy: Address | None = None
) -> AsyncIterator[RedisShards]:
    """Give an edge's shards; *proxy* stands before the first one's primary."""
    topology = cluster.topology
    assert topology is not None
    directory = Directory(
        [address_of(one.primary) for one in cluster.members.values()], EDGE, find_s=DEADLINE_S
    )
    shards = RedisShards(directory, f"edge{random.randrange(1 << 40)}", options)  # noqa: S311
    shards.attach(RecordingSink())
    if proxy is not None:
        records = {
            name: replace_primary(record, proxy) if name == "s1" else record
            for name, record in topology.shards.items()
        }
        cluster.announce(change(topology, shards=records))
    try:
        await shards.start()
        yield shards
    finally:
        await shards.aclose()
        if proxy is not None:
            assert cluster.topology is not None
            cluster.announce(change(cluster.topology, shards=topology.shards))


def replace_primary(record: ShardRecord, address: Address) -> ShardRecord:
    """Give the shard with its primary behind *address*."""
    return msgspec.structs.replace(record, primary=address)


def change(topology: Topology, **fields: object) -> Topology:
    """Give the next topology, with *fields* changed."""
    return msgspec.structs.replace(topology, generation=topology.generation + 1, **fields)


def rooms_of(shards: RedisShards, shard: str, count: int) -> list[str]:
    """Give names of *count* rooms on *shard*, never used before, each in a bucket of its own."""
    names: dict[int, str] = {}
    while len(names) < count:
        name = f"room{random.randrange(1 << 48):x}"  # noqa: S311
        if shards.shard_of(name).name == shard:
            names.setdefault(bucket_of(name), name)
    return list(names.values())
