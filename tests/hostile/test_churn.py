"""Connections that come and go: what they took is given back when they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import pytest

from support.deadline import eventually
from support.eio import Polling
from support.rawsocket import Opcode, RawSocket, build_frame, close_payload
from support.server import Server
from support.tokens import make_token

WARM_UP = 1_000
CONNECTIONS = 4_000
AT_ONCE = 20
KEPT_BYTES = 4 << 20
"""
The growth that is not held against the server: allocators keep pages. A connection takes about
2 KB when it is closed and not freed, so 4,000 of them are 8 MB.
"""
PATHS = {
    "socket.io": (
        "/socket.io/?EIO=4&transport=websocket",
        '40{"token":"TOKEN"}',
        b"40{",
    ),
    "plain": ("/ws", '{"type":"auth","token":"TOKEN"}', b'{"type":"connected"'),
}


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Timers that look at each connection soon, and no session that outlives its connection."""
    return {"ping_interval_s": "1", "ping_timeout_s": "1", "recovery": "false"}


async def come_and_go(server: Server, wire: str, count: int) -> None:
    """Connect, sign in and close *count* times."""
    path, sign_in, answer = PATHS[wire]
    token = make_token("visitor")
    first = build_frame(Opcode.TEXT, sign_in.replace("TOKEN", token).encode())
    last = build_frame(Opcode.CLOSE, close_payload(1000))
    remaining = iter(range(count))

    async def visit() -> None:
        for _ in remaining:
            async with RawSocket.websocket(server.port, path) as raw:
                await raw.send(first)
                while not (await raw.frame())[1].startswith(answer):
                    pass
                await raw.send(last)
                assert await raw.close_code() == 1000

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(visit())


@pytest.mark.parametrize("wire", list(PATHS))
async def test_closed_connections_are_freed(server: Server, wire: str) -> None:
    """Memory after thousands of connections is what it was before them."""
    await come_and_go(server, wire, WARM_UP)
    before = server.memory_bytes()
    await come_and_go(server, wire, CONNECTIONS)

    async def is_given_back() -> bool:
        return server.memory_bytes() - before < KEPT_BYTES

    await eventually(is_given_back, "the memory of closed connections is given back", seconds=4)


async def test_closed_polling_sessions_are_freed(server: Server, http: httpx.AsyncClient) -> None:
    """The same for sessions that never were on a WebSocket."""

    async def poll_and_go(count: int) -> None:
        for _ in range(count):
            session = Polling(http, f"{server.url}/socket.io/")
            await session.open()
            await session.post("1")

    await poll_and_go(200)
    before = server.memory_bytes()
    await poll_and_go(1_000)
    assert server.memory_bytes() - before < KEPT_BYTES
