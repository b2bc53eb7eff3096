"""Edges that die, hang or go away while they have or carry another's sessions."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from support.deadline import within
from support.edges import ended, listed_edges, metric, passing
from support.eio import EngineSocket, Polling
from support.server import Server

UNKNOWN = {"code": 1, "message": "Session ID unknown"}
SETTINGS = {"ping_interval_s": "1", "ping_timeout_s": "2"}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two edges of this test's own."""
    with listed_edges(tmp_path, 2, SETTINGS) as servers:
        yield servers


async def roamed(http: httpx.AsyncClient, servers: list[Server]) -> Polling:
    """A session of the first edge that talks to the second, once with success."""
    session = Polling(http, f"{servers[0].url}/socket.io/")
    await session.open()
    session.endpoint = f"{servers[1].url}/socket.io/"
    assert (await session.post("3")).text == "ok"
    return session


async def upgrade_status(server: Server, sid: str) -> int:
    """Try to upgrade at *server*, which refuses it; the status."""
    query = f"EIO=4&transport=websocket&sid={sid}"
    with pytest.raises(InvalidStatus) as refused:
        async with EngineSocket.dial(f"{server.ws_url}/socket.io/", query):
            pass
    status: int = refused.value.response.status_code
    return status


async def test_a_killed_edge_takes_its_sessions_with_it(
    servers: list[Server], http: httpx.AsyncClient
) -> None:
    """A poll under way, a later one and an upgrade hear at once that the session is unknown."""
    session = await roamed(http, servers)
    poll = asyncio.create_task(session.poll())
    await passing(http, servers[1], 1)
    servers[0].process.kill()
    for answer in (await within(poll), await session.poll(), await session.post("3")):
        assert (answer.status_code, answer.json()) == (400, UNKNOWN)
    assert await upgrade_status(servers[1], session.sid) == 400
    assert await metric(http, servers[1], "roomful_forwards_failed_total") == 4


async def test_an_edge_that_hangs_is_given_up_in_time(
    servers: list[Server], http: httpx.AsyncClient
) -> None:
    """A stopped process keeps its sockets: after ping interval and timeout the client hears 503."""
    session = await roamed(http, servers)
    os.kill(servers[0].process.pid, signal.SIGSTOP)
    try:
        answer = await session.poll()
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["message"]
    finally:
        os.kill(servers[0].process.pid, signal.SIGCONT)


async def test_an_edge_that_goes_away_ends_what_it_carries(
    servers: list[Server], http: httpx.AsyncClient
) -> None:
    """A drain cuts spliced WebSockets and passed polls; their own edge ends those sessions."""
    upgraded, polling = await roamed(http, servers), await roamed(http, servers)
    poll = asyncio.create_task(polling.poll())
    query = f"EIO=4&transport=websocket&sid={upgraded.sid}"
    async with EngineSocket.dial(f"{servers[1].ws_url}/socket.io/", query) as socket:
        await socket.send("2probe")
        assert await socket.receive() == "3probe"
        await socket.send("5")
        await passing(http, servers[1], 2)
        servers[1].process.terminate()
        await within(socket.wait_closed())
    assert (await within(poll)).status_code == 503
    assert await asyncio.to_thread(servers[1].process.wait, 30) == 0
    for session in (upgraded, polling):
        await ended(session, servers[0])
