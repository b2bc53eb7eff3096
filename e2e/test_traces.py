"""Traces of messages arrive in a real OpenTelemetry collector."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import socketio  # type: ignore[import-untyped]  # it has no stubs

from e2e.installation import RELEASE, Installation
from e2e.shell import ROOT, Shell, eventually

pytestmark = pytest.mark.full

COLLECTOR = "otel/opentelemetry-collector:0.164.0"
"""The default of the chart's values."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A span, as the collector wrote it down."""

    name: str
    trace: str
    span: str
    parent: str
    edge: str


def _field(text: str, name: str) -> str:
    found = re.search(rf"^\s*{name}\s*: *(\S*)$", text, re.MULTILINE)
    assert found is not None, (name, text)
    return found[1]


def spans(log: str) -> list[Seen]:
    """Read what the collector's debug exporter writes when it is to be detailed."""
    found = []
    for resource in log.split("ResourceSpans #")[1:]:
        edge = re.search(r"service\.instance\.id: Str\((.*?)\)", resource)
        assert edge is not None, resource
        for text in resource.split("\nSpan #")[1:]:
            name, trace, span, parent = (
                _field(text, field) for field in ("Name", "Trace ID", "ID", "Parent ID")
            )
            found.append(Seen(name, trace, span, parent, edge[1]))
    return found


@pytest.fixture
def collected(chart: Installation) -> Iterator[Installation]:
    """Give the chart with its collector, and take that away again."""
    chart.bring(COLLECTOR)
    exporter = "tracing.collector.exporters.debug.verbosity=detailed"
    # Only who asks is traced.
    chart.upgrade(
        *("--set", "tracing.collector.enabled=true"), *("--set", exporter), "--set=tracing.ratio=0"
    )
    for name in ("collector", "edge"):
        chart.kubectl(
            *("rollout", "status", f"deployment/{RELEASE}-{name}", "--timeout=120s"),
            timeout_s=130,
        )
    yield chart
    chart.upgrade()


async def send_one(chart: Installation, traceparent: str) -> None:
    """Send one message, with *traceparent*, to clients of all edges."""
    shell = Shell({"ROOMFUL_AUTH_SECRET": chart.secret()})
    program = str(ROOT / ".venv/bin/roomful")
    token = shell.run(program, "token", "--user", "alice", "--rooms", "*").strip()
    # The load balancer spreads them.
    clients = [socketio.AsyncClient(reconnection=False) for _ in range(8)]
    try:
        for client in clients:
            await client.connect(chart.url, auth={"token": token}, transports=["websocket"])
            assert (await client.call("join-room", "traced", timeout=20))["success"]
        message = {"roomId": "traced", "content": "hello", "traceparent": traceparent}
        ack = await clients[0].call("message", message, timeout=20)
        assert ack["success"], ack
    finally:
        for client in clients:
            await client.disconnect()


def test_one_message_over_two_edges_is_one_trace(collected: Installation) -> None:
    """From the client through its edge, a shard and another edge, as the collector got it."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    asyncio.run(send_one(collected, f"00-{trace}-{parent}-01"))

    def arrived() -> list[Seen]:
        log = collected.kubectl("logs", f"deployment/{RELEASE}-collector", "--tail=-1")
        found = spans(log)
        return found if len(found) >= 3 else []

    found = eventually(arrived, "three spans are in the collector")
    assert {one.trace for one in found} == {trace}
    (publish,) = (one for one in found if one.name == "publish")
    delivers = [one for one in found if one.name == "deliver"]
    assert publish.parent == parent
    assert [one.parent for one in delivers] == [publish.span] * 2
    assert len({one.edge for one in delivers}) == 2
    assert publish.edge in {one.edge for one in delivers}
