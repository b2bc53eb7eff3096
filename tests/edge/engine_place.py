"""An Engine.IO session that began on polling, and an application that keeps what it hears."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

from edge.transport import FakeTransport
from edge.world import make_settings
from roomful.edge.edge import Edge
from roomful.edge.endpoint import Endpoint
from roomful.edge.engine import EngineConnection
from roomful.edge.websocket import Socket
from roomful.protocol.engineio import Binary, Handshake, Pace, decode_payload
from roomful.protocol.session import Channel
from shard.clock import run

__all__ = [
    "INTERVAL_S",
    "LAST",
    "PLENTY",
    "TIMEOUT_S",
    "Echo",
    "Place",
    "as_socket",
    "in_loop",
    "read",
]

PLENTY = 1 << 20
INTERVAL_S, TIMEOUT_S = 25.0, 20.0
LAST = b'42["last"]'


class Echo:
    """An application that keeps what it hears."""

    def __init__(self) -> None:
        self.is_established = True
        self.heard: list[bytes] = []
        self.upgrades = 0
        self.closes = 0

    def on_text(self, payload: bytes) -> None:
        """Keep it."""
        self.heard.append(payload)

    def on_binary(self, payload: bytes) -> None:
        """Keep it."""
        self.heard.append(Binary(payload))

    def on_upgraded(self) -> None:
        """Count."""
        self.upgrades += 1

    def on_closed(self) -> None:
        """Count."""
        self.closes += 1


class Place:
    """An endpoint with one session that began on polling."""

    def __init__(self, *, is_established: bool = True) -> None:
        self.edge = Edge(make_settings())
        self.edge.start()
        self.echo = Echo()
        self.echo.is_established = is_established
        pace = Pace(int(INTERVAL_S * 1000), int(TIMEOUT_S * 1000), PLENTY)
        self.endpoint = Endpoint(self.edge, "/e/", pace, lambda _engine, _handshake: self.echo)
        self.engine, self.opening = self.endpoint.open_polling(Handshake("polling", None, False))

    def upgrade(self) -> FakeTransport:
        """Let a WebSocket probe and take over."""
        socket = FakeTransport()
        self.engine.probe(as_socket(socket))
        self.engine.receive(Channel.SOCKET, b"2probe")
        self.engine.receive(Channel.SOCKET, b"5")
        return socket


def as_socket(transport: FakeTransport) -> Socket:
    """Give *transport* for a WebSocket: an engine asks no more of one."""
    return cast(Socket, transport)


def in_loop(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *check* on a clock of its own."""
    run(check())


async def read(engine: EngineConnection) -> list[bytes]:
    """Poll, and give the packets."""
    return decode_payload(await engine.poll(PLENTY))
