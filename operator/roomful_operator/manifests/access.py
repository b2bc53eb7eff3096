"""
Who may do what to whom: accounts, network policies, disruption budgets, and generated secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roomful.cluster.cursor import ShardName
from roomful_operator.manifests.edges import auth_secret, edges_name
from roomful_operator.manifests.parts import (
    ARCHIVER,
    EDGE,
    EDGE_PORT,
    SHARD,
    SHARD_PORT,
    Manifest,
    Part,
    build_manifest,
)
from roomful_operator.manifests.shards import redis_secret_name, set_name
from roomful_operator.spec import Cluster

__all__ = ["build_accounts", "build_budgets", "build_policies", "build_secrets"]

OPERATOR_PEER = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "roomful-operator"}},
}


def build_accounts(cluster: Cluster) -> list[Manifest]:
    """Give an account for each component; none may ask the API server for anything."""
    components = [EDGE, SHARD, *([ARCHIVER] if cluster.archive else [])]
    parts = [Part(cluster, component) for component in components]
    body = {"automountServiceAccountToken": False}
    return [build_manifest(part, "ServiceAccount", part.account, body) for part in parts]


def build_budgets(cluster: Cluster, shards: Sequence[ShardName]) -> list[Manifest]:
    """Give disruption budgets: drained nodes take one edge, and one server of a shard, at once."""
    parts = {edges_name(cluster): Part(cluster, EDGE)}
    parts |= {set_name(cluster, name): Part(cluster, SHARD, name) for name in shards}
    return [_budget(part, name) for name, part in parts.items()]


def _budget(part: Part, name: str) -> Manifest:
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": part.selector},
        # An edge that never was ready holds nothing up.
        "unhealthyPodEvictionPolicy": (
            "AlwaysAllow" if part.component == EDGE else "IfHealthyBudget"
        ),
    }
    return build_manifest(part, "PodDisruptionBudget", name, {"spec": spec}, api="policy/v1")


def build_policies(cluster: Cluster) -> list[Manifest]:
    """Give network policies: who may connect to edges and to shards."""
    if not cluster.network_policies.enabled:
        return []
    within = [
        {"podSelector": {"matchLabels": Part(cluster, component).selector}}
        for component in (EDGE, SHARD, ARCHIVER)
    ]
    shard_peers = [*within, OPERATOR_PEER]
    given = [dict(peer) for peer in cluster.network_policies.edge_from]
    edge_peers = [*given, within[0], OPERATOR_PEER] if given else []
    return [
        _policy(Part(cluster, EDGE), EDGE_PORT, edge_peers),
        _policy(Part(cluster, SHARD), SHARD_PORT, shard_peers),
    ]


def _policy(part: Part, port: int, peers: Sequence[Mapping[str, Any]]) -> Manifest:
    rule: Manifest = {"ports": [{"protocol": "TCP", "port": port}]}
    if peers:
        rule["from"] = [dict(peer) for peer in peers]
    spec = {
        "podSelector": {"matchLabels": part.selector},
        "policyTypes": ["Ingress"],
        "ingress": [rule],
    }
    return build_manifest(
        part, "NetworkPolicy", part.account, {"spec": spec}, api="networking.k8s.io/v1"
    )


def build_secrets(cluster: Cluster, *, users: Mapping[str, str], signing: str) -> list[Manifest]:
    """
    Give the Secrets that the operator makes when they are not there.

    Args:
        users: what the one with the servers' users begins with.
        signing: what tokens are signed with.
    """
    secrets = {redis_secret_name(cluster): dict(users)}
    if cluster.auth.secret is None:
        name, key = auth_secret(cluster)
        secrets[name] = {key: signing}
    part = Part(cluster, SHARD)
    return [
        build_manifest(part, "Secret", name, {"type": "Opaque", "stringData": data})
        for name, data in secrets.items()
    ]
