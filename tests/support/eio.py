"""Engine.IO v4 spoken by hand: every packet is in the test, none is in a library."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support.deadline import DEADLINE_S, within

__all__ = ["SEPARATOR", "EngineSocket", "Handshake", "Polling", "barrier", "http_client"]

SEPARATOR = "\x1e"
"""Between the packets of one polling payload."""

PING = "2"


@dataclass(frozen=True, slots=True)
class Handshake:
    """The payload of the open packet, as it came."""

    fields: dict[str, Any]

    @classmethod
    def parse(cls, packet: str | bytes) -> Handshake:
        """Parse an open packet, `0{…}`."""
        assert isinstance(packet, str), "the open packet is text"
        assert packet.startswith("0"), packet
        return cls(json.loads(packet[1:]))

    @property
    def sid(self) -> str:
        """The session's id."""
        sid = self.fields["sid"]
        assert isinstance(sid, str)
        return sid


@asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with as many connections as the test has requests."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=DEADLINE_S, limits=limits) as client:
        yield client


class Polling:
    """One long-polling session; each method is one request."""

    def __init__(self, client: httpx.AsyncClient, endpoint: str) -> None:
        self.client = client
        self.endpoint = endpoint
        self.parameters = {"EIO": "4", "transport": "polling"}

    async def open(self) -> Handshake:
        """Open the session; later requests carry its sid."""
        response = await self.client.get(self.endpoint, params=self.parameters)
        assert response.status_code == 200, response.text
        handshake = Handshake.parse(response.text)
        self.parameters = self.parameters | {"sid": handshake.sid}
        return handshake

    @property
    def sid(self) -> str:
        """The session's id."""
        return self.parameters["sid"]

    async def poll(self) -> httpx.Response:
        """Ask for packets; the server answers when it has some."""
        return await self.client.get(self.endpoint, params=self.parameters)

    async def post(self, body: str | bytes) -> httpx.Response:
        """Send packets."""
        return await self.client.post(self.endpoint, params=self.parameters, content=body)

    async def packets(self) -> list[str]:
        """Poll once and split the payload."""
        response = await self.poll()
        assert response.status_code == 200, response.text
        return response.text.split(SEPARATOR)


class EngineSocket:
    """One WebSocket session; pings are shown like every other packet."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def dial(cls, endpoint: str, query: str) -> AsyncIterator[EngineSocket]:
        """Do the WebSocket handshake with exactly this *query*; closes at the end of the block."""
        async with connect(
            f"{endpoint}?{query}",
            compression=None,
            ping_interval=None,
            max_size=None,
            max_queue=None,
            proxy=None,
        ) as connection:
            yield cls(connection)

    @classmethod
    @asynccontextmanager
    async def opened(cls, endpoint: str) -> AsyncIterator[EngineSocket]:
        """Open a session over WebSocket and take its open packet."""
        async with cls.dial(endpoint, "EIO=4&transport=websocket") as socket:
            Handshake.parse(await socket.receive())
            yield socket

    async def send(self, packet: str | bytes) -> None:
        """Send one packet."""
        await self.connection.send(packet)

    async def receive(self) -> str | bytes:
        """Return the next packet."""
        return await within(self.connection.recv())

    async def receive_data(self) -> str | bytes:
        """Return the next packet that is not a ping, answering the pings before it."""
        while (packet := await self.receive()) == PING:
            await self.send("3")
        return packet

    async def wait_closed(self) -> int | None:
        """Read to the end; the code of the server's close frame, None without one."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


async def barrier(endpoint: str) -> None:
    """
    Return when the server has read all that was written to it before this call.

    A whole request on a new connection, after which a server with one event loop has seen every
    socket that was readable before.
    """
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        for _ in range(2):
            await client.get(endpoint, params={"EIO": "4", "transport": "none-such"})
