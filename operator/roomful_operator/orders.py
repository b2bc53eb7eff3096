"""
Orders that people give by annotation: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.view import Phase, ShardStatus
from roomful.protocol.errors import RoomfulError

__all__ = ["FAILOVER", "BadOrder", "Failover", "read_failover"]

FAILOVER: Final = "roomful.dev/failover"
"""`SHARD`, or `SHARD=POD`: hand the shard's role to a replica, or to this one."""


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
