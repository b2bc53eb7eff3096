"""A message's trace in a real OpenTelemetry collector, the one that the chart brings."""

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
LISTENERS = 4
"""The load balancer spreads them over both edges."""


@dataclass(frozen=True, slots=True)
class LoggedSpan:
    """A span as the collector's debug exporter writes it."""

    edge: str
    trace: str
    parent: str
    span: str
    name: str


_LINE = re.compile(
    r"-> service\.instance\.id: Str\((?P<edge>.+)\)|"
    r"^ +(?P<key>Trace ID|Parent ID|ID|Name) +: (?P<value>\S*)$",
    re.MULTILINE,
)


def logged_spans(log: str) -> Iterator[LoggedSpan]:
    """Read what the collector has written; a span's name is the last of what is looked for."""
    edge, fields = "", dict[str, str]()
    for line in _LINE.finditer(log):
        if line["edge"]:
            edge = line["edge"]
            continue
        fields[line["key"]] = line["value"]
        if line["key"] == "Name":
            yield LoggedSpan(
                edge, fields["Trace ID"], fields["Parent ID"], fields["ID"], fields["Name"]
            )


@pytest.fixture
def collected(chart: Installation) -> Iterator[Installation]:
    """The chart with its collector, which writes down whole spans; nothing is traced unasked."""
    load = ("kind", "load", "docker-image", "--name", chart.name, COLLECTOR)
    chart.shell.run(*load, timeout_s=120)
    values = ("collector.enabled=true", "collector.exporters.debug.verbosity=detailed", "ratio=0")
    chart.upgrade(*(word for value in values for word in ("--set", f"tracing.{value}")))
    try:
        wait = ("rollout", "status", "--timeout=90s")
        for name in ("collector", "edge"):
            chart.kubectl(*wait, f"deployment/{RELEASE}-{name}", timeout_s=100)
        yield chart
    finally:
        chart.upgrade()


async def send_traced(chart: Installation, trace: str, parent: str) -> None:
    """Send one message to clients on all edges, from one that says which trace it is in."""
    shell = Shell({"ROOMFUL_AUTH_SECRET": chart.secret()})
    program = str(ROOT / ".venv/bin/roomful")
    token = shell.run(program, "token", "--user", "alice", "--rooms", "*").strip()
    clients = [socketio.AsyncClient() for _ in range(LISTENERS)]
    heard = [asyncio.Event() for _ in clients]
    try:
        for client, event in zip(clients, heard, strict=True):
            client.on("message", lambda *_, event=event: event.set())
            await client.connect(chart.url, auth={"token": token}, transports=["websocket"])
            assert (await client.call("join-room", "traced", timeout=20))["success"]
        message = {"roomId": "traced", "content": 1, "traceparent": f"00-{trace}-{parent}-01"}
        assert (await clients[0].call("message", message, timeout=20))["success"]
        for event in heard:
            await asyncio.wait_for(event.wait(), 20)
    finally:
        for client in clients:
            await client.disconnect()


async def test_a_message_is_one_trace_in_a_real_collector(collected: Installation) -> None:
    """Client, edge, shard, both edges: the collector has all of it under the client's trace."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    await send_traced(collected, trace, parent)

    def spans() -> list[LoggedSpan]:
        log = collected.kubectl("logs", f"deployment/{RELEASE}-collector", "--tail=-1")
        return [span for span in logged_spans(log) if span.trace == trace]

    eventually(lambda: len(spans()) >= 3, "the spans of both edges are in the collector")
    (publish,) = (span for span in spans() if span.name == "publish")
    delivers = [span for span in spans() if span.name == "deliver"]
    assert publish.parent == parent
    assert {span.parent for span in delivers} == {publish.span}
    assert len({span.edge for span in delivers}) == len(delivers) == 2
