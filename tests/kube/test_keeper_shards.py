"""Shards by number, with real servers: they come and go whoever is at work, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.driving import Driven
from control.servers import Fleet, running_fleet
from kube.objects import cluster
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Topology
from roomful.control.controller import Controller
from roomful.control.link import Credentials
from roomful.control.spec import ClusterSpec, Pace
from roomful_operator import sharding
from roomful_operator.reconcile import Key, Observed
from roomful_operator.sharding import Sharding
from support.deadline import DEADLINE_S

SOME = 12
"""Buckets: three rounds of four."""
PACE = Pace(interval_s=0.05, step_s=0.0, quiet_s=0.0)


class Operator:
    """What an operator does about shards, pass by pass, until another one takes its place."""

    def __init__(self, fleet: Fleet, *, has_begun: bool = True) -> None:
        members = {
            ShardName(name): tuple(server.address for server in servers)
            for name, servers in fleet.shards.items()
            if name in ("s1", "s2")
        }
        spec = ClusterSpec(members, 0, has_begun=has_begun)
        self.driven = Driven(Controller(spec, pace=PACE))
        self.sharding = Sharding()

    @property
    def topology(self) -> Topology:
        """What its controller knows."""
        assert self.driven.controller.topology is not None
        return self.driven.controller.topology

    def is_moving_since(self, generation: int) -> bool:
        """Whether it has published something after *generation*, and moves buckets now."""
        is_moving = self.driven.controller._resharding.is_busy
        return is_moving and self.topology.generation > generation

    async def once(self, count: int, observed: Observed) -> None:
        """Make a pass."""
        one = cluster({"shards": {"count": count, "replicas": 0, "acks": 0}})
        controller, nobody = self.driven.controller, Credentials()
        await self.driven.once()
        await self.sharding.look(one, controller, nobody)
        self.sharding.plan(one, {}, observed, controller, is_calm=True)
        await self.sharding.ask(one, controller, nobody)


def seen(*names: str) -> Observed:
    """Give the StatefulSets of shards with all pods ready, and their servers' Services."""
    objects: dict[Key, dict[str, Any]] = {}
    for name in names:
        labels = {"roomful.dev/shard": name}
        objects[Key("StatefulSet", f"chat-{name}")] = {
            "metadata": {"labels": labels},
            "status": {"readyReplicas": 1},
        }
        objects[Key("Service", f"chat-{name}-0")] = {"spec": {"clusterIP": "127.0.0.1"}}
    return Observed(objects)


def begun(name: str) -> Callable[[Topology], bool]:
    """Whether a shard is there and has some of its share: a move is under way."""
    return lambda of: len(of.buckets_of(ShardName(name))) >= SOME


def left(name: str) -> Callable[[Topology], bool]:
    """Whether a shard is in the topology no more."""
    return lambda of: name in of.intents.retired and name not in of.shards


async def until(
    fleet: Fleet, count: int, observed: Observed, done: Callable[[Topology], bool]
) -> Topology:
    """Make passes until *done*; who has got something done is killed in the middle of the next."""
    async with asyncio.timeout(10 * DEADLINE_S):
        while True:
            one = Operator(fleet)
            begun_at = None
            try:
                while begun_at is None or not one.is_moving_since(begun_at):
                    await one.once(count, observed)
                    if one.driven.controller.topology is not None and done(one.topology):
                        return one.topology
                    if begun_at is None and one.driven.controller.topology is not None:
                        begun_at = one.topology.generation
                    await asyncio.sleep(0.01)
            finally:
                await one.driven.controller.aclose()


async def test_shards_come_and_go_whoever_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is changed twice in the middle of a move; what comes next has a new name."""
    with running_fleet(tmp_path, shards=4, replicas=0) as fleet:
        first = Operator(fleet, has_begun=False)
        await first.driven.serve()
        await first.driven.controller.aclose()

        monkeypatch.setattr(sharding, "SHARD_PORT", fleet.shards["s3"][0].address.port)
        three = seen("s1", "s2", "s3")
        await until(fleet, 3, three, begun("s3"))
        two = await until(fleet, 2, three, left("s3"))
        assert set(two.buckets) == {"s1", "s2"}

        monkeypatch.setattr(sharding, "SHARD_PORT", fleet.shards["s4"][0].address.port)
        last = await until(fleet, 3, seen("s1", "s2", "s4"), begun("s4"))
        assert set(last.shards) == {"s1", "s2", "s4"}


async def test_a_controller_that_sees_new_servers_only_begins_no_other_cluster(
    tmp_path: Path,
) -> None:
    """The others, which know the topology, are out of its sight: it waits for them."""
    with running_fleet(tmp_path, shards=2, replicas=0) as fleet:
        members = {
            ShardName(name): tuple(server.address for server in servers)
            for name, servers in fleet.shards.items()
        }
        one = Controller(ClusterSpec(members, has_begun=True), pace=PACE)
        try:
            for _ in range(3):
                status = await one.look_after()
            assert status.topology is None
            assert all("no server that answers" in one.reason for one in status.shards.values())
            assert fleet.shards["s1"][0].info()["role"] == "slave"
        finally:
            await one.aclose()
