"""Who has the lead over the shards of a small cluster, and moves buckets between them."""

from __future__ import annotations

from remote.cluster import Cluster, Member, address_of
from roomful.cluster.cursor import ShardName
from roomful.control.bucket_orders import BucketOrders
from roomful.control.link import Credentials
from roomful.control.moving import Attempt, Outcome, Parcel
from roomful.control.server import Server
from support.deadline import DEADLINE_S, within

__all__ = ["S1", "S2", "Leader", "member", "other"]

S1, S2 = ShardName("s1"), ShardName("s2")


def other(name: ShardName) -> ShardName:
    """Give the other shard."""
    return S2 if name == S1 else S1


class Leader:
    """Who has the lead over both primaries."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.servers = {
            name: Server(address_of(one.primary), Credentials(), timeout_s=DEADLINE_S)
            for name, one in cluster.members.items()
        }

    async def orders(self, name: ShardName) -> BucketOrders:
        """Give what *name* is ordered, as a controller would that has just looked at it."""
        server = self.servers[name]
        await server.observe(insists=True)
        return BucketOrders(server, name, 1, acks=1)

    async def attempt(self, *buckets: int, **more: object) -> Attempt:
        """Begin to move *buckets*, all of the same shard, to the other one."""
        source = self.owner(buckets[0])
        target = other(source)
        orders = await self.orders(target)
        parcels = [Parcel(one, self.version(one), self.newest(one), orders) for one in buckets]
        return Attempt(await self.orders(source), parcels, **more)  # type: ignore[arg-type]

    async def move(self, *buckets: int, **more: object) -> Outcome:
        """Move *buckets*."""
        attempt = await self.attempt(*buckets, **more)
        return await within(attempt.run(), seconds=3 * DEADLINE_S)

    def records(self, bucket: int) -> dict[ShardName, str]:
        """Give what each shard says of a bucket."""
        members = self.cluster.members.items()
        return {name: one.calls.record(f"{{{bucket}}}") for name, one in members}

    def owner(self, bucket: int) -> ShardName:
        """Give the one shard that has it."""
        (owner,) = [name for name, one in self.records(bucket).items() if one[:5] == "OWNED"]
        return owner

    def version(self, bucket: int) -> int:
        """Give the version in which it is there."""
        return int(self.records(bucket)[self.owner(bucket)].split()[1])

    def newest(self, bucket: int) -> int:
        """Give the newest version of it that any shard remembers."""
        return max(int(record.split()[1]) for record in self.records(bucket).values())

    def close(self) -> None:
        """Let go of the lead."""
        for server in self.servers.values():
            server.close()


def member(leader: Leader, name: ShardName) -> Member:
    """Give a shard's servers."""
    return leader.cluster.members[name]
