"""
What has to be written so that the API server has what a RoomfulCluster asks for: pure.

`build_desired` gives the objects, `reconcile` compares them with those that are there. When they
agree it gives nothing: a cluster at rest costs the API server no write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful_operator.manifests.access import build_accounts, build_budgets, build_policies
from roomful_operator.manifests.archiver import build_archiver
from roomful_operator.manifests.edges import (
    build_edge_services,
    build_edges,
    build_servers,
    edges_name,
    servers_name,
)
from roomful_operator.manifests.parts import ARCHIVER, SHARD_LABEL, SHARD_PORT, Manifest, Part
from roomful_operator.manifests.shards import (
    build_shard_config,
    build_shard_services,
    build_shard_set,
    member_names,
    set_name,
)
from roomful_operator.spec import BadSpec, Cluster, parse_quantity

__all__ = [
    "HASH",
    "Action",
    "Apply",
    "Delete",
    "Desired",
    "Key",
    "Observed",
    "Plan",
    "build_desired",
    "covers",
    "key_of",
    "reconcile",
]

HASH: Final = "roomful.dev/applied"
"""The annotation that tells which manifest an object was made from."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What an object is called within a namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Write this object by server-side apply."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this very object; one of the same name that came later stays."""

    key: Key
    uid: str


Action = Apply | Delete


@dataclass(frozen=True, slots=True)
class Observed:
    """What the API server has of one cluster."""

    objects: Mapping[Key, Manifest] = field(default_factory=dict)
    """Those that the cluster owns, but for Secrets: see signing_in.py."""

    @property
    def shards(self) -> frozenset[ShardName]:
        """Give the shards that have a StatefulSet, wanted or not."""
        return frozenset(
            ShardName(live["metadata"]["labels"][SHARD_LABEL])
            for key, live in self.objects.items()
            if key.kind == "StatefulSet" and SHARD_LABEL in live["metadata"].get("labels", {})
        )

    def addresses(self, names: Iterable[str]) -> dict[str, str]:
        """Give the addresses of the Services *names*, of those that have one."""
        found = {}
        for name in names:
            service = self.objects.get(Key("Service", name), {})
            address = service.get("spec", {}).get("clusterIP", "")
            if address not in ("", "None"):
                found[name] = address
        return found


@dataclass(frozen=True, slots=True)
class Desired:
    """What a cluster shall have."""

    manifests: Sequence[Manifest]
    awaited: frozenset[Key] = frozenset()
    """What cannot be made yet, or not be changed now; if it is there, it stays as it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided outside of the specification: by load, or because data is there."""

    edges: int
    shards: tuple[ShardName, ...]
    """Those that are there, those that come, and those that have not left yet."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Addresses of servers as the topology knows them, by name."""
    has_topology: bool = True
    """Whether all shards have had their roles, ever."""
    passwords: str = ""
    """A word that changes with the passwords of edges and archiver."""


def build_desired(cluster: Cluster, plan: Plan, observed: Observed) -> Desired:
    """
    Give all objects that *cluster* shall have, as far as they can be made by now.

    A shard's servers come when their Services have addresses, edges and archiver when there is a
    topology: before, there is nothing that they could do.
    """
    desired = [*build_accounts(cluster), *build_policies(cluster), *build_edge_services(cluster)]
    desired += build_budgets(cluster, plan.shards)
    awaited: set[Key] = set()
    addresses: list[Address] = []
    for shard in plan.shards:
        names = member_names(cluster, shard)
        desired += build_shard_services(cluster, shard, plan.kept)
        found = observed.addresses(names)
        known = {**plan.kept, **found}
        addresses += [Address(known[name], SHARD_PORT) for name in names if name in known]
        if len(found) < len(names):
            name = set_name(cluster, shard)
            awaited |= {Key("StatefulSet", name), Key("ConfigMap", name)}
            continue
        desired += [build_shard_config(cluster, shard, found), build_shard_set(cluster, shard)]
    servers = Key("ConfigMap", servers_name(cluster))
    if not plan.has_topology:
        programs = (edges_name(cluster), Part(cluster, ARCHIVER).account)
        awaited |= {servers, *(Key("Deployment", name) for name in programs)}
        return Desired(desired, frozenset(awaited))
    if len(addresses) < len(plan.shards) * cluster.shards.members:
        awaited.add(servers)
    else:
        desired.append(build_servers(cluster, addresses))
    word = plan.passwords
    desired.append(build_edges(cluster, replicas=plan.edges, passwords=word))
    if cluster.archive is not None:
        desired.append(build_archiver(cluster, cluster.archive, passwords=word))
    return Desired(desired, frozenset(awaited))


def reconcile(desired: Desired, observed: Observed) -> list[Action]:
    """Give what brings *observed* to *desired*; nothing when it is there already."""
    actions: list[Action] = []
    for manifest in desired.manifests:
        stamped = _stamped(manifest)
        live = observed.objects.get(key_of(manifest))
        if live is None or not covers(live, stamped):
            actions.append(Apply(stamped))
    wanted = {key_of(manifest) for manifest in desired.manifests} | desired.awaited
    actions += [
        Delete(key, live["metadata"]["uid"])
        for key, live in sorted(observed.objects.items())
        if key not in wanted and "deletionTimestamp" not in live["metadata"]
    ]
    return actions


def key_of(manifest: Mapping[str, Any]) -> Key:
    """Give the kind and name of an object."""
    return Key(manifest["kind"], manifest["metadata"]["name"])


def covers(live: Any, wanted: Any) -> bool:
    """
    Whether *live* has everything that *wanted* says; what the API server added is not compared.

    Entries of a list may have moved. A quantity may be written in another way.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return not wanted and live is None
        return all(covers(live.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(live, list):
            return not wanted and live is None
        return all(any(covers(one, value) for one in live) for value in wanted)
    return live == wanted or _is_same_quantity(live, wanted)


def _is_same_quantity(live: Any, wanted: Any) -> bool:
    try:
        return parse_quantity(str(live)) == parse_quantity(str(wanted))
    except BadSpec:
        return False


def _stamped(manifest: Manifest) -> Manifest:
    """Give *manifest* with its own hash: a field that it no longer has is noticed by that."""
    digest = hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), HASH: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
