"""What becomes of orders, with real servers under the controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.driving import Driven
from control.servers import running_fleet
from kube.api_server import running_api_server
from kube.objects import cluster, document
from roomful.cluster.cursor import ShardName
from roomful.control.controller import Controller
from roomful.control.spec import ClusterSpec, Pace
from roomful_operator.api import CLUSTERS, KubernetesApi
from roomful_operator.keeper import Keeper
from roomful_operator.orders import MOVE_BUCKET
from roomful_operator.reconcile import Observed

S1, S2 = ShardName("s1"), ShardName("s2")


@pytest.mark.parametrize(
    ("target", "reason"), [("s2", "MoveOrdered"), ("s9", "MoveRefused")], ids=["done", "refused"]
)
async def test_an_order_to_move_a_bucket_is_carried_out_once(
    tmp_path: Path, target: str, reason: str
) -> None:
    """The bucket moves or stays, the annotation goes, and one event says which."""
    with running_fleet(tmp_path, shards=2, replicas=0) as fleet:
        members = {
            ShardName(name): tuple(server.address for server in servers)
            for name, servers in fleet.shards.items()
        }
        one = Driven(Controller(ClusterSpec(members, 0), pace=Pace(interval_s=0.05, step_s=0.0)))
        async with running_api_server() as (server, configuration):
            api = KubernetesApi(configuration)
            try:
                await one.serve()
                assert one.controller.topology is not None
                bucket = one.controller.topology.buckets.index(S1)
                carried = document(annotations={MOVE_BUCKET: f"{bucket}={target}"})
                server.objects[CLUSTERS.path("rooms", "chat")] = carried
                keeper = Keeper(api, lambda: True)
                await keeper._ordered.obey(cluster(), carried, Observed({}), one.controller)

                owner = S2 if target == "s2" else S1
                status = await one.until(
                    lambda found: (
                        found.topology is not None and found.topology.buckets[bucket] == owner
                    )
                )
                assert status.is_serving
            finally:
                await one.controller.aclose()
                await api.aclose()
        patched = server.objects[CLUSTERS.path("rooms", "chat")]["metadata"]["annotations"]
        assert patched == {}
        events = [found for path, found in server.objects.items() if "/events/" in path]
        assert [event["reason"] for event in events] == [reason]
