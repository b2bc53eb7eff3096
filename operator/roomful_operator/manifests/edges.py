"""
The edges: a Deployment, and the Services that clients and load balancers find them by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from roomful.cluster.topology import Address
from roomful.shard.users import Role
from roomful_operator.manifests.parts import (
    EDGE,
    EDGE_PORT,
    Manifest,
    Part,
    build_manifest,
    build_pod_template,
)
from roomful_operator.manifests.shards import redis_secret_name
from roomful_operator.spec import Cluster

__all__ = [
    "archive_url",
    "auth_secret",
    "build_edge_services",
    "build_servers",
    "build_edges",
    "edges_name",
    "redis_login",
    "secret_entry",
    "servers_entry",
    "servers_name",
]

UNREADY_S: Final = 5
"""Between the end of a pod's readiness and its SIGTERM, for proxies to hear of it."""
SERVERS: Final = "servers"
"""The entry of the ConfigMap with the servers' addresses."""
GRACE_S: Final = 15
"""Beyond the drain, for what is in flight: requests and tasks are given 5 s each."""


def edges_name(cluster: Cluster) -> str:
    """Give the name of the edges' Deployment and Service."""
    return f"{cluster.name}-edge"


def auth_secret(cluster: Cluster) -> tuple[str, str]:
    """Give name and key of the secret that tokens are signed with."""
    given = cluster.auth.secret
    return (given.name, given.key) if given else (f"{cluster.name}-auth", "secret")


def build_edges(cluster: Cluster, *, replicas: int, passwords: str = "") -> Manifest:
    """
    Give the Deployment of the edges.

    Args:
        replicas: how many; the autoscaler's number, or that of the specification.
        passwords: a word that changes with them: new ones come with new pods.
    """
    edges = cluster.edges
    part = Part(cluster, EDGE)
    template = build_pod_template(
        part,
        edges.pod,
        _container(cluster),
        volumes=[{"name": "tmp", "emptyDir": {}}],
        grace_s=UNREADY_S + edges.drain_seconds + GRACE_S,
        passwords=passwords,
    )
    spec = {
        "replicas": replicas,
        "minReadySeconds": 5,
        "revisionHistoryLimit": 3,
        # One more before one less, one after the other: every edge's clients move once.
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "selector": {"matchLabels": part.selector},
        "template": template,
    }
    return build_manifest(part, "Deployment", edges_name(cluster), {"spec": spec}, api="apps/v1")


def build_edge_services(cluster: Cluster) -> list[Manifest]:
    """Give the Service of the edges, and the headless one in which a proxy sees each of them."""
    ports = [
        {"name": "http", "port": EDGE_PORT, "targetPort": "http", "appProtocol": "kubernetes.io/ws"}
    ]
    part = Part(cluster, EDGE)
    shared = {"selector": part.selector, "ports": ports}
    shapes: dict[str, Manifest] = {
        edges_name(cluster): {"type": "ClusterIP"},
        f"{edges_name(cluster)}s": {"clusterIP": "None"},
    }
    return [
        build_manifest(part, "Service", name, {"spec": {**shape, **shared}})
        for name, shape in shapes.items()
    ]


def servers_name(cluster: Cluster) -> str:
    """Give the name of the ConfigMap with the addresses of all servers."""
    return f"{cluster.name}-shards"


def build_servers(cluster: Cluster, shards: Sequence[Address]) -> Manifest:
    """
    Give the ConfigMap of the servers from which edges and archiver learn the topology.

    They read it when they start, and the topology tells them of shards that come and go: so it is
    not in their pods' templates, where each change of it would replace them all.
    """
    data = {SERVERS: ",".join(f"redis://{address}" for address in shards)}
    return build_manifest(Part(cluster, EDGE), "ConfigMap", servers_name(cluster), {"data": data})


def servers_entry(cluster: Cluster) -> Manifest:
    """Give the variable with the addresses of build_servers."""
    entry = {"name": servers_name(cluster), "key": SERVERS}
    return {"name": "ROOMFUL_SHARDS", "valueFrom": {"configMapKeyRef": entry}}


def _container(cluster: Cluster) -> Manifest:
    return {
        "name": "edge",
        "image": cluster.image,
        "args": ["serve"],
        "env": _environment(cluster),
        "ports": [{"name": "http", "containerPort": EDGE_PORT}],
        "startupProbe": _probe("/livez", period_s=1, failures=60),
        # Its end moves all of its clients: a minute without an answer is more than a busy machine.
        "livenessProbe": _probe("/livez", period_s=10, failures=6),
        "readinessProbe": _probe("/readyz", period_s=2, failures=2),
        # The kubelet's own sleep: there is no shell in it.
        "lifecycle": {"preStop": {"sleep": {"seconds": UNREADY_S}}},
        "resources": {name: dict(value) for name, value in cluster.edges.resources.items()},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - an emptyDir
    }


def _probe(path: str, *, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _environment(cluster: Cluster) -> list[Manifest]:
    secret, key = auth_secret(cluster)
    values: dict[str, str] = {
        "ROOMFUL_HOST": "0.0.0.0",  # noqa: S104 - the pod's own network
        "ROOMFUL_PORT": str(EDGE_PORT),
        "ROOMFUL_LOG_FORMAT": "json",
        "ROOMFUL_DRAIN_WINDOW_S": str(cluster.edges.drain_seconds),
        # Where the other edges reach this one, for polling clients that come to them.
        "ROOMFUL_ADVERTISE": f"$(POD_IP):{EDGE_PORT}",
    }
    if cluster.origins:
        values["ROOMFUL_ORIGINS"] = ",".join(cluster.origins)
    if cluster.tracing.endpoint:
        values["ROOMFUL_TRACING_ENDPOINT"] = cluster.tracing.endpoint
        values["ROOMFUL_TRACING_RATIO"] = str(cluster.tracing.ratio)
    values |= cluster.edges.settings
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "ROOMFUL_AUTH_SECRET", "valueFrom": secret_entry(secret, key)},
        servers_entry(cluster),
        *redis_login(cluster, Role.EDGE),
        *archive_url(cluster),
        *({"name": name, "value": value} for name, value in sorted(values.items())),
    ]


def redis_login(cluster: Cluster, role: Role) -> list[Manifest]:
    """Give the variables with which a program signs in to the servers as *role*."""
    password = secret_entry(redis_secret_name(cluster), role.value)
    return [
        {"name": "ROOMFUL_REDIS_USERNAME", "value": role.value},
        {"name": "ROOMFUL_REDIS_PASSWORD", "valueFrom": password},
    ]


def archive_url(cluster: Cluster) -> list[Manifest]:
    """Give the variable with the archive's URL; none without an archive."""
    if cluster.archive is None:
        return []
    dsn = cluster.archive.dsn
    return [{"name": "ROOMFUL_ARCHIVE_URL", "valueFrom": secret_entry(dsn.name, dsn.key)}]


def secret_entry(name: str, key: str) -> dict[str, Any]:
    """Give a value that comes from the entry *key* of the Secret *name*."""
    return {"secretKeyRef": {"name": name, "key": key}}
