"""
The archiver: carries messages from the shards' outboxes into PostgreSQL.
"""

from __future__ import annotations

from typing import Final

from roomful.shard.users import Role
from roomful_operator.manifests.edges import archive_url, redis_login, servers_entry
from roomful_operator.manifests.parts import (
    ARCHIVER,
    Manifest,
    Part,
    build_manifest,
    build_pod_template,
)
from roomful_operator.spec import Archive, Cluster

__all__ = ["build_archiver"]

METRICS_PORT: Final = 9180


def build_archiver(cluster: Cluster, archive: Archive, *, passwords: str = "") -> Manifest:
    """
    Give the Deployment of the archiver; several share the shards' outboxes between them.

    Args:
        passwords: as of build_edges.
    """
    part = Part(cluster, ARCHIVER)
    values = {
        "ROOMFUL_LOG_FORMAT": "json",
        "ROOMFUL_ARCHIVE_PORT": str(METRICS_PORT),
    }
    probe = {"path": "/livez", "port": "metrics"}
    container: Manifest = {
        "name": "archiver",
        "image": cluster.image,
        "args": ["archive", "--migrate"],
        "env": [
            *archive_url(cluster),
            servers_entry(cluster),
            *redis_login(cluster, Role.ARCHIVER),
            *({"name": name, "value": value} for name, value in values.items()),
        ],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        "livenessProbe": {
            "httpGet": probe,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "resources": {name: dict(value) for name, value in archive.resources.items()},
    }
    template = build_pod_template(part, archive.pod, container, passwords=passwords)
    spec = {
        "replicas": archive.replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": part.selector},
        "template": template,
    }
    return build_manifest(part, "Deployment", part.account, {"spec": spec}, api="apps/v1")
