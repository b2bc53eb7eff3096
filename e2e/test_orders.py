"""What people order by hand: edges by number, a bucket elsewhere, a node emptied."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.installation import RELEASE, Installation
from e2e.loaded import assert_kept
from e2e.shell import CommandFailed, eventually

pytestmark = pytest.mark.full


def test_edges_are_scaled_by_hand(chart: Installation) -> None:
    """`kubectl scale` changes the number of edges only; those left are on different nodes."""
    servers = chart.pods("shard")
    try:
        # By themselves ReplicaSets let those go first that share a node, as it was at the start.
        chart.kubectl("scale", "roomful", RELEASE, "--replicas=5")
        eventually(lambda: len(chart.pods("edge")) == 5, "five edges")
        chart.settle()
    finally:
        chart.kubectl("scale", "roomful", RELEASE, "--replicas=2")
    eventually(lambda: len(chart.pods("edge")) == 2, "two edges")
    left = [chart.get("pod", name)["spec"]["nodeName"] for name in chart.pods("edge")]
    assert len(set(left)) == 2, left
    assert chart.pods("shard") == servers


@pytest.mark.parametrize(("shard", "reason"), [("s2", "MoveOrdered"), ("s9", "MoveRefused")])
def test_a_bucket_is_moved_by_hand(chart: Installation, shard: str, reason: str) -> None:
    """The order is taken and gone, an event tells of it, and shares are even again."""

    def told() -> int:
        events = chart.get("events")
        return sum(event.get("count", 1) for event in events if event["reason"] == reason)

    before = told()
    chart.kubectl("annotate", "roomful", RELEASE, f"roomful.dev/move-bucket=7={shard}")
    eventually(lambda: told() > before, reason)
    carried = chart.get("roomful", RELEASE)["metadata"].get("annotations", {})
    assert "roomful.dev/move-bucket" not in carried
    chart.settle()
    # Another bucket goes back for it, if that makes shares more even than one off.
    assert all(abs(count - 512) <= 1 for count in chart.buckets().values())


def test_a_node_is_emptied(chart: Installation, log: Path) -> None:
    """
    `kubectl drain` under load: it takes one server of each shard at most, and no message is lost.

    The servers' claims are bound to their node, so they come back with it; a drain that would take
    two of a shard waits for that.
    """
    node = f"{chart.name}-worker2"
    fewest: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for shard in ("s1", "s2"):
                found = chart.get("statefulset", f"{RELEASE}-{shard}")["status"]
                ready = found.get("readyReplicas", 0)
                fewest[shard] = min(fewest.get(shard, ready), ready)

    watcher = threading.Thread(target=look)
    with chart.load(log, seconds=100, rate=20) as load:
        watcher.start()
        try:
            options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=45s")
            # It gives up: with two servers of a shard there, the second one may not go.
            with suppress(CommandFailed):
                chart.shell.run("kubectl", "drain", node, *options, timeout_s=60)
            edges = chart.get("pods", labels="app.kubernetes.io/component=edge")
            assert node not in {one["spec"]["nodeName"] for one in edges}
            time.sleep(5)
        finally:
            over.set()
            watcher.join()
            chart.shell.run("kubectl", "uncordon", node)
        assert_kept(load.report())
    chart.settle()
    assert min(fewest.values()) >= 2, fewest
