"""What every change has to pass: the chart as it is installed, and its first faults."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]  # it has no stubs

from e2e.installation import NAMESPACE, RELEASE, Installation
from e2e.loaded import assert_kept, assert_resumed
from e2e.shell import ROOT, CommandFailed, Shell, eventually

pytestmark = pytest.mark.smoke


def token(chart: Installation, user: str) -> str:
    """Give a user's token."""
    shell = Shell({"ROOMFUL_AUTH_SECRET": chart.secret()})
    program = str(ROOT / ".venv/bin/roomful")
    return shell.run(program, "token", "--user", user, "--rooms", "*").strip()


async def exchange(chart: Installation, transports: list[str]) -> dict[str, Any]:
    """Send a message from one stock client to another; gives what the second one heard."""
    clients = {user: socketio.AsyncClient() for user in ("alice", "bob")}
    heard: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def on_message(message: dict[str, Any], *_cursor: str) -> None:
        if not heard.done():
            heard.set_result(message)

    clients["bob"].on("message", on_message)
    try:
        for user, client in clients.items():
            auth = {"token": token(chart, user)}
            await client.connect(chart.url, auth=auth, transports=transports)
            joined = await client.call("join-room", "lobby", timeout=20)
            assert joined["success"], joined
        sent = {"roomId": "lobby", "content": "hello"}
        ack = await clients["alice"].call("message", sent, timeout=20)
        assert ack["success"], ack
        message = await asyncio.wait_for(heard, 20)
        assert message["id"] == ack["id"]
        return message
    finally:
        for client in clients.values():
            await client.disconnect()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_stock_clients_exchange_a_message(chart: Installation, transport: str) -> None:
    """Two stock Socket.IO clients behind the load balancer hear each other, on either carrier."""
    message = await exchange(chart, [transport])
    assert (message["userId"], message["content"]) == ("alice", "hello")


def test_helm_test_moves_messages_between_edges(chart: Installation) -> None:
    """The chart's own test goes through all edges by their own addresses."""
    output = chart.helm("test", RELEASE, "--logs", timeout_s=180)
    assert re.search(r"edges: http://\S+, http://\S+", output)
    assert '"ok": true' in output


def test_a_lost_node_takes_not_all_edges(chart: Installation) -> None:
    """The two edges are on different nodes, though kind's nodes are in no zone."""
    pods = chart.get("pods", labels="app.kubernetes.io/component=edge")
    nodes = {pod["spec"]["nodeName"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}
    assert len(nodes) == 2


def versions(chart: Installation) -> dict[str, str]:
    """Give the version of every object of the cluster: each write makes another one."""
    kinds = "roomful,deploy,sts,services,configmaps,networkpolicies,pdb,serviceaccounts,secrets"
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for one in chart.get(kinds)
        if one["metadata"]["name"].startswith(RELEASE)
    }


def test_at_rest_nothing_is_written(chart: Installation) -> None:
    """In a minute without events no object of the cluster is written, and no event is posted."""
    # What the helm test and others left has to have gone by.
    time.sleep(15)
    before, events = versions(chart), len(chart.get("events"))
    time.sleep(60)
    assert versions(chart) == before
    assert len(chart.get("events")) <= events


def test_the_operator_is_small(chart: Installation) -> None:
    """It takes less than 150 MB."""
    for pod in chart.get("pods", labels="app.kubernetes.io/name=roomful-operator"):
        name = pod["metadata"]["name"]
        status = chart.kubectl("exec", name, "--", "cat", "/proc/1/status")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        print(f"{name}: {int(match[1]) / 1000:.0f} MB")
        assert int(match[1]) < 150_000


def test_what_is_deleted_or_changed_comes_back(chart: Installation) -> None:
    """The operator repairs what people or programs did to its objects."""
    before = chart.get("service", f"{RELEASE}-s1-0")
    chart.kubectl("delete", "pdb", f"{RELEASE}-s1")
    chart.kubectl("delete", "service", f"{RELEASE}-s1-0")
    chart.kubectl("scale", "deployment", f"{RELEASE}-edge", "--replicas=1")

    def is_repaired() -> bool:
        service = chart.get("service", f"{RELEASE}-s1-0")
        edges = chart.get("deployment", f"{RELEASE}-edge")
        chart.get("pdb", f"{RELEASE}-s1")
        return bool(
            service["metadata"]["uid"] != before["metadata"]["uid"]
            and edges["spec"]["replicas"] == 2
        )

    eventually(is_repaired, "all three are back")
    # The topology knows the server by this address.
    after = chart.get("service", f"{RELEASE}-s1-0")["spec"]["clusterIP"]
    assert after == before["spec"]["clusterIP"]


def test_pausing_stops_all_changes(chart: Installation) -> None:
    """With the annotation nothing is repaired; without it, it is."""
    chart.kubectl("annotate", "roomful", RELEASE, "roomful.dev/paused=true")
    try:
        eventually(lambda: chart.status()["state"] == "Paused", "the state is Paused")
        chart.kubectl("delete", "pdb", f"{RELEASE}-edge")
        time.sleep(15)
        with pytest.raises(CommandFailed, match="NotFound"):
            chart.get("pdb", f"{RELEASE}-edge")
    finally:
        chart.kubectl("annotate", "roomful", RELEASE, "roomful.dev/paused-")
    eventually(lambda: chart.get("pdb", f"{RELEASE}-edge"), "the budget is back")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shards": {"acks": 3, "replicas": 2}}, "acks is above replicas"),
        ({"shards": {"acks": 2}}, "what an acknowledgement means cannot be changed"),
        ({"shards": {"storageSize": "512Mi"}}, "the storage of servers cannot be changed"),
        ({"edges": {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}}, "minReplicas is above"),
        ({"edges": {"replicas": 0}}, "greater than or equal to 1"),
        ({"shards": {"count": 0}}, "greater than or equal to 1"),
    ],
)
def test_bad_changes_are_refused(chart: Installation, changes: dict[str, Any], words: str) -> None:
    """The API server itself refuses what makes no sense, with the sentence people need."""
    with pytest.raises(CommandFailed, match=words):
        chart.patch({"spec": changes})


def test_a_long_name_is_refused(chart: Installation) -> None:
    """A name is part of the labels of all that is made."""
    document = chart.get("roomful", RELEASE)
    name = "a" * 41
    body = {**document, "metadata": {"name": name, "namespace": NAMESPACE}}
    with pytest.raises(CommandFailed, match="longer than 40"):
        chart.kubectl("create", "--filename=-", stdin=json.dumps(body))


# Faults under load --------------------------------------------------------------------------


def test_a_deleted_edge_loses_nothing(chart: Installation, log: Path) -> None:
    """An edge's pod is deleted under load: its clients resume elsewhere."""
    with chart.load(log, seconds=25) as load:
        chart.kubectl("delete", "pod", chart.pods("edge")[0], "--wait=false")
        assert_resumed(load.report())


def test_a_killed_edge_loses_nothing(chart: Installation, log: Path) -> None:
    """An edge's process is killed under load, without a word to anyone."""
    victim = chart.pods("edge")[0]
    with chart.load(log, seconds=25) as load:
        chart.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        assert_resumed(load.report())


def test_a_deleted_primary_loses_nothing(chart: Installation, log: Path) -> None:
    """A shard's primary is deleted under load: a replica takes over."""
    old = chart.primary("s1")
    with chart.load(log, seconds=40) as load:
        chart.kubectl("delete", "pod", old, "--grace-period=0", "--force")
        eventually(lambda: chart.primary("s1") != old, "another primary", timeout_s=30)
        assert_kept(load.report())


# Without stickiness -------------------------------------------------------------------------


async def test_polling_without_stickiness(chart: Installation) -> None:
    """Without the cookie a polling client's requests come to all edges, and it works."""
    chart.upgrade("--set", "loadBalancer.stickySessions=false")
    try:
        for _ in range(3):
            await exchange(chart, ["polling"])
    finally:
        chart.upgrade()
