"""
A shard's servers: a StatefulSet, for each server an address that stays, and their configuration.

Each server has a Service of its own. Its address outlives pods, and nothing that the topology
says has to be looked up: a shard works without DNS. Servers boot sealed (roomful.control.sealed);
the operator's controller, and nobody else, gives them roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.sealed import ServerOptions, build_server_options, render_config
from roomful_operator.manifests.parts import (
    SHARD,
    SHARD_PORT,
    Manifest,
    Part,
    build_manifest,
    build_pod_template,
)
from roomful_operator.passwords import USERS_FILE
from roomful_operator.spec import Cluster, parse_quantity

__all__ = [
    "build_shard_config",
    "build_shard_services",
    "build_shard_set",
    "member_names",
    "memory_limit_bytes",
    "redis_secret_name",
    "set_name",
]

MEMORY_HEADROOM: Final = 1.5
"""Of memory for data: a rewrite of the file copies each page that is written meanwhile."""
MEMORY_BASE_BYTES: Final = 96 * 2**20
"""What a server needs besides data: itself, the backlog for replicas that were away, clients."""
CONFIG_PATH: Final = "/etc/roomful"
USERS_PATH: Final = "/etc/roomful-users"


def set_name(cluster: Cluster, shard: ShardName) -> str:
    """Give the name of a shard's StatefulSet."""
    return f"{cluster.name}-{shard}"


def redis_secret_name(cluster: Cluster) -> str:
    """Give the name of the Secret with the passwords of the servers' users."""
    return f"{cluster.name}-redis"


def member_names(cluster: Cluster, shard: ShardName) -> tuple[str, ...]:
    """Give the names of a shard's servers: of their pods, and of their Services."""
    return tuple(f"{set_name(cluster, shard)}-{one}" for one in range(cluster.shards.members))


def memory_limit_bytes(cluster: Cluster) -> int:
    """Give what a server's container may take: its data, a rewrite's copies, and itself."""
    return int(parse_quantity(cluster.shards.memory) * MEMORY_HEADROOM) + MEMORY_BASE_BYTES


def build_shard_services(
    cluster: Cluster, shard: ShardName, kept: Mapping[str, str]
) -> list[Manifest]:
    """
    Give the Services of a shard: one for each server, and the headless one of the StatefulSet.

    Args:
        kept: the addresses by which the topology knows servers: a Service that was deleted gets
            the same one again.
    """
    ports = [{"name": "redis", "port": SHARD_PORT, "targetPort": "redis", "appProtocol": "redis"}]
    part = Part(cluster, SHARD, shard)
    services = [
        build_manifest(
            part,
            "Service",
            set_name(cluster, shard),
            {
                "spec": {
                    "clusterIP": "None",
                    "publishNotReadyAddresses": True,
                    "selector": part.selector,
                    "ports": ports,
                }
            },
        )
    ]
    for name in member_names(cluster, shard):
        address = {"clusterIP": kept[name]} if name in kept else {}
        body = {
            "spec": {
                "type": "ClusterIP",
                **address,
                # The controller has to reach a server before it is ready.
                "publishNotReadyAddresses": True,
                "selector": {
                    **part.selector,
                    "statefulset.kubernetes.io/pod-name": name,
                },
                "ports": ports,
            }
        }
        services.append(build_manifest(part, "Service", name, body))
    return services


def build_shard_config(
    cluster: Cluster, shard: ShardName, addresses: Mapping[str, str]
) -> Manifest:
    """
    Give the ConfigMap with the configuration of each server of a shard.

    Args:
        addresses: of each server's Service.
    """
    data = {}
    for name in member_names(cluster, shard):
        options = ServerOptions(
            address=Address(addresses[name], SHARD_PORT),
            bind="* -::*",
            directory="/data",
            max_memory_bytes=int(parse_quantity(cluster.shards.memory)),
        )
        text = render_config(build_server_options(options))
        data[f"{name}.conf"] = f"include {USERS_PATH}/{USERS_FILE}\n{text}"
    part = Part(cluster, SHARD, shard)
    return build_manifest(part, "ConfigMap", set_name(cluster, shard), {"data": data})


def build_shard_set(cluster: Cluster, shard: ShardName) -> Manifest:
    """Give the StatefulSet of a shard; only the operator replaces its pods, one at a time."""
    shards = cluster.shards
    part = Part(cluster, SHARD, shard)
    template = build_pod_template(
        part,
        shards.pod,
        _container(cluster),
        volumes=[
            {"name": "config", "configMap": {"name": set_name(cluster, shard)}},
            {
                "name": "users",
                "secret": {
                    "secretName": redis_secret_name(cluster),
                    # Hashes, and the replicas' own password: no program's is in these pods.
                    "items": [{"key": USERS_FILE, "path": USERS_FILE}],
                },
            },
        ],
    )
    storage_class = (
        {"storageClassName": shards.storage_class_name} if shards.storage_class_name else {}
    )
    spec = {
        "replicas": shards.members,
        "serviceName": set_name(cluster, shard),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        # What a server has on disk may be all there is: it is never deleted by itself.
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "selector": {"matchLabels": part.selector},
        "template": template,
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data", "labels": part.selector},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    **storage_class,
                    "resources": {"requests": {"storage": shards.storage_size}},
                },
            }
        ],
    }
    return build_manifest(
        part, "StatefulSet", set_name(cluster, shard), {"spec": spec}, api="apps/v1"
    )


def _container(cluster: Cluster) -> Manifest:
    shards = cluster.shards
    limit = str(memory_limit_bytes(cluster))
    # Any answer will do, LOADING too; a server that gives none for a minute is started again.
    alive = {
        "exec": {"command": ["redis-cli", "-t", "4", "ping"]},
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    }
    return {
        "name": "redis",
        "image": shards.image,
        "command": ["redis-server", f"{CONFIG_PATH}/$(POD_NAME).conf"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "redis", "containerPort": SHARD_PORT}],
        "livenessProbe": alive,
        "readinessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 2},
        "resources": {
            "requests": {"cpu": shards.cpu, "memory": limit},
            "limits": {"memory": limit},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
            {"name": "users", "mountPath": USERS_PATH, "readOnly": True},
        ],
    }
