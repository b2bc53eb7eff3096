"""Every condition is set and cleared for its reason, and nothing changes without one."""

from __future__ import annotations

from typing import Any

import pytest

from kube.objects import cluster, found, plan, settled
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address, ShardRecord, first_topology
from roomful.control.spec import ClusterStatus
from roomful.control.view import Phase, ShardStatus
from roomful_operator.resizing import Resizing
from roomful_operator.status import Condition, Facts, build_status, flips, is_alarming

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
SPEC = {"shards": {"count": 1, "replicas": 2}}
SERVERS = tuple(Address(f"10.96.0.{number}", 6379) for number in (1, 2, 3))
S1 = ShardName("s1")


def control(phase: Phase = Phase.SERVING, online: int = 2, reason: str = "") -> ClusterStatus:
    """Give what the controller says of one shard."""
    topology = first_topology({S1: ShardRecord(1, SERVERS[0], SERVERS[1:])}, acks=1)
    shard = ShardStatus(S1, phase, reason, SERVERS[0], 1, SERVERS[1:], SERVERS[1 : 1 + online])
    return ClusterStatus(True, topology, {S1: shard})


def facts(
    spec: dict[str, Any] | None = None, *, ready: int = 2, updated: int = 2, **changed: Any
) -> Facts:
    """Give a cluster that is as it should be, but for what is changed."""
    one = cluster(spec or SPEC, **changed.pop("metadata", {}))
    observed = settled(one)
    edges = found(observed, "Deployment", "chat-edge")
    edges["status"] = {"replicas": ready, "readyReplicas": ready, "updatedReplicas": updated}
    given: dict[str, Any] = {
        "cluster": one,
        "plan": plan(one),
        "observed": observed,
        "control": control(),
    }
    return Facts(**given | changed)


def condition(status: dict[str, Any], kind: str) -> tuple[bool, str]:
    """Give whether a condition holds, and why."""
    (one,) = (one for one in status["conditions"] if one["type"] == kind)
    return one["status"] == "True", one["reason"]


STUCK = {
    "metadata": {"name": "chat-edge-1", "labels": {}},
    "status": {"conditions": [{"type": "PodScheduled", "reason": "Unschedulable"}]},
}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Give a pod whose container does not come to run."""
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "edge", "image": "roomful/server:nope", "state": state}
    return {
        "metadata": {"name": "chat-edge-1", "labels": {}},
        "status": {"containerStatuses": [container]},
    }


UNPULLED = waiting("ImagePullBackOff", "back-off 40s")
UNCONFIGURED = waiting("CreateContainerConfigError", 'secret "chat-jwt" not found')
MOVING = Resizing((S1,), None, "MovingBuckets", "7 of 1024 buckets are to move")


@pytest.mark.parametrize(
    ("changed", "kind", "reason", "state"),
    [
        ({"control": ClusterStatus()}, "Progressing", "StartingShards", "Progressing"),
        ({"ready": 1}, "Progressing", "StartingEdges", "Progressing"),
        ({"updated": 1}, "Progressing", "StartingEdges", "Progressing"),
        ({"control": control(Phase.DEGRADED)}, "Degraded", "ShardDegraded", "Degraded"),
        ({"control": control(Phase.SUSPECT)}, "Degraded", "ShardSuspect", "Degraded"),
        ({"control": control(Phase.FAILING_OVER)}, "Degraded", "ShardFailingOver", "Degraded"),
        ({"control": control(Phase.BLOCKED)}, "Degraded", "ShardBlocked", "Degraded"),
        ({"control": control(Phase.BLOCKED)}, "FailoverBlocked", "ShardBlocked", "Degraded"),
        ({"pods": [STUCK]}, "Degraded", "PodUnschedulable", "Degraded"),
        ({"pods": [UNPULLED]}, "Degraded", "PodNotStarting", "Degraded"),
        ({"pods": [UNCONFIGURED]}, "Degraded", "PodNotStarting", "Degraded"),
        ({"failure": "PATCH x: forbidden"}, "Degraded", "ReconcileFailed", "Degraded"),
        ({"control": control(online=1)}, "DurabilityDegraded", "ReplicasMissing", "Ready"),
        ({"resizing": MOVING}, "Resharding", "MovingBuckets", "Progressing"),
        ({"resizing": MOVING}, "Ready", "Serving", "Progressing"),
        (
            {"metadata": {"annotations": {"roomful.dev/paused": "true"}}},
            *("Paused", "Annotated", "Paused"),
        ),
        (
            {"spec": {"shards": {"count": 1, "replicas": 2, "acks": 2}}},
            *("ConfigurationWarning", "Risky", "Ready"),
        ),
        (
            {"autoscaler": Condition("AutoscalerActive", True, "Steady")},
            *("AutoscalerActive", "Steady", "Ready"),
        ),
    ],
)
def test_each_condition_is_set_and_cleared(
    changed: dict[str, Any], kind: str, reason: str, state: str
) -> None:
    """It holds with its reason while the cause is there, and no longer when it is gone."""
    status = build_status(facts(**changed), {}, NOW)
    assert condition(status, kind) == (True, reason)
    assert status["state"] == state
    after = build_status(facts(), status, LATER)
    assert condition(after, kind)[0] is (kind == "Ready")
    assert after["state"] == "Ready"


def test_a_cluster_that_serves_is_ready() -> None:
    """All that people ask for is there, in numbers."""
    status = build_status(facts(connections=7), {}, NOW)
    assert condition(status, "Ready") == (True, "Serving")
    assert status["edges"]["connections"] == 7
    assert (status["shardCount"], status["readyShards"]) == (1, 1)
    (shard,) = status["shards"]
    assert (shard["buckets"], shard["term"], shard["online"]) == (1024, 1, 2)
    assert status["observedGeneration"] == 1
    selector = "app.kubernetes.io/component=edge"
    assert selector in status["edges"]["selector"]


def test_the_same_facts_give_the_same_status() -> None:
    """Later, with nothing changed, there is nothing to write."""
    status = build_status(facts(connections=100), {}, NOW)
    assert build_status(facts(connections=100), status, LATER) == status
    assert build_status(facts(connections=103), status, LATER) == status
    assert build_status(facts(connections=120), status, LATER) != status


def test_times_change_only_on_flips() -> None:
    """Another message or reason leaves the time; another status sets it."""
    first = build_status(facts(control=control(Phase.SUSPECT, reason="1 s")), {}, NOW)
    second = build_status(facts(control=control(Phase.FAILING_OVER)), first, LATER)
    third = build_status(facts(), second, LATER)

    def degraded(status: dict[str, Any]) -> str:
        (one,) = (one for one in status["conditions"] if one["type"] == "Degraded")
        return str(one["lastTransitionTime"])

    assert [degraded(one) for one in (first, second, third)] == [NOW, NOW, LATER]


def test_events_are_for_flips() -> None:
    """One for each condition that changed; of a new cluster only what holds."""
    first = build_status(facts(control=ClusterStatus()), {}, NOW)["conditions"]
    assert {flip.type for flip in flips([], first)} == {"Progressing"}
    ready = build_status(facts(), {"conditions": first}, NOW)["conditions"]
    assert {"Ready", "Progressing"} <= {flip.type for flip in flips(first, ready)}
    assert flips(ready, ready) == []
    worse = build_status(facts(control=control(Phase.DEGRADED)), {"conditions": ready}, NOW)
    alarming = {flip.type for flip in flips(ready, worse["conditions"]) if is_alarming(flip)}
    assert alarming == {"Ready", "Degraded"}


def test_a_new_cluster_alarms_nobody() -> None:
    """That it is not ready yet, for one reason after the other, Progressing tells."""
    first = build_status(facts(control=ClusterStatus()), {}, NOW)["conditions"]
    # One replica is still taking its first copy.
    begun = facts(ready=0, updated=0, control=control(online=1))
    starting = build_status(begun, {"conditions": first}, NOW)["conditions"]
    news = flips(first, starting)
    assert "Progressing" in {flip.type for flip in news}
    assert [flip for flip in news if is_alarming(flip)] == []


def test_a_replica_that_never_came_is_told_when_all_else_is_there() -> None:
    """A new cluster that serves with fewer replicas than it shall have is no new one any more."""
    first = build_status(facts(control=ClusterStatus()), {}, NOW)["conditions"]
    served = build_status(facts(control=control(online=1)), {"conditions": first}, NOW)
    assert condition(served, "DurabilityDegraded") == (True, "ReplicasMissing")


def test_why_a_pod_does_not_start_is_told_in_words_that_stay() -> None:
    """Kubernetes tells of an image in turns that it fails and that it waits."""
    told = {
        condition["message"]
        for reason in ("ErrImagePull", "ImagePullBackOff")
        for condition in build_status(facts(pods=[waiting(reason, reason)]), {}, NOW)["conditions"]
        if condition["type"] == "Degraded"
    }
    assert told == {"chat-edge-1: image roomful/server:nope cannot be pulled"}
    (one,) = (
        condition
        for condition in build_status(facts(pods=[UNCONFIGURED]), {}, NOW)["conditions"]
        if condition["type"] == "Degraded"
    )
    assert one["message"] == 'chat-edge-1: secret "chat-jwt" not found'
