"""What the cluster survives without losing an acknowledged message: the rest of the faults."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from e2e.installation import NAMESPACE, RELEASE, Installation
from e2e.loaded import assert_kept, assert_resumed
from e2e.shell import CommandFailed, eventually

pytestmark = pytest.mark.full


def test_a_killed_process_loses_nothing(chart: Installation, log: Path) -> None:
    """An edge's process gets SIGKILL: its container starts again, its clients resume elsewhere."""
    with chart.load(log, seconds=25) as load:
        node, process = chart.process(chart.pods("edge")[0])
        chart.node(node, "kill", "-KILL", process)
        assert_resumed(load.report())


def test_a_stopped_primary_loses_nothing(chart: Installation, log: Path) -> None:
    """A primary gets SIGSTOP, and goes on when another one has its role: it must not write."""
    old = chart.primary("s1")
    node, process = chart.process(old)
    with chart.load(log, seconds=45) as load:
        chart.node(node, "kill", "-STOP", process)
        try:
            eventually(lambda: chart.primary("s1") != old, "another primary", timeout_s=30)
        finally:
            chart.node(node, "kill", "-CONT", process)
        assert_kept(load.report())


def test_edges_roll_without_loss(chart: Installation, log: Path) -> None:
    """Every edge is replaced under load, because a setting changed."""
    before = set(chart.pods("edge"))
    level = "warning" if time.time() % 2 else "info"
    stamp = {"ROOMFUL_LOG_LEVEL": level, "ROOMFUL_LOG_FORMAT": "json"}
    annotations = {"rolled": str(time.time())}
    with chart.load(log, seconds=60) as load:
        edges = {"settings": stamp, "pod": {"annotations": annotations}}
        chart.patch({"spec": {"edges": edges}})
        eventually(lambda: not before & set(chart.pods("edge")), "all edges are new", timeout_s=120)
        assert_resumed(load.report())


def test_shards_roll_without_loss(chart: Installation, log: Path) -> None:
    """Every server of every shard is replaced under load, one at a time, primaries last."""

    def uids() -> set[str]:
        pods = chart.get("pods", labels="app.kubernetes.io/component=shard")
        return {pod["metadata"]["uid"] for pod in pods}

    before = uids()
    annotations = {"rolled": str(time.time())}
    with chart.load(log, seconds=150, rate=20) as load:
        chart.patch({"spec": {"shards": {"pod": {"annotations": annotations}}}})
        eventually(lambda: not before & uids(), "all servers are new", timeout_s=300)
        assert_kept(load.report())


def test_a_primary_dies_while_no_operator_runs(chart: Installation, log: Path) -> None:
    """Nothing is acknowledged until an operator is back; then all goes on, and nothing is lost."""
    old = chart.primary("s1")
    operator = f"deployment/{RELEASE}-operator"
    with chart.load(log, seconds=60) as load:
        chart.kubectl("scale", operator, "--replicas=0")
        try:
            eventually(
                lambda: not chart.get("pods", labels="app.kubernetes.io/name=roomful-operator"),
                "no operator runs",
            )
            chart.kubectl("delete", "pod", old, "--grace-period=0", "--force")
            time.sleep(10)
        finally:
            chart.kubectl("scale", operator, "--replicas=2")
        assert_kept(load.report())
    chart.settle()


def test_the_next_operator_takes_over(chart: Installation) -> None:
    """The leader is killed without a word: another one acts within 20 seconds."""
    leader = chart.leader()
    node, process = chart.process(leader)
    chart.node(node, "kill", "-KILL", process)
    chart.kubectl("delete", "pod", leader, "--grace-period=0", "--force")
    chart.kubectl("delete", "pdb", f"{RELEASE}-edge")
    eventually(lambda: chart.get("pdb", f"{RELEASE}-edge"), "the budget is back", timeout_s=20)


def test_the_api_server_is_away_for_a_minute(chart: Installation, log: Path) -> None:
    """Edges and shards need it for nothing: the load does not notice."""
    node = f"{chart.name}-control-plane"
    manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"
    with chart.load(log, seconds=80) as load:
        chart.node(node, "mv", manifest, "/kube-apiserver.yaml")
        try:
            time.sleep(60)
        finally:
            chart.node(node, "mv", "/kube-apiserver.yaml", manifest)
        assert_kept(load.report())
    eventually(lambda: chart.status()["state"] == "Ready", "it is Ready", timeout_s=180)


def test_a_node_is_restarted(chart: Installation, log: Path) -> None:
    """A node with servers and edges goes and comes back; its servers' data is still there."""
    with chart.load(log, seconds=100) as load:
        chart.shell.run("docker", "restart", f"{chart.name}-worker2")
        assert_kept(load.report())


def test_a_node_is_cut_off(chart: Installation, log: Path) -> None:
    """A node loses its network for 30 seconds: what it held is served elsewhere, and not twice."""
    node = f"{chart.name}-worker2"
    with chart.load(log, seconds=100) as load:
        chart.shell.run("docker", "network", "disconnect", "kind", node)
        try:
            time.sleep(30)
        finally:
            chart.shell.run("docker", "network", "connect", "kind", node)
        assert_kept(load.report())


def test_shards_follow_the_specification(chart: Installation, log: Path) -> None:
    """Two shards become three and two again; no other pod is replaced, nothing is lost."""

    def uids() -> set[str]:
        labels = "app.kubernetes.io/component in (edge,shard)"
        return {pod["metadata"]["uid"] for pod in chart.get("pods", labels=labels)}

    before, shards = uids(), set(chart.buckets())
    with chart.load(log, seconds=120, rate=20) as load:
        started = time.monotonic()
        chart.resize(3)
        chart.settle()
        (new,) = chart.buckets().keys() - shards
        assert min(chart.buckets().values()) >= 340
        print(f"2 to 3: {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        chart.resize(2)
        chart.settle()
        assert chart.buckets().keys() == shards
        assert min(chart.buckets().values()) >= 511
        print(f"3 to 2: {time.monotonic() - started:.0f} s")
        assert_kept(load.report())
    eventually(lambda: uids() == before, "only the new shard's pods are gone")
    with pytest.raises(CommandFailed, match="NotFound"):
        chart.get("statefulset", f"{RELEASE}-{new}")
    # What it stored is nobody's to delete.
    assert chart.get("pvc", f"data-{RELEASE}-{new}-0")


def test_the_operator_dies_in_the_middle_of_a_move(chart: Installation, log: Path) -> None:
    """The one at work is killed while buckets move: the next one finishes it, nothing is lost."""
    shards = set(chart.buckets())
    try:
        with chart.load(log, seconds=150, rate=20) as load:
            chart.resize(3)

            def is_moving() -> bool:
                now = chart.buckets()
                return 0 < sum(now[name] for name in now.keys() - shards) < 340

            eventually(is_moving, "some buckets have moved", timeout_s=120, every_s=0.1)
            node, process = chart.process(chart.leader())
            chart.node(node, "kill", "-KILL", process)
            chart.settle()
            assert min(chart.buckets().values()) >= 340
            assert_kept(load.report())
    finally:
        chart.resize(2)
        chart.settle()


def test_a_namespace_goes_without_an_operator(chart: Installation) -> None:
    """A second release in a namespace of its own; its operator goes first, and nothing hangs."""
    namespace = f"{NAMESPACE}-leaving"
    kubectl = ("kubectl", "--namespace", namespace)
    values = "charts/roomful/ci/kind-values.yaml"
    small = "cluster.shards.count=1,cluster.shards.replicas=0,cluster.shards.acks=0"
    chart.shell.run(
        *("helm", "install", "other", "charts/roomful", "--namespace", namespace),
        *("--create-namespace", "--skip-crds", "--values", values),
        *("--set", f"{small},loadBalancer.enabled=false,cluster.edges.replicas=1"),
    )
    condition = ("--for=condition=Ready", "--timeout=150s")
    chart.shell.run(*kubectl, "wait", "roomful/other", *condition, timeout_s=180)
    chart.shell.run(*kubectl, "delete", "deployment", "other-operator")
    started = time.monotonic()
    chart.shell.run("kubectl", "delete", "namespace", namespace, timeout_s=90)
    took_s = time.monotonic() - started
    print(f"the namespace is gone after {took_s:.0f} s")
    assert took_s < 60
    with pytest.raises(CommandFailed, match="NotFound"):
        chart.shell.run("kubectl", "get", "namespace", namespace)
