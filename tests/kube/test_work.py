"""The loop over all clusters: nothing that happens to one of them stops it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from kube.api_server import ApiServer, running_api_server
from kube.objects import document
from roomful_operator.api import CLUSTERS, KubernetesApi
from roomful_operator.lease import Election
from roomful_operator.metrics import Statistics
from roomful_operator.work import Work, WorkSettings


@dataclass
class World:
    """An operator that leads, and its API server."""

    server: ApiServer
    work: Work
    election: Election
    statistics: Statistics

    def add(self, name: str, spec: dict[str, Any]) -> None:
        """Make a RoomfulCluster."""
        one = document(spec, name=name, uid=f"uid-{name}")
        self.server.objects[CLUSTERS.path("rooms", name)] = one

    def status(self, name: str) -> dict[str, Any]:
        """Give the status of a RoomfulCluster; empty before there is one."""
        found = self.server.objects[CLUSTERS.path("rooms", name)].get("status", {})
        assert isinstance(found, dict)
        return found

    async def rounds(self, count: int) -> None:
        """Make some rounds."""
        for _ in range(count):
            await self.work._next()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Give an operator that leads and has made no round."""
    async with running_api_server() as (server, configuration):
        api = KubernetesApi(configuration)
        election = Election(api, namespace="rooms", name="operator", identity="me")
        statistics = Statistics()
        work = Work(api, election, statistics, WorkSettings(namespaces=("rooms",)))
        await election.attempt()
        yield World(server, work, election, statistics)
        await work._let_go(list(work._keepers))
        await api.aclose()


async def test_a_cluster_is_begun(world: World) -> None:
    """The first round makes what can be made, and says what it waits for."""
    world.add("chat", {})
    await world.rounds(1)
    kinds = {one["kind"] for one in world.server.objects.values() if "kind" in one}
    assert {"Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"} <= kinds
    assert "StatefulSet" not in kinds
    assert world.status("chat")["state"] == "Progressing"


async def test_the_second_round_writes_nothing(world: World) -> None:
    """While nothing changes, there is nothing to write."""
    world.add("chat", {})
    await world.rounds(1)
    world.server.writes.clear()
    await world.rounds(2)
    assert world.server.writes == []


async def test_a_bad_cluster_stops_no_other(world: World) -> None:
    """One that cannot be read is counted and told; the others are looked after."""
    world.add("bad", {"edges": {"drainSeconds": "long"}})
    world.add("good", {})
    await world.rounds(2)
    assert world.status("good")["state"] == "Progressing"
    assert 'reconcile_errors_total{where="pass"} 2.0' in world.statistics.render().decode()


async def test_without_the_lease_nothing_is_done(world: World) -> None:
    """Another operator is at work."""
    await world.election.release()
    world.add("chat", {})
    world.server.writes.clear()
    await world.rounds(1)
    assert world.server.writes == []
    assert "roomful_operator_leading 0.0" in world.statistics.render().decode()


async def test_series_go_with_their_cluster(world: World) -> None:
    """A cluster that is gone leaves no metrics."""
    world.add("chat", {})
    await world.rounds(1)
    assert 'cluster="rooms/chat"' in world.statistics.render().decode()
    del world.server.objects[CLUSTERS.path("rooms", "chat")]
    await world.rounds(1)
    assert 'cluster="rooms/chat"' not in world.statistics.render().decode()


async def test_an_operator_that_gets_nowhere_is_not_well(world: World) -> None:
    """Leading without a finished round for too long is what /healthz tells."""
    assert world.work.illness() == ""
    world.server.is_away = True
    await world.rounds(1)
    assert world.work.illness() == ""
    world.work._settings = WorkSettings(namespaces=("rooms",), stalled_s=0.0)
    await world.election.attempt()
    world.election.tried_at += 60
    assert "no round was finished" in world.work.illness()


async def test_paused_means_no_writes_but_the_status(world: World) -> None:
    """The annotation stops everything, and the status says so."""
    world.add("chat", {})
    found = world.server.objects[CLUSTERS.path("rooms", "chat")]
    found["metadata"]["annotations"] = {"roomful.dev/paused": "true"}
    world.server.writes.clear()
    await world.rounds(1)
    assert {write.rpartition("/")[2] for write in world.server.writes} <= {"status", "events"}
    assert world.status("chat")["state"] == "Paused"
