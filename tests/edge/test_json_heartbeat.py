"""A plain JSON client's heartbeats and its time to sign in: as the settings say, each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, cast

import pytest

from edge.transport import FakeTransport
from edge.world import make_settings
from roomful.edge.edge import Edge
from roomful.edge.json_connection import JsonConnection
from roomful.edge.websocket import Socket
from roomful.protocol.errors import CloseCode
from shard.clock import run


class Pinged(FakeTransport):
    """A WebSocket that notes when it was pinged."""

    def __init__(self) -> None:
        super().__init__()
        self.pings: list[float] = []

    def ping(self) -> None:
        """Note it."""
        self.pings.append(asyncio.get_running_loop().time())


class Place:
    """An edge with one plain JSON connection, and the time since it was made."""

    def __init__(self, *, interval_s: float, timeout_s: float, connect_s: float) -> None:
        settings = make_settings()
        limits = replace(settings.limits, connect_timeout_s=connect_s)
        self.edge = Edge(
            replace(settings, ping_interval_s=interval_s, ping_timeout_s=timeout_s, limits=limits)
        )
        self.edge.start()
        self.socket = Pinged()
        self.began = asyncio.get_running_loop().time()
        self.connection = JsonConnection(self.edge, cast(Socket, self.socket), "", None)
        self.closed_at: float | None = None
        self.socket.on_closed = self._on_closed

    def _on_closed(self) -> None:
        self.closed_at = asyncio.get_running_loop().time() - self.began
        self.connection.on_closed()

    async def pass_by(self, seconds: float, *, answers: bool) -> None:
        """Let time pass; with *answers* the client answers its pings."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
            if answers and self.socket.pings:
                self.connection.on_pong()


def in_loop(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *check* on a clock of its own."""
    run(check())


@pytest.mark.parametrize("connect_s", [3.0, 45.0])
def test_who_does_not_sign_in_is_closed_in_time(connect_s: float) -> None:
    """Also where that is shorter, or longer, than the interval of pings."""

    async def check() -> None:
        place = Place(interval_s=25, timeout_s=20, connect_s=connect_s)
        await place.pass_by(60, answers=True)
        assert place.socket.closed_with is CloseCode.CONNECT_TIMEOUT
        assert place.closed_at is not None
        assert connect_s - 0.5 <= place.closed_at <= connect_s + 1
        await place.edge.aclose()

    in_loop(check)


def test_who_does_not_answer_is_closed_after_the_timeout() -> None:
    """Of the ping, which is not the interval between pings."""

    async def check() -> None:
        place = Place(interval_s=25, timeout_s=5, connect_s=1000)
        await place.pass_by(60, answers=False)
        assert place.socket.closed_with is CloseCode.PING_TIMEOUT
        assert place.closed_at is not None
        assert 29 <= place.closed_at <= 31
        await place.edge.aclose()

    in_loop(check)


def test_who_answers_is_pinged_every_interval() -> None:
    """And stays."""

    async def check() -> None:
        place = Place(interval_s=25, timeout_s=5, connect_s=1000)
        await place.pass_by(110, answers=True)
        assert place.socket.closed_with is None
        at = [ping - place.began for ping in place.socket.pings]
        assert at == pytest.approx([25, 50, 75, 100], abs=3)
        await place.edge.aclose()

    in_loop(check)
