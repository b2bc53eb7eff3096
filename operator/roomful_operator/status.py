"""
What the operator says about a cluster: conditions with reasons, and one word for all: pure.

The word is Paused, else Degraded, else Progressing, else Ready: the first that holds.
docs/kubernetes.md lists every condition with its reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Topology
from roomful.control.spec import ClusterStatus
from roomful.control.view import Phase, ShardStatus
from roomful_operator.manifests.edges import edges_name
from roomful_operator.manifests.parts import EDGE, Manifest, Part
from roomful_operator.manifests.shards import member_names
from roomful_operator.reconcile import Key, Observed, Plan
from roomful_operator.resizing import Resizing
from roomful_operator.rolling import outdated_pods
from roomful_operator.spec import Cluster

__all__ = ["Condition", "Facts", "build_status", "flips", "is_alarming", "state_of"]

FAULTS: Final = ("Degraded", "DurabilityDegraded", "FailoverBlocked", "ConfigurationWarning")
"""Conditions that are bad news when they hold."""
UNPULLED: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}
)
CONNECTIONS_STEP: Final = 0.05
"""The number of connections is written anew when it is so much off: each write wakes watchers."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that holds or does not, why, and what people should know."""

    type: str
    holds: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a status is made from."""

    cluster: Cluster
    plan: Plan
    observed: Observed
    control: ClusterStatus
    pods: Sequence[Manifest] = ()
    connections: int | None = None
    """Signed-in connections of all edges; None: not asked or not known."""
    autoscaler: Condition = field(
        default_factory=lambda: Condition("AutoscalerActive", False, "Disabled")
    )
    shard_autoscaler: Condition = field(
        default_factory=lambda: Condition("ShardAutoscalerActive", False, "Disabled")
    )
    resizing: Resizing = field(default_factory=lambda: Resizing(()))
    failure: str = ""
    """Why the last pass could not be finished; empty: it was."""


def build_status(facts: Facts, previous: Mapping[str, Any], now: str) -> dict[str, Any]:
    """
    Give the status of a cluster; the same as *previous* when nothing has changed.

    Args:
        now: the time of conditions that flip, as RFC 3339.
    """
    conditions = _conditions(facts, previous.get("conditions", ()))
    edges = facts.observed.objects.get(Key("Deployment", edges_name(facts.cluster)), {})
    ready = edges.get("status", {}).get("readyReplicas", 0)
    shards = [_shard(facts, name) for name in facts.plan.shards]
    topology = facts.control.topology
    match = Part(facts.cluster, EDGE).selector
    before = previous.get("edges", {}).get("connections", 0)
    return {
        "observedGeneration": facts.cluster.identity.generation,
        "state": state_of(conditions),
        "edges": {
            "replicas": edges.get("status", {}).get("replicas", 0),
            "ready": ready,
            "desired": facts.plan.edges,
            "connections": _steady(facts.connections, before),
            "selector": ",".join(f"{name}={value}" for name, value in match.items()),
        },
        "shardCount": len(shards),
        "readyShards": sum(shard["phase"] == Phase.SERVING for shard in shards),
        "shards": shards,
        # An operator that has just begun has not read it yet.
        "topologyGeneration": (
            topology.generation if topology else previous.get("topologyGeneration", 0)
        ),
        "conditions": _dated(conditions, previous.get("conditions", ()), now, facts),
    }


def state_of(conditions: Iterable[Condition]) -> str:
    """Give the one word for *conditions*."""
    holding = {one.type for one in conditions if one.holds}
    order = ("Paused", "Degraded", "Progressing", "Ready")
    return next((word for word in order if word in holding), "Progressing")


def flips(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[Condition]:
    """
    Give the conditions whose status or reason changed: each is worth an event.

    Of a new cluster only those that hold: that nothing is wrong yet is no news. Nor is another
    reason for not being ready yet: the condition that it comes from tells it.
    """
    known = {one["type"]: _news(one) for one in before}
    return [
        Condition(one["type"], one["status"] == "True", one["reason"], one["message"])
        for one in after
        if known.get(one["type"], ("False", _news(one)[1])) != _news(one)
    ]


def _news(one: Mapping[str, Any]) -> tuple[str, str]:
    is_late = one["type"] == "Ready" and one["status"] == "False"
    return one["status"], "" if is_late else one["reason"]


def is_alarming(flip: Condition) -> bool:
    """Whether people should look: a fault began, or a cluster that was ready no longer is."""
    return flip.holds == (flip.type in FAULTS) and flip.type in (*FAULTS, "Ready")


def _conditions(facts: Facts, previous: Iterable[Mapping[str, Any]]) -> list[Condition]:
    progress = _progress(facts)
    trouble = _trouble(facts)
    # Rooms that move are served all the while.
    is_ready = progress.reason in ("Settled", "Resharding") and not _late(facts)
    return [
        Condition("Ready", is_ready, *_why_ready(facts, is_ready, progress)),
        progress,
        trouble,
        Condition(
            "Resharding",
            facts.resizing.is_going_on,
            facts.resizing.reason,
            facts.resizing.message,
        ),
        _durability(facts, is_new=_is_new(progress, previous)),
        _blocked(facts),
        facts.autoscaler,
        facts.shard_autoscaler,
        Condition(
            "Paused",
            facts.cluster.is_paused,
            "Annotated" if facts.cluster.is_paused else "Running",
            "nothing is changed: annotation roomful.dev/paused" if facts.cluster.is_paused else "",
        ),
        _warning(facts.cluster),
    ]


def _why_ready(facts: Facts, is_ready: bool, progress: Condition) -> tuple[str, str]:
    if is_ready:
        topology = facts.control.topology
        count = len(topology.shards) if topology else 0
        return "Serving", f"{count} shards and {facts.plan.edges} edges serve"
    if progress.holds and progress.reason != "Resharding":
        return progress.reason, progress.message
    return "ShardsNotServing", f"not serving: {', '.join(_late(facts))}"


def _late(facts: Facts) -> list[ShardName]:
    """Give the shards that should serve and do not; those that come are not late."""
    topology = facts.control.topology
    return [
        name
        for name in (topology.shards if topology else facts.plan.shards)
        if _status_of(facts, name).phase is not Phase.SERVING
    ]


def _progress(facts: Facts) -> Condition:
    if facts.control.topology is None:
        return Condition("Progressing", True, "StartingShards", _reasons(facts))
    edges = facts.observed.objects.get(Key("Deployment", edges_name(facts.cluster)))
    status = {} if edges is None else edges.get("status", {})
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    total = status.get("replicas", 0)
    wanted = facts.plan.edges
    if ready < wanted or updated < wanted or total != wanted:
        message = f"{ready} of {wanted} edges are ready, {updated} are up to date"
        return Condition("Progressing", True, "StartingEdges", message)
    outdated = _outdated(facts)
    if outdated:
        return Condition("Progressing", True, "RollingShards", f"to be replaced: {outdated}")
    if facts.resizing.is_going_on:
        return Condition("Progressing", True, "Resharding", facts.resizing.message)
    return Condition("Progressing", False, "Settled")


def _outdated(facts: Facts) -> str:
    old = [
        pod["metadata"]["name"]
        for key, live in facts.observed.objects.items()
        if key.kind == "StatefulSet"
        for pod in outdated_pods(live, facts.pods)
    ]
    return ", ".join(sorted(old))


def _is_new(progress: Condition, previous: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the cluster has never been whole, and is on its way there."""
    reasons = {one["type"]: one["reason"] for one in previous}
    is_starting = progress.reason in ("StartingShards", "StartingEdges")
    return is_starting and reasons.get("DurabilityDegraded", "Starting") == "Starting"


def _trouble(facts: Facts) -> Condition:
    if facts.failure:
        return Condition("Degraded", True, "ReconcileFailed", facts.failure)
    if facts.control.topology is not None:
        for name in facts.plan.shards:
            status = _status_of(facts, name)
            if status.phase in (Phase.DEGRADED, Phase.SUSPECT, Phase.FAILING_OVER, Phase.BLOCKED):
                reason = "Shard" + "".join(word.title() for word in status.phase.split())
                return Condition("Degraded", True, reason, f"{name}: {status.reason}")
    if stuck := _unschedulable(facts.pods):
        return Condition("Degraded", True, "PodUnschedulable", stuck)
    if stuck := _not_starting(facts.pods):
        return Condition("Degraded", True, "PodNotStarting", stuck)
    return Condition("Degraded", False, "AsExpected")


def _durability(facts: Facts, *, is_new: bool) -> Condition:
    if facts.control.topology is None:
        return Condition("DurabilityDegraded", False, "Starting")
    thin = [
        f"{name} ({len(status.online)} of {len(status.replicas)} replicas)"
        for name in facts.plan.shards
        if len((status := _status_of(facts, name)).online) < len(status.replicas)
    ]
    if thin and is_new:
        # Replicas take their first copies.
        return Condition("DurabilityDegraded", False, "Starting", ", ".join(thin))
    if thin:
        return Condition("DurabilityDegraded", True, "ReplicasMissing", ", ".join(thin))
    return Condition("DurabilityDegraded", False, "AllReplicasFollow")


def _blocked(facts: Facts) -> Condition:
    for name in facts.plan.shards:
        status = _status_of(facts, name)
        if status.phase is Phase.BLOCKED:
            return Condition("FailoverBlocked", True, "ShardBlocked", f"{name}: {status.reason}")
    return Condition("FailoverBlocked", False, "NotNeeded")


def _warning(cluster: Cluster) -> Condition:
    risks = []
    shards = cluster.shards
    if shards.acks == 0:
        risks.append("shards.acks is 0: an acknowledged message is lost with its primary")
    elif shards.acks == shards.replicas:
        risks.append(
            "shards.acks equals shards.replicas: while one replica is away nothing is acknowledged"
        )
    if cluster.edges.replicas == 1 and cluster.edges.autoscaling is None:
        risks.append("edges.replicas is 1: clients wait while it is replaced")
    return Condition(
        "ConfigurationWarning", bool(risks), "Risky" if risks else "None", "; ".join(risks)
    )


def _unschedulable(pods: Iterable[Manifest]) -> str:
    for pod in pods:
        for one in pod.get("status", {}).get("conditions", ()):
            if one["type"] == "PodScheduled" and one.get("reason") == "Unschedulable":
                return f"{pod['metadata']['name']}: {one.get('message', '')}"
    return ""


def _not_starting(pods: Iterable[Manifest]) -> str:
    for pod in pods:
        for one in pod.get("status", {}).get("containerStatuses", ()):
            waiting = one.get("state", {}).get("waiting", {})
            # Kubernetes' own words alternate while it tries again: each would be another write.
            if waiting.get("reason") in UNPULLED:
                return f"{pod['metadata']['name']}: image {one['image']} cannot be pulled"
            if waiting.get("reason") == "CreateContainerConfigError":
                return f"{pod['metadata']['name']}: {waiting.get('message', '')}"
    return ""


def _status_of(facts: Facts, name: ShardName) -> ShardStatus:
    return facts.control.shards.get(name) or ShardStatus(name, Phase.STARTING, "is being made")


def _reasons(facts: Facts) -> str:
    return "; ".join(
        f"{name}: {status.reason}"
        for name in facts.plan.shards
        if (status := _status_of(facts, name)).reason
    )


def _shard(facts: Facts, name: ShardName) -> dict[str, Any]:
    status = _status_of(facts, name)
    names = member_names(facts.cluster, name)
    addresses = {**facts.plan.kept, **facts.observed.addresses(names)}
    called = {address: member for member, address in addresses.items()}
    return {
        "name": name,
        "phase": status.phase.value,
        "reason": status.reason,
        "primary": called.get(status.primary.host, "") if status.primary else "",
        "term": status.term,
        "replicas": len(status.replicas),
        "online": len(status.online),
        "buckets": _buckets(facts.control.topology, name),
        "members": [{"name": one, "address": addresses[one]} for one in names if one in addresses],
    }


def _buckets(topology: Topology | None, name: ShardName) -> int:
    return len(topology.buckets_of(name)) if topology else 0


def _steady(now: int | None, before: int) -> int:
    if now is None or abs(now - before) <= before * CONNECTIONS_STEP:
        return before
    return now


def _dated(
    conditions: Iterable[Condition], previous: Iterable[Mapping[str, Any]], now: str, facts: Facts
) -> list[dict[str, Any]]:
    known = {one["type"]: one for one in previous}
    dated = []
    for one in conditions:
        status = "True" if one.holds else "False"
        before = known.get(one.type)
        is_same = before is not None and before["status"] == status
        dated.append(
            {
                "type": one.type,
                "status": status,
                "reason": one.reason,
                "message": one.message,
                "observedGeneration": facts.cluster.identity.generation,
                "lastTransitionTime": before["lastTransitionTime"] if before and is_same else now,
            }
        )
    return dated
