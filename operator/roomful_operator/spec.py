"""
What a RoomfulCluster object asks for, read from its `spec`: one frozen value with every default.

The API server has checked the object against the CRD before it comes here; what is checked again
is only what types can say, so that a CRD of another version ends in a sentence and not in a crash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import RoomfulError

__all__ = [
    "PAUSED",
    "Archive",
    "Autoscaling",
    "BadSpec",
    "Cluster",
    "Edges",
    "Identity",
    "Pod",
    "ShardScaling",
    "Shards",
    "parse_cluster",
    "parse_quantity",
]

PAUSED: Final = "roomful.dev/paused"
"""The annotation that stops every change, whatever its value but `false`."""

_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")
_SUFFIXES: Final = {
    **{"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    **{"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40},
}


EdgeCount = Annotated[int, Meta(ge=1, le=1000)]
ShardCount = Annotated[int, Meta(ge=1, le=120)]
Seconds = Annotated[int, Meta(ge=1, le=3600)]
SlowSeconds = Annotated[int, Meta(ge=60, le=86400)]
Quantity = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Name = Annotated[str, Meta(min_length=1, max_length=253)]


class BadSpec(RoomfulError):
    """An object that this operator cannot read; the words say which field."""


class Pod(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What people may add to the pods of one component."""

    annotations: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    node_selector: Mapping[str, str] = {}
    tolerations: Sequence[Mapping[str, Any]] = ()
    affinity: Mapping[str, Any] = {}
    priority_class_name: str = ""
    extra_env: Sequence[Mapping[str, Any]] = ()
    extra_volumes: Sequence[Mapping[str, Any]] = ()
    extra_volume_mounts: Sequence[Mapping[str, Any]] = ()


class Autoscaling(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How many edges there are when their number follows the load."""

    min_replicas: EdgeCount = 2
    max_replicas: EdgeCount = 10
    connections_per_edge: Annotated[int, Meta(ge=1)] = 20_000
    """What one edge shall hold: about 70 % of what it can."""
    deliveries_per_second_per_edge: Annotated[int, Meta(ge=1)] = 100_000
    buffer_percent: Annotated[int, Meta(ge=0, le=400)] = 20
    """Free capacity that is kept for who comes next."""
    scale_down_window_seconds: Seconds = 300
    """For so long fewer edges must have been enough."""


class Edges(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The edges: stateless, they hold the clients' connections."""

    replicas: EdgeCount = 2
    """How many there are; at first, when their number follows the load."""
    autoscaling: Autoscaling | None = None
    """Without it their number is `replicas`."""
    drain_seconds: Seconds = 45
    """Over so long an edge that stops closes its connections."""
    resources: Mapping[str, Mapping[str, str]] = msgspec.field(
        default_factory=lambda: {
            "requests": {"cpu": "250m", "memory": "256Mi"},
            "limits": {"memory": "1Gi"},
        }
    )
    settings: Mapping[str, str] = {}
    """More ROOMFUL_* variables of the edges."""
    pod: Pod = Pod()


class ShardScaling(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How many shards there are when their number follows memory and CPU, slowly."""

    min_count: ShardCount = 1
    max_count: ShardCount = 8
    scale_out_after_seconds: SlowSeconds = 600
    """For so long a shard must have been nearly full."""
    scale_in_after_seconds: SlowSeconds = 3600
    """For so long fewer shards must have been enough."""


class Shards(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The shards: Redis servers, one primary and its replicas each."""

    count: ShardCount = 2
    """How many there are; another number moves rooms while all runs. At first, with autoscaling."""
    replicas: Annotated[int, Meta(ge=0, le=8)] = 2
    """Of each primary; all but one may be lost without waiting for it."""
    acks: Annotated[int, Meta(ge=0, le=8)] = 1
    """How many replicas have a message before its sender hears that it is stored."""
    fsync: bool = False
    """Whether they have it on disk by then."""
    autoscaling: ShardScaling | None = None
    """Without it their number is `count`."""
    image: Name = "redis:8"
    """Redis from 7 or Valkey from 8 on."""
    memory: Quantity = "512Mi"
    """Of one server for data; above it writes are refused."""
    cpu: Quantity = "250m"
    storage_size: Quantity = "4Gi"
    storage_class_name: str = ""
    pod: Pod = Pod()

    @property
    def members(self) -> int:
        """How many servers a shard has."""
        return self.replicas + 1

    @property
    def names(self) -> tuple[ShardName, ...]:
        """Give the names of the shards that are wanted."""
        return tuple(ShardName(f"s{number}") for number in range(1, self.count + 1))


class SecretKey(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One entry of a Secret in the cluster's namespace."""

    name: Name
    key: Name


class Archive(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Where messages are kept for good."""

    dsn: SecretKey
    replicas: Annotated[int, Meta(ge=1, le=100)] = 1
    resources: Mapping[str, Mapping[str, str]] = msgspec.field(
        default_factory=lambda: {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        }
    )
    pod: Pod = Pod()


class Auth(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The secret that tokens are signed with; without one the operator makes it."""

    secret: SecretKey | None = None


class NetworkPolicies(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Who may reach what."""

    enabled: bool = True
    edge_from: Sequence[Mapping[str, Any]] = ()
    """Peers that may connect to edges, as in a NetworkPolicy; none: everyone."""


class Tracing(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Where traces go."""

    endpoint: str = ""
    """The address of an OTLP (HTTP) receiver; empty: nowhere."""
    ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.01


class Identity(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Which object a cluster comes from."""

    name: str
    namespace: str
    uid: str
    generation: int = 1


class Cluster(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A RoomfulCluster, whole."""

    identity: Identity
    is_paused: bool = False
    image: Name
    """Of edges and archiver."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: Sequence[Mapping[str, str]] = ()
    edges: Edges = Edges()
    shards: Shards = Shards()
    archive: Archive | None = None
    auth: Auth = Auth()
    origins: Sequence[str] = ()
    """Of web pages that may connect; * for any."""
    network_policies: NetworkPolicies = NetworkPolicies()
    tracing: Tracing = Tracing()

    @property
    def name(self) -> str:
        """The object's name, with which all names of its parts begin."""
        return self.identity.name


def parse_cluster(document: Mapping[str, Any]) -> Cluster:
    """
    Read a RoomfulCluster object.

    Raises:
        BadSpec: saying which field is wrong, and how.
    """
    metadata = document["metadata"]
    paused = (metadata.get("annotations") or {}).get(PAUSED, "false")
    try:
        return msgspec.convert(
            {**document.get("spec", {}), "identity": metadata, "isPaused": paused != "false"},
            Cluster,
        )
    except msgspec.ValidationError as exc:
        raise BadSpec(f"spec: {exc}") from exc


def parse_quantity(text: str) -> float:
    """
    Read a quantity of Kubernetes, such as 250m or 1Gi.

    Raises:
        BadSpec: it is none.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _SUFFIXES:
        raise BadSpec(f"{text!r} is not a quantity such as 250m or 1Gi")
    return float(match[1]) * _SUFFIXES[match[2]]
