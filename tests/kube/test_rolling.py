"""In which order a shard's pods are replaced."""

from __future__ import annotations

from typing import Any

import pytest

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.view import Phase, ShardStatus
from roomful_operator.rolling import HandOver, Replace, next_step, outdated_pods

PODS = ("chat-s1-0", "chat-s1-1", "chat-s1-2")
NAMES = {f"10.0.0.{number}": pod for number, pod in enumerate(PODS)}
ADDRESSES = tuple(Address(host, 6379) for host in NAMES)


def pod(name: str, revision: str = "old", **metadata: Any) -> dict[str, Any]:
    """Give a pod made from a template's revision."""
    labels = {"controller-revision-hash": revision}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, **metadata}}


def shard(
    primary: int = 0, phase: Phase = Phase.SERVING, online: tuple[int, ...] = (1, 2)
) -> ShardStatus:
    """Give how the shard is."""
    replicas = tuple(one for one in ADDRESSES if one != ADDRESSES[primary])
    return ShardStatus(
        *(ShardName("s1"), phase, "", ADDRESSES[primary], 1, replicas),
        tuple(ADDRESSES[number] for number in online),
    )


def test_replicas_go_first() -> None:
    """Then the role goes to an up-to-date one, and only then the old primary goes."""
    all_old = [pod(name) for name in PODS]
    assert next_step(all_old, shard(), NAMES) == Replace("chat-s1-1", "uid-chat-s1-1")
    assert next_step([all_old[0], all_old[2]], shard(), NAMES) == Replace(
        "chat-s1-2", "uid-chat-s1-2"
    )
    assert next_step([all_old[0]], shard(), NAMES) == HandOver("chat-s1-1")
    handed = shard(primary=1, online=(0, 2))
    assert next_step([all_old[0]], handed, NAMES) == Replace("chat-s1-0", "uid-chat-s1-0")
    assert next_step([], handed, NAMES) is None


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.SERVING])
def test_a_shard_in_trouble_is_left_alone(phase: Phase) -> None:
    """Nothing is replaced while the shard does not serve."""
    assert next_step([pod(name) for name in PODS], shard(phase=phase), NAMES) is None


def test_a_missing_replica_is_waited_for() -> None:
    """The next pod goes when the one before it follows again."""
    assert next_step([pod(name) for name in PODS], shard(online=(1,)), NAMES) is None


def test_a_pod_on_its_way_out_is_waited_for() -> None:
    """One at a time."""
    going = pod("chat-s1-2", deletionTimestamp="2026-01-01T00:00:00Z")
    assert next_step([pod("chat-s1-1"), going], shard(), NAMES) is None


def test_a_shard_of_one_server_is_replaced_as_it_is() -> None:
    """There is nobody to take over."""
    alone = ShardStatus(ShardName("s1"), Phase.SERVING, "", ADDRESSES[0], 1)
    assert next_step([pod("chat-s1-0")], alone, NAMES) == Replace("chat-s1-0", "uid-chat-s1-0")


def test_outdated_is_what_has_another_revision() -> None:
    """Of this StatefulSet only, and only when its controller has seen the newest template."""
    shard_set: dict[str, Any] = {
        "metadata": {"name": "chat-s1", "generation": 2},
        "status": {"updateRevision": "new", "observedGeneration": 2},
    }
    pods = [pod("chat-s1-0"), pod("chat-s1-1", "new"), pod("chat-s10-0")]
    assert [one["metadata"]["name"] for one in outdated_pods(shard_set, pods)] == ["chat-s1-0"]
    shard_set["status"]["observedGeneration"] = 1
    assert outdated_pods(shard_set, pods) == []
