"""Edges are asked for their load, and to shed, over the real HTTP of a real edge."""

from __future__ import annotations

from typing import Any

import pytest

from kube.objects import cluster
from roomful.cluster.autoscale import EdgeLoad
from roomful_operator import fleet as fleet_module
from roomful_operator.fleet import Fleet, parse_metrics
from roomful_operator.scaling import EdgeScaling
from support.server import Server
from support.tokens import SECRET, make_service_token


@pytest.fixture
def pod(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the real edge as a pod; a pod's port is always the same, a test's never."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    monkeypatch.setattr(fleet_module, "EDGE_PORT", int(port))
    ready = [{"type": "Ready", "status": "True"}]
    status = {"podIP": host, "phase": "Running", "conditions": ready}
    return {"metadata": {"name": "chat-edge-1", "labels": {}}, "status": status}


@pytest.fixture
def fleet() -> Fleet:
    """Give a fleet whose clock is a test's."""
    clock = iter(range(0, 1000, 10))
    return Fleet(lambda: float(next(clock)))


def test_metrics_without_labels_are_read() -> None:
    """Comments and metrics with labels are passed over."""
    text = '# HELP a b\n# TYPE a gauge\na 1.0\nroomful_b_total 2e3\nc{code="x"} 4\nd{} 5\n'
    assert parse_metrics(text) == {"a": 1.0, "roomful_b_total": 2000.0, "d": 5.0}


async def test_an_edge_tells_its_load(pod: dict[str, Any], fleet: Fleet) -> None:
    """Connections, rates since the last time, and whether it drains."""
    await fleet.ask([pod])
    (load,) = await fleet.ask([pod])
    assert (load.name, load.connections, load.is_draining) == ("chat-edge-1", 0, False)
    assert load.is_readable
    assert load.cpu >= 0
    await fleet.aclose()


async def test_a_silent_edge_is_told_from_an_empty_one(
    pod: dict[str, Any], fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edge that does not answer is not readable; one that is going is not missed."""
    monkeypatch.setattr(fleet_module, "EDGE_PORT", 1)
    (load,) = await fleet.ask([pod])
    assert not load.is_readable
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    (load,) = await fleet.ask([pod])
    assert load.is_readable
    assert load.is_draining
    await fleet.aclose()


async def test_a_pod_that_starts_is_not_asked(pod: dict[str, Any], fleet: Fleet) -> None:
    """Before it was ready it is no capacity and has nothing to say."""
    pod["status"]["conditions"] = []
    assert await fleet.ask([pod]) == []
    await fleet.aclose()


async def test_an_edge_takes_the_order_to_shed(pod: dict[str, Any], fleet: Fleet) -> None:
    """The operator's token is good for it; an edge without clients sheds none."""
    done = await fleet.shed([pod], {"chat-edge-1": 5}, make_service_token())
    assert done == {"chat-edge-1": 0}
    assert await fleet.shed([pod], {"chat-edge-1": 5}, "no token") == {}
    await fleet.aclose()


# Deciding -----------------------------------------------------------------------------------

SCALED = {"edges": {"autoscaling": {"minReplicas": 2, "maxReplicas": 9, "connectionsPerEdge": 10}}}


def test_without_autoscaling_the_number_is_the_specifications() -> None:
    """And the condition says that it is off."""
    count, condition, going = EdgeScaling().decide(cluster(), 7, is_calm=True)
    assert (count, condition.holds, condition.reason, going) == (2, False, "Disabled", ())


def test_who_goes_is_named_also_when_people_take_edges_away() -> None:
    """By themselves ReplicaSets leave edges that share a node, when several go at once."""
    scaling = EdgeScaling()
    scaling.loads = [
        *(EdgeLoad("a", node="n1"), EdgeLoad("b", node="n1")),
        *(EdgeLoad("c", node="n2"), EdgeLoad("d", node="n2"), EdgeLoad("e", node="n2")),
    ]
    count, _, going = scaling.decide(cluster(), 5, is_calm=True)
    assert (count, going) == (2, ("c", "a", "d"))
    _, _, going = scaling.decide(cluster(SCALED), 12, is_calm=True)
    assert len(going) == 3


def test_connections_bring_edges() -> None:
    """The deployment's own number is where the autoscaler begins."""
    scaling = EdgeScaling()
    scaling.loads = [EdgeLoad("a", 20), EdgeLoad("b", 20)]
    count, condition, _ = scaling.decide(cluster(SCALED), 2, is_calm=True)
    assert (count, condition.holds, condition.reason) == (5, True, "ScalingUp")


def test_who_has_the_fewest_clients_goes() -> None:
    """The pods to go are named, so that they can be marked before the number falls."""
    clock = iter((0.0, 1000.0))
    scaling = EdgeScaling(lambda: next(clock))
    scaling.loads = [EdgeLoad("a", 3), EdgeLoad("b", 1), EdgeLoad("c", 2)]
    scaling.decide(cluster(SCALED), 3, is_calm=True)
    count, condition, going = scaling.decide(cluster(SCALED), 3, is_calm=True)
    assert (count, condition.reason, going) == (2, "ScalingDown", ("b",))


def test_bounds_are_kept_at_once() -> None:
    """A number outside of new bounds is brought inside without a look at the load."""
    count, condition, _ = EdgeScaling().decide(cluster(SCALED), 1, is_calm=True)
    assert (count, condition.reason) == (2, "Bounds")


async def test_uneven_edges_shed_after_a_minute(pod: dict[str, Any]) -> None:
    """First new clients fill a new edge by themselves; then full edges shed."""
    now = [1000.0]
    scaling = EdgeScaling(lambda: now[0])
    scaling.loads = [EdgeLoad("chat-edge-1", 100), EdgeLoad("chat-edge-2", 0)]
    asked: list[dict[str, int]] = []

    async def shed(_pods: object, excess: dict[str, int], _token: str) -> dict[str, int]:
        asked.append(excess)
        return excess

    scaling.fleet.shed = shed  # type: ignore[method-assign, assignment]  # what it is asked for
    assert await scaling.even_out([pod], SECRET) == 0
    now[0] += 61
    assert await scaling.even_out([pod], SECRET) == 2
    assert asked == [{"chat-edge-1": 2}]
    await scaling.aclose()
