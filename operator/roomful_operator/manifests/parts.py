"""
What all manifests have in common: names, labels, owners, and what every pod is held to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from roomful_operator.spec import Cluster, Pod

__all__ = [
    "ARCHIVER",
    "COMPONENT_LABEL",
    "EDGE",
    "EDGE_PORT",
    "GROUP",
    "PASSWORDS",
    "SHARD",
    "SHARD_LABEL",
    "SHARD_PORT",
    "Manifest",
    "Part",
    "build_manifest",
    "build_pod_template",
    "cluster_labels",
    "container_security",
    "spread",
]

Manifest = dict[str, Any]
"""An object of Kubernetes as it goes over the wire."""

GROUP: Final = "roomful.dev"
SHARD_LABEL: Final = "roomful.dev/shard"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
PASSWORDS: Final = "roomful.dev/passwords"
"""The annotation of pods that changes with the passwords that their programs sign in with."""
EDGE: Final = "edge"
SHARD: Final = "shard"
ARCHIVER: Final = "archiver"
EDGE_PORT: Final = 8080
SHARD_PORT: Final = 6379
USERS: Final = {EDGE: 10001, ARCHIVER: 10001, SHARD: 999}
"""Whom each component's image knows as its user."""


@dataclass(frozen=True, slots=True)
class Part:
    """A component of a cluster, or one shard of it; all that belongs to it carries its labels."""

    cluster: Cluster
    component: str
    shard: str = ""

    @property
    def selector(self) -> dict[str, str]:
        """Give the labels that the part's pods are found by; they never change."""
        found = {
            **cluster_labels(self.cluster.name),
            COMPONENT_LABEL: self.component,
        }
        return {**found, SHARD_LABEL: self.shard} if self.shard else found

    @property
    def account(self) -> str:
        """Give the name of the ServiceAccount of the component."""
        return f"{self.cluster.name}-{self.component}"


def cluster_labels(name: str) -> dict[str, str]:
    """Give the labels of everything that the cluster *name* consists of."""
    return {"app.kubernetes.io/name": "roomful", "app.kubernetes.io/instance": name}


def build_manifest(
    part: Part, kind: str, name: str, body: Mapping[str, Any], *, api: str = "v1"
) -> Manifest:
    """Give an object that the RoomfulCluster owns: it goes when the cluster is deleted."""
    owner = part.cluster.identity
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**part.selector, "app.kubernetes.io/managed-by": "roomful-operator"},
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/v1alpha1",
                    "kind": "RoomfulCluster",
                    "name": owner.name,
                    "uid": owner.uid,
                    "controller": True,
                    # Deleting the cluster does not wait for this object.
                    "blockOwnerDeletion": False,
                }
            ],
        },
        **body,
    }


def container_security() -> Manifest:
    """Give what Pod Security `restricted` asks of a container, and a root that is read-only."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


HOST: Final = "kubernetes.io/hostname"
ZONE: Final = "topology.kubernetes.io/zone"


def spread(component: str, match: Mapping[str, str]) -> tuple[list[Manifest], Manifest]:
    """
    Give what keeps pods of *match* on different nodes and zones, where there are: the constraints
    of their spread, and their affinity.

    A server rather waits than shares a node that another node could spare it: with fewer nodes than
    servers they share evenly. All others go where there is room, when the load asks for them.
    """
    selector = {"labelSelector": {"matchLabels": dict(match)}}
    # A node that takes no pods, being drained or gone, is not missed.
    host = {"maxSkew": 1, "topologyKey": HOST, "nodeTaintsPolicy": "Honor", **selector}
    if component == SHARD:
        zone = {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "ScheduleAnyway"}
        return [{**host, "whenUnsatisfiable": "DoNotSchedule"}, {**zone, **selector}], {}
    # Pods of the template before are leaving, and not to be shunned.
    host |= {"whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["pod-template-hash"]}
    # Of several constraints that are wishes none counts on nodes that lack a key of any
    # (Kubernetes' podtopologyspread/scoring.go): without zones all edges came to one node.
    wish = {"weight": 100, "podAffinityTerm": {"topologyKey": ZONE, **selector}}
    wishes = "preferredDuringSchedulingIgnoredDuringExecution"
    return [host], {"podAntiAffinity": {wishes: [wish]}}


def build_pod_template(
    part: Part,
    pod: Pod,
    container: Manifest,
    *,
    volumes: Sequence[Manifest] = (),
    grace_s: int = 30,
    passwords: str = "",
) -> Manifest:
    """
    Give the pod template of a component: restricted, spread, and with what *pod* adds.

    Args:
        passwords: what PASSWORDS is set to.
    """
    cluster, match, user = part.cluster, part.selector, USERS[part.component]
    annotations = {**pod.annotations, **({PASSWORDS: passwords} if passwords else {})}
    env = [*container.get("env", ()), *map(dict, pod.extra_env)]
    mounts = [*container.get("volumeMounts", ()), *map(dict, pod.extra_volume_mounts)]
    constraints, affinity = spread(part.component, match)
    spec: Manifest = {
        "serviceAccountName": part.account,
        "automountServiceAccountToken": False,
        # A Service named roomful would come in as ROOMFUL_PORT=tcp://..., which is a setting.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                **container,
                "imagePullPolicy": cluster.image_pull_policy,
                "securityContext": container_security(),
                **({"env": env} if env else {}),
                **({"volumeMounts": mounts} if mounts else {}),
            }
        ],
        "topologySpreadConstraints": constraints,
    }
    optional: Manifest = {
        "imagePullSecrets": [dict(one) for one in cluster.image_pull_secrets],
        "volumes": [*volumes, *map(dict, pod.extra_volumes)],
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [dict(one) for one in pod.tolerations],
        "affinity": dict(pod.affinity) or affinity,
        "priorityClassName": pod.priority_class_name,
    }
    return {
        "metadata": {
            "labels": {**pod.labels, **match},
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {**spec, **{name: value for name, value in optional.items() if value}},
    }
