"""The buckets that a shard shall own, by the topology."""

from __future__ import annotations

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Topology

__all__ = ["Owned"]


class Owned(msgspec.Struct, frozen=True):
    """The buckets of a shard, and the version of each."""

    buckets: tuple[int, ...]
    versions: tuple[int, ...]

    @classmethod
    def of(cls, topology: Topology, shard: ShardName) -> Owned:
        """Give what *topology* says that *shard* owns."""
        buckets = topology.buckets_of(shard)
        return cls(buckets, tuple(topology.versions[bucket] for bucket in buckets))
