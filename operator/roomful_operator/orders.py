"""
Orders that people give by annotation: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS
from roomful.cluster.requests import PinBucket, take_up
from roomful.cluster.topology import Address, Topology
from roomful.control.view import Phase, ShardStatus
from roomful.protocol.errors import RoomfulError

__all__ = [
    "CHANGE_PASSWORDS",
    "FAILOVER",
    "MOVE_BUCKET",
    "BadOrder",
    "Failover",
    "read_failover",
    "read_move",
]

FAILOVER: Final = "roomful.dev/failover"
"""`SHARD`, or `SHARD=POD`: hand the shard's role to a replica, or to this one."""
MOVE_BUCKET: Final = "roomful.dev/move-bucket"
"""`BUCKET=SHARD`: put the bucket on the shard, and let it stay there."""

CHANGE_PASSWORDS: Final = "roomful.dev/change-passwords"
"""Whatever its value: give edges, archiver, replicas and operator other passwords."""


class BadOrder(RoomfulError):
    """An order that cannot be carried out; the words say why."""


@dataclass(frozen=True, slots=True)
class Failover:
    """Hand the role of *shard* to *target*."""

    shard: ShardName
    target: Address
    pod: str
    """Where *target* runs."""

    def __str__(self) -> str:
        return f"{self.shard} has been handed to {self.pod}"


def read_failover(
    document: Mapping[str, Any],
    shards: Mapping[ShardName, ShardStatus],
    addresses: Mapping[str, str],
) -> Failover | None:
    """
    Give the order that a RoomfulCluster carries; None: none.

    Args:
        shards: how each shard is.
        addresses: of each server, by its pod's name.

    Raises:
        BadOrder: there is no such shard, or no such replica that follows.
    """
    order = (document["metadata"].get("annotations") or {}).get(FAILOVER)
    if not order:
        return None
    name, _, pod = order.partition("=")
    status = shards.get(ShardName(name))
    if status is None:
        raise BadOrder(f"there is no shard {name}")
    if status.phase is not Phase.SERVING:
        raise BadOrder(f"{name} is {status.phase}: {status.reason}")
    if pod and pod not in addresses:
        raise BadOrder(f"{name} has no server {pod}")
    names = {address: name for name, address in addresses.items()}
    for replica in status.online:
        if not pod or replica.host == addresses[pod]:
            return Failover(status.name, replica, names.get(replica.host, str(replica)))
    raise BadOrder(f"{pod or 'no server'} is no replica of {name} that follows its primary")


def read_move(
    document: Mapping[str, Any], shards: Mapping[ShardName, ShardStatus], topology: Topology | None
) -> PinBucket | None:
    """
    Give the move of a bucket that a RoomfulCluster carries; None: none.

    Args:
        shards: how each shard is.
        topology: None while it is not known.

    Raises:
        BadOrder: it is not `BUCKET=SHARD`, or a shard does not serve.
        CannotBe: the cluster as it is refuses it.
    """
    order = (document["metadata"].get("annotations") or {}).get(MOVE_BUCKET)
    if not order:
        return None
    bucket, _, name = order.partition("=")
    if not (bucket.isascii() and bucket.isdecimal() and len(bucket) <= len(str(BUCKETS)) and name):
        raise BadOrder(f"{order} is not BUCKET=SHARD")
    if topology is None:
        raise BadOrder("the cluster has no topology yet")
    for status in shards.values():
        if status.phase is not Phase.SERVING:
            raise BadOrder(f"{status.name} is {status.phase}: {status.reason}")
    request = PinBucket(int(bucket), ShardName(name))
    take_up(topology, request)
    return request
