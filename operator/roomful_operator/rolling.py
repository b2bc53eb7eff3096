"""
Which pod of a shard is replaced next, when the pod template has changed: pure.

Replicas go first, one at a time, each only when the shard serves and every replica follows. The
primary goes last; its role has been handed to an up-to-date replica by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roomful.control.view import Phase, ShardStatus
from roomful_operator.manifests.parts import Manifest

__all__ = ["HandOver", "Replace", "next_step", "outdated_pods"]


@dataclass(frozen=True, slots=True)
class Replace:
    """Delete this pod; the StatefulSet makes it anew from the new template."""

    pod: str
    uid: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Make this server the primary: the present one is to be replaced."""

    pod: str


def outdated_pods(shard_set: Manifest, pods: Sequence[Manifest]) -> list[Manifest]:
    """Give the pods of a StatefulSet that were made from an older template."""
    revision = shard_set.get("status", {}).get("updateRevision")
    is_seen = shard_set["metadata"].get("generation") == shard_set.get("status", {}).get(
        "observedGeneration"
    )
    if not revision or not is_seen:
        return []
    return [
        pod
        for pod in pods
        if pod["metadata"]["name"].rpartition("-")[0] == shard_set["metadata"]["name"]
        and pod["metadata"]["labels"].get("controller-revision-hash") != revision
    ]


def next_step(
    outdated: Sequence[Manifest], status: ShardStatus, names: Mapping[str, str]
) -> Replace | HandOver | None:
    """
    Give what to do next; None: nothing, or not yet.

    Args:
        outdated: the shard's pods that have to be replaced.
        status: how the shard is.
        names: the pod behind each address.
    """
    if not outdated or status.phase is not Phase.SERVING or status.primary is None:
        return None
    if len(status.online) < len(status.replicas):
        return None
    if any("deletionTimestamp" in pod["metadata"] for pod in outdated):
        return None
    primary = names.get(status.primary.host, "")
    old = {pod["metadata"]["name"]: pod for pod in outdated}
    for name, pod in sorted(old.items()):
        if name != primary:
            return Replace(name, pod["metadata"]["uid"])
    if primary not in old:
        return None
    fresh = sorted(
        names[address.host]
        for address in status.online
        if address.host in names and names[address.host] not in old
    )
    if fresh:
        return HandOver(fresh[0])
    # A shard of one server: there is nobody to take over.
    return Replace(primary, old[primary]["metadata"]["uid"])
