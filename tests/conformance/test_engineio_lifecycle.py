"""Engine.IO v4, "Heartbeat", "Close" and "Upgrade"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.deadline import within
from support.eio import EngineSocket, Polling, barrier
from support.urls import to_ws

HEARTBEATS = 3
SILENCE_S = 0.5
"""pingInterval and pingTimeout of the profile: a client silent for as long is gone."""
NEVER_LATER_THAN_S = 2.0


@asynccontextmanager
async def staying_alive(socket: EngineSocket, endpoint: str) -> AsyncIterator[None]:
    """
    Whether the session still does its work after the block: it echoes, or answers a CONNECT.

    Its pings are answered meanwhile: the profile's are as short as a stall of a busy machine.
    """
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(socket.receive_data())
        yield
        if endpoint.endswith("/engine.io/"):
            await socket.send("4hello")
            assert await answer == "4hello"
        else:
            await socket.send("40")
            assert str(await answer).startswith('40{"sid":')


async def upgrade(socket: EngineSocket) -> None:
    """Probe and complete the upgrade on a WebSocket that carries the session's sid."""
    await socket.send("2probe")
    assert await socket.receive() == "3probe"
    await socket.send("5")


async def first_packet(endpoint: str, query: str) -> str | bytes:
    """Open a WebSocket with *query* and return what the server says first."""
    async with EngineSocket.dial(to_ws(endpoint), query) as socket:
        return await socket.receive()


def upgrade_query(session: Polling) -> str:
    """Return the query of the WebSocket that takes the session over."""
    return f"EIO=4&transport=websocket&sid={session.sid}"


async def test_polling_heartbeat(http: httpx.AsyncClient, endpoint: str) -> None:
    """The server pings every interval; a client that answers stays."""
    session = Polling(http, endpoint)
    await session.open()
    for _ in range(HEARTBEATS):
        assert (await session.poll()).text == "2"
        assert (await session.post("3")).status_code == 200


async def test_polling_session_ends_at_the_ping_timeout(
    http: httpx.AsyncClient, endpoint: str
) -> None:
    """A client that says nothing for interval and timeout is gone (time itself is tested)."""
    session = Polling(http, endpoint)
    await session.open()
    await asyncio.sleep(SILENCE_S)
    assert (await session.poll()).status_code == 400


async def test_websocket_heartbeat(endpoint: str) -> None:
    """The server pings every interval; a client that answers stays."""
    async with EngineSocket.opened(to_ws(endpoint)) as socket:
        for _ in range(HEARTBEATS):
            assert await socket.receive() == "2"
            await socket.send("3")


async def test_websocket_session_ends_at_the_ping_timeout(endpoint: str) -> None:
    """A client that answers no ping is closed, and not before its time is over."""
    loop = asyncio.get_running_loop()
    async with EngineSocket.opened(to_ws(endpoint)) as socket:
        opened = loop.time()
        await within(socket.wait_closed(), seconds=NEVER_LATER_THAN_S)
        assert loop.time() - opened > SILENCE_S * 0.9


async def test_polling_client_closes(http: httpx.AsyncClient, endpoint: str) -> None:
    """A close packet ends the pending poll with a noop, and the session."""
    session = Polling(http, endpoint)
    await session.open()
    pending = asyncio.create_task(session.poll())
    await barrier(endpoint)
    await session.post("1")
    answer = await pending
    assert (answer.status_code, answer.text) == (200, "6")
    assert (await session.poll()).status_code == 400


async def test_websocket_client_closes(endpoint: str) -> None:
    """A close packet ends the session."""
    async with EngineSocket.opened(to_ws(endpoint)) as socket:
        await socket.send("1")
        await within(socket.wait_closed(), seconds=NEVER_LATER_THAN_S)


async def test_upgrade(http: httpx.AsyncClient, endpoint: str) -> None:
    """A probed WebSocket takes the session over; the poll that waits meanwhile gets a noop."""
    session = Polling(http, endpoint)
    await session.open()
    async with EngineSocket.dial(to_ws(endpoint), upgrade_query(session)) as socket:
        await socket.send("2probe")
        assert await socket.receive() == "3probe"
        assert (await session.poll()).text == "6"
        await socket.send("5")
        async with staying_alive(socket, endpoint):
            pass


async def test_poll_after_the_upgrade_is_400(http: httpx.AsyncClient, endpoint: str) -> None:
    """An upgraded session knows no polling, and does not mind it."""
    session = Polling(http, endpoint)
    await session.open()
    async with EngineSocket.dial(to_ws(endpoint), upgrade_query(session)) as socket:
        await upgrade(socket)
        async with staying_alive(socket, endpoint):
            await barrier(endpoint)
            assert (await session.poll()).status_code == 400


async def test_second_websocket_of_a_session_is_closed(
    http: httpx.AsyncClient, endpoint: str
) -> None:
    """The sid of an upgraded session opens nothing else, and the session does not mind."""
    session = Polling(http, endpoint)
    await session.open()
    async with EngineSocket.dial(to_ws(endpoint), upgrade_query(session)) as socket:
        await upgrade(socket)
        async with staying_alive(socket, endpoint):
            with pytest.raises((InvalidHandshake, ConnectionClosed)):
                await first_packet(endpoint, upgrade_query(session))
