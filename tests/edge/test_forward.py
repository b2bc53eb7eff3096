"""Connections to other edges, kept for the next request and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from roomful.edge import forward
from roomful.edge.forward import Forwarder, Outgoing
from roomful.edge.peers import Address
from support.deadline import DEADLINE_S, until, within

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Peer:
    """An edge that answers each request, and counts its connections."""

    # Mutable state: connections that were made, and those that were closed from the other side.
    def __init__(self) -> None:
        self.made = 0
        self.closed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the other side hangs up."""
        self.made += 1
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(ANSWER)
        self.closed += 1
        writer.close()


@asynccontextmanager
async def listening(peer: Peer) -> AsyncIterator[Address]:
    """Let *peer* listen."""
    async with await asyncio.start_server(peer.serve, "127.0.0.1", 0) as server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


async def ask(forwarder: Forwarder, to: Address) -> bytes:
    """Send one request."""
    request = Outgoing("GET", b"/", ())
    answer = await forwarder.send(to, request, client="127.0.0.1", timeout_s=DEADLINE_S)
    return answer.body


async def test_a_connection_is_used_again() -> None:
    """One after the other, requests need one."""
    peer, forwarder = Peer(), Forwarder("cafe", 1 << 16)
    async with listening(peer) as address:
        for _ in range(3):
            assert await within(ask(forwarder, address)) == b"ok"
        assert (peer.made, forwarder.idle) == (1, 1)
        forwarder.close()
        await until(lambda: peer.closed == 1)


async def test_connections_that_nobody_wants_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those to an edge that no request is for any more: it may be gone."""
    monkeypatch.setattr(forward, "IDLE_S", 0.05)
    peer, forwarder = Peer(), Forwarder("cafe", 1 << 16)
    async with listening(peer) as address:
        await within(asyncio.gather(*(ask(forwarder, address) for _ in range(5))))
        await until(lambda: peer.made > 0 and peer.closed == peer.made)
        assert forwarder.idle == 0
