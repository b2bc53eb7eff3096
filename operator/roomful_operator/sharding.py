"""
How many shards one cluster gets, and the way there.

The decisions are those of roomful.cluster.autoscale_shards and of resizing.py; here is what they
need to know, and the request that follows from them. Nothing that is kept here matters: an operator
that has just begun sees from the topology what is under way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from roomful.cluster.autoscale_shards import (
    ShardHistory,
    ShardLoad,
    ShardTargets,
    decide_shards,
)
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address, Topology
from roomful.control.asking import ShardUsage, leave_request, read_usage
from roomful.control.controller import Controller
from roomful.control.link import Credentials
from roomful.protocol.errors import RoomfulError
from roomful_operator.manifests.parts import SHARD_PORT
from roomful_operator.manifests.shards import member_names, set_name
from roomful_operator.reconcile import Key, Observed
from roomful_operator.resizing import Resizing, Shards, current_count, in_order, plan_shards
from roomful_operator.spec import Cluster
from roomful_operator.status import Condition

__all__ = ["ACTIVE", "Sharding"]

logger = logging.getLogger("roomful.operator")

ACTIVE: Final = "ShardAutoscalerActive"
LOOK_S: Final = 60.0
"""Shards tell their use so often: a mean over a minute is no peak."""


class Sharding:
    """The shards of one cluster, in number."""

    # Mutable state: what shards said last and when, what that came to, since when they are full or
    # nearly empty, and the number that the autoscaler has decided on.
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._usage: Mapping[ShardName, ShardUsage] = {}
        self._looked_at: float | None = None
        self._loads: tuple[ShardLoad, ...] = ()
        self._history = ShardHistory()
        self._decided: int | None = None
        self.condition = Condition(ACTIVE, False, "Disabled")
        self.resizing = Resizing(())

    async def look(
        self, cluster: Cluster, controller: Controller | None, credentials: Credentials
    ) -> None:
        """See how full shards are, when it is time, and if anything depends on it."""
        topology = controller.topology if controller else None
        if topology is None:
            return
        is_shrinking = cluster.shards.count < current_count(topology)
        if cluster.shards.autoscaling is None and not is_shrinking:
            return
        now, is_known = self._now(), topology.owners == tuple(one.name for one in self._loads)
        if is_known and self._looked_at is not None and now < self._looked_at + LOOK_S:
            return
        try:
            usage = await read_usage(topology, credentials)
        except (RoomfulError, KeyError, ValueError) as exc:
            logger.info("shards not asked", extra={"cluster": cluster.name, "why": str(exc)})
            self._loads = ()
            return
        passed_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._loads = tuple(
            ShardLoad(name, usage[name].memory, _cpu(self._usage.get(name), usage[name], passed_s))
            for name in topology.owners
        )
        self._usage, self._looked_at = usage, now

    def plan(
        self,
        cluster: Cluster,
        previous: Mapping[str, Any],
        observed: Observed,
        controller: Controller | None,
        *,
        is_calm: bool,
    ) -> tuple[ShardName, ...]:
        """
        Give the shards that shall have objects, and find what is to be asked.

        Args:
            previous: the status of the last pass.
            is_calm: nothing is rolled, moved or broken.
        """
        topology = controller.topology if controller else None
        if controller is None or topology is None:
            self.resizing = Resizing(_begun_with(cluster, previous, observed))
            return self.resizing.names
        shards = Shards(
            controller.status.shards if controller.status.is_leading else {},
            _ready(cluster, observed, topology),
            self._memory,
        )
        wanted = self._wanted(cluster, topology, is_calm=is_calm)
        self.resizing = plan_shards(wanted, topology, shards)
        return self.resizing.names

    async def ask(
        self, cluster: Cluster, controller: Controller | None, credentials: Credentials
    ) -> None:
        """Leave the request that was planned; one that cannot be left is planned again."""
        request = self.resizing.request
        if request is None or controller is None or controller.topology is None:
            return
        try:
            await leave_request(controller.topology, request, credentials)
        except RoomfulError as exc:
            logger.warning("not asked", extra={"cluster": cluster.name, "why": str(exc)})
            return
        logger.info("asked", extra={"cluster": cluster.name, "request": repr(request)})

    @property
    def _memory(self) -> Mapping[ShardName, float]:
        return {ShardName(load.name): load.memory for load in self._loads}

    def _wanted(self, cluster: Cluster, topology: Topology, *, is_calm: bool) -> int:
        scaling, current = cluster.shards.autoscaling, current_count(topology)
        if scaling is None:
            self._history, self._decided = ShardHistory(), None
            self.condition = Condition(ACTIVE, False, "Disabled")
            return cluster.shards.count
        if self._decided == current:
            self._history, self._decided = ShardHistory(), None
        within = min(max(current, scaling.min_count), scaling.max_count)
        if within != current or self._decided is not None:
            wanted = within if self._decided is None else self._decided
            wanted = min(max(wanted, scaling.min_count), scaling.max_count)
            message = f"{wanted} shards, of {scaling.min_count} to {scaling.max_count}"
            self.condition = Condition(ACTIVE, True, "Changing", message)
            return wanted
        if not is_calm:
            # What is measured meanwhile is not what the shards will have to do.
            self._history = ShardHistory()
            self.condition = Condition(ACTIVE, True, "Waiting", "something else changes")
            return current
        if {load.name for load in self._loads} != set(topology.owners):
            self.condition = Condition(
                ACTIVE, False, "MetricsMissing", "shards do not tell their use"
            )
            return current
        targets = ShardTargets(
            *(scaling.min_count, scaling.max_count),
            out_after_s=scaling.scale_out_after_seconds,
            in_after_s=scaling.scale_in_after_seconds,
        )
        decision = decide_shards(targets, self._loads, self._now(), self._history)
        self._history = decision.history
        self.condition = Condition(ACTIVE, True, decision.reason, decision.message)
        if decision.count != current:
            self._decided = decision.count
        return decision.count


def _begun_with(
    cluster: Cluster, previous: Mapping[str, Any], observed: Observed
) -> tuple[ShardName, ...]:
    """
    Give the shards while no topology is known: those of a former pass, or as many as are wanted.

    Each may own rooms, or have been given its buckets already; another number waits.
    """
    known = {ShardName(shard["name"]) for shard in previous.get("shards", ())}
    return in_order(known | observed.shards) or cluster.shards.names


def _ready(
    cluster: Cluster, observed: Observed, topology: Topology
) -> dict[ShardName, tuple[Address, ...]]:
    """Give the servers of the shards that are in no topology and could be."""
    found = {}
    for name in observed.shards - topology.shards.keys():
        live = observed.objects[Key("StatefulSet", set_name(cluster, name))]
        members = member_names(cluster, name)
        addresses = observed.addresses(members)
        is_ready = live.get("status", {}).get("readyReplicas", 0) == len(members)
        if is_ready and len(addresses) == len(members):
            found[name] = tuple(Address(addresses[one], SHARD_PORT) for one in members)
    return found


def _cpu(before: ShardUsage | None, now: ShardUsage, passed_s: float) -> float:
    if before is None or before.run_id != now.run_id or passed_s <= 0:
        return 0.0
    return max(0.0, now.cpu_s - before.cpu_s) / passed_s
