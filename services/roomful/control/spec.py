"""What a controller is told, and what it says: a cluster's specification, its pace, its status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address, Topology
from roomful.control.resharding import QUIET_S
from roomful.control.view import Phase, ShardStatus

__all__ = ["ClusterSpec", "ClusterStatus", "Pace"]


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What the cluster shall be; whoever runs the controller may replace it at any time."""

    shards: Mapping[ShardName, tuple[Address, ...]]
    """The servers of each shard; of a new one the first becomes the primary."""
    acks: int = 0
    """Of a new cluster: how many replicas have a message before it is acknowledged."""
    is_fsynced: bool = False
    """Of a new cluster: whether they have it on disk by then."""

    has_begun: bool = False
    """
    Whether it has a topology, which is waited for when no server that answers knows it. Without
    that a controller that sees only servers which are new to it would begin another cluster.
    """

    @classmethod
    def of(cls, topology: Topology) -> ClusterSpec:
        """Give the specification that *topology* fulfils."""
        shards = {
            name: (record.primary, *record.replicas) for name, record in topology.shards.items()
        }
        return cls(shards, topology.acks, topology.is_fsynced)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the controller looks, and how patient it is; all in seconds."""

    interval_s: float = 0.5
    """Between two passes with nothing to do."""
    step_s: float = 0.05
    """Between two passes when the first has changed something."""
    timeout_s: float = 1.0
    """For one answer of a server."""
    fail_after_s: float = 3.0
    """After so long without an answer a primary is replaced."""
    quiet_s: float = QUIET_S
    """A drained shard stays so long with nothing before it leaves."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What one pass has found."""

    is_leading: bool = False
    """Whether this controller may order anything; if not, another one does."""
    topology: Topology | None = None
    shards: Mapping[ShardName, ShardStatus] = field(default_factory=dict)
    unreachable: Mapping[Address, str] = field(default_factory=dict)

    @property
    def is_serving(self) -> bool:
        """Whether every shard takes writes and can acknowledge them."""
        return self.topology is not None and all(
            shard.phase is Phase.SERVING for shard in self.shards.values()
        )
