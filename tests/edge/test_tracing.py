"""Which messages an edge traces by itself, and what it does with spans of others."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from edge.transport import FakeTransport
from edge.world import make_settings
from roomful.edge.app import build_edge
from roomful.edge.edge import Edge
from roomful.edge.encoding import Wire
from roomful.edge.limits import LimitSettings
from roomful.edge.settings import Settings
from roomful.edge.socketio_connection import SocketIoConnection
from roomful.edge.tracing import Tracing
from roomful.telemetry.settings import TracingSettings
from support.deadline import until
from support.otlp import receiving
from support.tokens import make_token

LIMITS = LimitSettings(
    messages_per_second=1e9,
    message_burst=10**9,
    user_messages_per_second=1e9,
    user_message_burst=10**9,
)


class Recorder(Tracing):
    """Counts the looks at the sampler and the traces that it begins."""

    # Mutable state: the counts.
    def __init__(self, settings: TracingSettings) -> None:
        super().__init__(settings, "e1")
        self.draws = 0

    def gap(self) -> int | None:
        """Count, and draw."""
        self.draws += 1
        return super().gap()

    @property
    def wanted(self) -> int:
        """Spans that were begun, or would have been without a limit."""
        counts = self._spans.statistics
        return counts.begun + counts.dropped


async def sending(tracing: Recorder, messages: int, extra: bytes = b"") -> None:
    """Send *messages*, with *extra* in each, on one connection of an edge with *tracing*."""
    base = make_settings()
    edge = Edge(Settings(auth=base.auth, state_dir="", limits=LIMITS), tracing=tracing)
    edge.start()
    connection = SocketIoConnection(edge, FakeTransport(), Wire.PLAIN, "")
    connection.on_text(b'0{"token":"%b"}' % make_token("alice").encode())
    connection.on_text(b'2["join-room","r"]')
    await until(lambda: "r" in connection.rooms)
    for _ in range(messages):
        connection.on_text(b'2["message",{"roomId":"r","content":1%b}]' % extra)
    connection.on_closed()
    await edge.aclose()


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[str]:
    """Where spans go."""
    with receiving() as receiver:
        yield receiver.url


@pytest.mark.parametrize("ratio", [0.02, 0.3])
async def test_ratio_is_the_part_of_messages_that_is_traced(endpoint: str, ratio: float) -> None:
    """Also of one connection alone, and whatever its credit; within six standard deviations."""
    # One span a second: the others are counted, and deliver nothing that would be counted too.
    tracing = Recorder(TracingSettings(endpoint, ratio=ratio, spans_per_second=1))
    messages = 8_000
    await sending(tracing, messages)
    deviation = math.sqrt(messages * ratio * (1 - ratio))
    assert abs(tracing.wanted - messages * ratio) < 6 * deviation + 20


async def test_sampler_is_looked_at_once_in_sixteen_messages(endpoint: str) -> None:
    """In between there is only the credit that a connection has anyway."""
    tracing = Recorder(TracingSettings(endpoint, ratio=0))
    await sending(tracing, 8_000)
    assert tracing.draws <= 8_000 / 16 + 2
    assert tracing.wanted == 0


@pytest.mark.parametrize(
    ("traceparent", "wanted"),
    [
        ("nonsense", 20),
        ("00-" + "1" * 32 + "-" + "2" * 16 + "-01", 20),
        ("00-" + "1" * 32 + "-" + "2" * 16 + "-00", 0),
    ],
    ids=["none", "sampled", "not sampled"],
)
async def test_traceparent_of_a_message_decides_if_it_is_one(
    endpoint: str, traceparent: str, wanted: int
) -> None:
    """One that cannot be read is as good as none: then the ratio decides, which is all here."""
    tracing = Recorder(TracingSettings(endpoint, ratio=1))
    await sending(tracing, 20, b',"traceparent":"%b"' % traceparent.encode())
    assert tracing.wanted == wanted


def test_endpoint_without_the_packages_is_one_clear_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are an extra, so this is what many see first."""
    monkeypatch.setitem(sys.modules, "roomful.edge.tracing", None)
    settings = dataclasses.replace(make_settings(), tracing=TracingSettings("http://c:4318"))
    with pytest.raises(ValueError, match=r"not installed: pip install 'roomful\[tracing\]'"):
        build_edge(settings)
