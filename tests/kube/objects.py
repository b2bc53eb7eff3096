"""Objects for the operator's tests: clusters, and what an API server would make of manifests."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from roomful_operator.manifests.parts import Manifest
from roomful_operator.reconcile import Apply, Key, Observed, Plan, build_desired, key_of, reconcile
from roomful_operator.spec import Cluster, parse_cluster

UID = "5f0e7c1e-0000-4000-8000-000000000001"


def document(spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """Give a RoomfulCluster as the API server has it."""
    head = {"name": "chat", "namespace": "rooms", "uid": UID, "generation": 1, **metadata}
    return {"metadata": head, "spec": {"image": "roomful/server:1", **(spec or {})}}


def cluster(spec: dict[str, Any] | None = None, **metadata: Any) -> Cluster:
    """Give a cluster with *spec*."""
    return parse_cluster(document(spec, **metadata))


def plan(of: Cluster, **changed: Any) -> Plan:
    """Give the plan that is just what the specification says."""
    return Plan(**{"edges": of.edges.replicas, "shards": of.shards.names, **changed})


def applied(manifests: Iterable[Manifest], before: Observed | None = None) -> Observed:
    """Give what an API server has after *manifests* were applied: with defaults of its own."""
    objects = dict(before.objects) if before else {}
    for manifest in manifests:
        live = copy.deepcopy(manifest)
        known = objects.get(key_of(manifest))
        number = len(objects) + 1
        live["metadata"]["uid"] = known["metadata"]["uid"] if known else f"uid-{number}"
        live["metadata"]["resourceVersion"] = "7"
        if live["kind"] == "Service":
            live["spec"].setdefault("clusterIP", f"10.96.0.{number}")
            live["spec"]["sessionAffinity"] = "None"
        objects[key_of(manifest)] = live
    return Observed(objects)


def settled(of: Cluster) -> Observed:
    """Give what there is when all of *of* was applied, in as many passes as it takes."""
    observed = Observed()
    for _ in range(5):
        actions = reconcile(build_desired(of, plan(of), observed), observed)
        if not actions:
            return observed
        observed = applied(
            [action.manifest for action in actions if isinstance(action, Apply)], observed
        )
    raise AssertionError("it does not settle")


def found(observed: Observed, kind: str, name: str) -> Manifest:
    """Give one object."""
    return observed.objects[Key(kind, name)]


def container(workload: Manifest) -> Manifest:
    """Give the container of a workload's pods."""
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(workload: Manifest) -> dict[str, Any]:
    """Give the variables of a workload's container: values, or where they come from."""
    return {
        entry["name"]: entry.get("value", entry.get("valueFrom"))
        for entry in container(workload)["env"]
    }
