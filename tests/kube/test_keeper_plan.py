"""What the keeper plans before its controller knows the topology."""

from __future__ import annotations

from kubernetes.client import Configuration

from kube.objects import cluster, settled
from roomful_operator.api import KubernetesApi
from roomful_operator.keeper import Keeper
from roomful_operator.reconcile import Delete, build_desired, reconcile


async def test_a_shard_outlives_a_restart_with_fewer_in_the_specification() -> None:
    """It may own rooms: its servers go only when the topology is known not to have it."""
    observed = settled(cluster({"shards": {"count": 3}}))
    fewer = cluster({"shards": {"count": 2}})
    api = KubernetesApi(Configuration())
    try:
        plan = Keeper(api, lambda: True)._plan(fewer, {}, observed, 2)
    finally:
        await api.aclose()

    assert plan.shards == ("s1", "s2", "s3")
    actions = reconcile(build_desired(fewer, plan, observed), observed)
    assert not [
        action for action in actions if isinstance(action, Delete) and "-s3" in action.key.name
    ]
