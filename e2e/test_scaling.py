"""Edges and shards in the number that the load asks for, and no message lost on the way."""

from __future__ import annotations

import base64
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from e2e.installation import RELEASE, Installation
from e2e.loaded import assert_kept, assert_resumed
from e2e.shell import ROOT, Shell, eventually

pytestmark = pytest.mark.full

STEADY_S: Final = float(os.environ.get("ROOMFUL_E2E_STEADY_S", "120"))
"""How long edges are watched under a load that stays; 600 are what is promised."""
LARGE: Final = 100_000
"""Characters of a message that fills shards."""
FULL: Final = 0.75
"""Of its memory a shard has used when it is full enough; above 0.7 it is nearly full."""


def balance(chart: Installation) -> list[float]:
    """Give the connections of each edge, as it says itself."""
    counts = []
    for pod in chart.pods("edge"):
        script = (
            "import urllib.request as u;"
            "print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())"
        )
        text = chart.kubectl("exec", pod, "--", "python", "-c", script)
        line = next(one for one in text.splitlines() if one.startswith("roomful_connections "))
        counts.append(float(line.split()[1]))
    return counts


@contextmanager
def autoscaling(
    chart: Installation, part: str, **by_hand: int
) -> Iterator[Callable[[dict[str, int]], None]]:
    """Give what makes the number of *part* follow the load; after the block it is *by_hand*'s."""
    try:
        yield lambda scaling: chart.patch({"spec": {part: {"autoscaling": scaling}}})
    finally:
        chart.patch({"spec": {part: {"autoscaling": None, **by_hand}}})


def test_edges_follow_the_load(chart: Installation, log: Path) -> None:
    """Two edges become four, share the connections evenly, become two again; nothing is lost."""
    scaling = {
        "minReplicas": 2,
        "maxReplicas": 4,
        "connectionsPerEdge": 12,
        "scaleDownWindowSeconds": 60,
    }
    # With the same clients two would do: who goes has clients, and they have to move.
    fewer = {**scaling, "connectionsPerEdge": 30}
    with (
        autoscaling(chart, "edges") as scale,
        chart.load(log, seconds=420, clients=40, rate=20) as load,
    ):
        started = time.monotonic()
        scale(scaling)
        eventually(lambda: len(chart.pods("edge")) == 4, "four edges", timeout_s=90)
        print(f"2 to 4: {time.monotonic() - started:.0f} s")

        def is_even() -> bool:
            counts = balance(chart)
            return len(counts) == 4 and max(counts) <= 1.25 * sum(counts) / 4

        eventually(is_even, "connections are even", timeout_s=210, every_s=5)
        print(f"even: {time.monotonic() - started:.0f} s, {balance(chart)}")
        started = time.monotonic()
        scale(fewer)
        eventually(lambda: len(chart.pods("edge")) == 2, "two edges", timeout_s=300)
        print(f"4 to 2: {time.monotonic() - started:.0f} s")
        assert load.is_running
        assert_resumed(load.report())


def test_a_steady_load_changes_no_edges(chart: Installation, log: Path) -> None:
    """Three edges are right for the clients, and three they are at every moment."""
    scaling = {
        "minReplicas": 2,
        "maxReplicas": 6,
        "connectionsPerEdge": 16,
        "scaleDownWindowSeconds": 60,
    }
    edges = f"{RELEASE}-edge"
    with (
        autoscaling(chart, "edges") as scale,
        chart.load(log, seconds=STEADY_S + 90, clients=40, rate=20) as load,
    ):
        scale(scaling)
        eventually(lambda: len(chart.pods("edge")) == 3, "three edges", timeout_s=90)
        chart.settle()
        # A change between two looks would be another generation.
        before = chart.get("deployment", edges)["metadata"]["generation"]
        time.sleep(STEADY_S)
        after = chart.get("deployment", edges)
        assert (after["metadata"]["generation"], after["spec"]["replicas"]) == (before, 3)
        assert chart.condition("AutoscalerActive")["reason"] == "Steady"
        assert_kept(load.report())


def use_of_memory(chart: Installation, shard: str) -> float:
    """Give the part of its memory that the data of a shard's primary uses."""
    entry = chart.get("secret", f"{RELEASE}-redis")["data"]["controller"]
    login = (f"REDISCLI_AUTH={base64.b64decode(entry).decode()}", "redis-cli")
    info = chart.kubectl(
        *("exec", chart.primary(shard), "--", "env", *login),
        *("--no-auth-warning", "--user", "controller", "info"),
    )
    found = {
        name: int(value) for name, value in re.findall(r"^(\w+):(\d+)\s*$", info, re.MULTILINE)
    }
    # What is kept for replicas counts, and is no data.
    backlog = found["repl_backlog_size"]
    used = found["used_memory"] - min(backlog, found["mem_replication_backlog"])
    return used / (found["maxmemory"] - backlog)


def backend(chart: Installation) -> httpx.Client:
    """Give a client of the REST interface."""
    shell = Shell({"ROOMFUL_AUTH_SECRET": chart.secret()})
    token = shell.run(str(ROOT / ".venv/bin/roomful"), "token", "--service").strip()
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=chart.url, headers=headers, timeout=20)


def fill(chart: Installation, rest: httpx.Client) -> dict[str, list[str]]:
    """Send large messages to many rooms until all shards are full; gives their ids, by room."""
    sent: dict[str, list[str]] = {}
    for number in range(2000):
        if number % 40 == 0 and all(use_of_memory(chart, one) > FULL for one in chart.buckets()):
            return sent
        room = f"large-{number % 200}"
        # An id that was used before would be stored no second time.
        body = {"data": {"content": "x" * LARGE}, "id": (name := secrets.token_hex(16))}
        answer = rest.post(f"/api/rooms/{room}/events", json=body)
        assert answer.status_code == httpx.codes.CREATED, answer.text
        sent.setdefault(room, []).append(name)
    raise AssertionError("the shards do not fill")


def stored(rest: httpx.Client, room: str) -> list[str]:
    """Give the ids of a room's messages, oldest first."""
    found: list[str] = []
    after: int | None = 0
    while after is not None:
        page = rest.get(f"/api/rooms/{room}/history", params={"after": after, "limit": 100}).json()
        found += [one["id"] for one in page["messages"]]
        after = page["next"]
    return found


def test_shards_follow_the_load(chart: Installation, log: Path) -> None:
    """Two shards that are nearly full get a third, which takes its share; nothing is lost."""
    scaling = {"minCount": 2, "maxCount": 3, "scaleOutAfterSeconds": 60}
    shards, sent = set(chart.buckets()), dict[str, list[str]]()
    with autoscaling(chart, "shards", count=2) as scale, backend(chart) as rest:
        try:
            with chart.load(log, seconds=240, rate=20) as load:
                sent = fill(chart, rest)
                started = time.monotonic()
                scale(scaling)

                def is_shared() -> bool:
                    now = chart.buckets()
                    return len(now) == 3 and min(now.values()) >= 340

                eventually(is_shared, "three shards that share evenly", timeout_s=400)
                print(f"2 to 3: {time.monotonic() - started:.0f} s after both were full")
                chart.settle()
                uses = {one: round(use_of_memory(chart, one), 2) for one in chart.buckets()}
                print(f"memory used: {uses}")
                assert len(uses) == 3
                assert max(uses.values()) < 0.7
                assert_kept(load.report())
            for room, ids in sent.items():
                assert stored(rest, room) == ids
        finally:
            for room in sent:
                rest.delete(f"/api/rooms/{room}/messages")
    # How full shards are is looked at once a minute: until then the third one's rooms fit nowhere.
    eventually(lambda: set(chart.buckets()) == shards, "two shards again", timeout_s=180)
    chart.settle()
