"""Engine.IO v4, "Heartbeat", "Close" and "Upgrade"."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.deadline import DEADLINE_S, eventually
from support.eio import EngineSocket, Polling, barrier
from support.urls import to_ws

HEARTBEATS = 3
INTERVAL_S = 0.3
"""pingInterval of the profile: before it is over, but for a tenth, no ping comes."""
SILENCE_S = 0.5
"""pingInterval and pingTimeout of the profile: a client silent for as long is gone."""
EARLY = 0.9

Attempt = Callable[[], Awaitable[None]]


async def before_a_ping(attempt: Attempt) -> None:
    """
    Make an attempt, and another after one that failed when a ping was due, or over.

    The profile's patience is shorter than a stall of a busy machine. What fails before the first
    ping has no such excuse.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while True:
        began = loop.time()
        try:
            return await attempt()
        except (AssertionError, ConnectionClosed, InvalidHandshake):
            if loop.time() - began < INTERVAL_S * EARLY or loop.time() > end:
                raise


async def assert_alive(socket: EngineSocket, endpoint: str) -> None:
    """The session does its work: it echoes, or answers a CONNECT."""
    if endpoint.endswith("/engine.io/"):
        await socket.send("4hello")
        assert await socket.receive_data() == "4hello"
    else:
        await socket.send("40")
        assert str(await socket.receive_data()).startswith('40{"sid":')


async def heard_to_the_end(socket: EngineSocket) -> list[str | bytes]:
    """Answer nothing until the server closes, and give what it said."""
    heard = []
    async with asyncio.timeout(DEADLINE_S):
        with suppress(ConnectionClosed):
            while True:
                heard.append(await socket.receive())
    return heard


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
    """The server pings every interval; a client that answers in time stays."""

    async def stays() -> bool:
        session = Polling(http, endpoint)
        await session.open()
        for _ in range(HEARTBEATS):
            if (answer := await session.poll()).status_code == 400:
                return False
            assert answer.text == "2"
            if (await session.post("3")).status_code == 400:
                return False
        return True

    await eventually(stays, "a client answers in time, and stays")


async def test_polling_session_ends_at_the_ping_timeout(
    http: httpx.AsyncClient, endpoint: str
) -> None:
    """A client that says nothing for interval and timeout is gone (time itself is tested)."""
    session = Polling(http, endpoint)
    await session.open()
    await asyncio.sleep(SILENCE_S)
    # A server that is late has sent its ping, and hears no answer to it.
    answer = await session.poll()
    if answer.text == "2":
        answer = await session.poll()
    assert answer.status_code == 400


async def test_websocket_heartbeat(endpoint: str) -> None:
    """The server pings every interval; a client that answers in time stays."""

    async def stays() -> bool:
        async with EngineSocket.opened(to_ws(endpoint)) as socket:
            try:
                for _ in range(HEARTBEATS):
                    assert await socket.receive() == "2"
                    await socket.send("3")
            except ConnectionClosed:
                return False
            return True

    await eventually(stays, "a client answers in time, and stays")


async def test_websocket_session_ends_at_the_ping_timeout(endpoint: str) -> None:
    """A client that answers no ping is closed before another, and not before its time is over."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    async with EngineSocket.opened(to_ws(endpoint)) as socket:
        assert (await heard_to_the_end(socket)).count("2") == 1
        assert loop.time() - before > SILENCE_S * EARLY


async def test_polling_client_closes(http: httpx.AsyncClient, endpoint: str) -> None:
    """A close packet ends the pending poll with a noop, and the session."""

    async def attempt() -> None:
        session = Polling(http, endpoint)
        await session.open()
        pending = asyncio.create_task(session.poll())
        await barrier(endpoint)
        await session.post("1")
        answer = await pending
        assert (answer.status_code, answer.text) == (200, "6")
        assert (await session.poll()).status_code == 400

    await before_a_ping(attempt)


async def test_websocket_client_closes(endpoint: str) -> None:
    """A close packet ends the session, and no ping comes before that."""

    async def attempt() -> None:
        async with EngineSocket.opened(to_ws(endpoint)) as socket:
            await socket.send("1")
            assert "2" not in await heard_to_the_end(socket)

    await before_a_ping(attempt)


async def test_upgrade(http: httpx.AsyncClient, endpoint: str) -> None:
    """A probed WebSocket takes the session over; the poll that waits meanwhile gets a noop."""

    async def attempt() -> None:
        session = Polling(http, endpoint)
        await session.open()
        async with EngineSocket.dial(to_ws(endpoint), upgrade_query(session)) as socket:
            await socket.send("2probe")
            assert await socket.receive() == "3probe"
            assert (await session.poll()).text == "6"
            await socket.send("5")
            await assert_alive(socket, endpoint)

    await before_a_ping(attempt)


async def test_poll_after_the_upgrade_is_400(http: httpx.AsyncClient, endpoint: str) -> None:
    """An upgraded session knows no polling, and does not mind it."""

    async def attempt() -> None:
        session = Polling(http, endpoint)
        await session.open()
        async with EngineSocket.dial(to_ws(endpoint), upgrade_query(session)) as socket:
            await upgrade(socket)
            await barrier(endpoint)
            assert (await session.poll()).status_code == 400
            await assert_alive(socket, endpoint)

    await before_a_ping(attempt)


async def test_second_websocket_of_a_session_is_closed(
    http: httpx.AsyncClient, endpoint: str
) -> None:
    """The sid of an upgraded session opens nothing else, and the session does not mind."""

    async def attempt() -> None:
        session = Polling(http, endpoint)
        await session.open()
        async with EngineSocket.dial(to_ws(endpoint), upgrade_query(session)) as socket:
            await upgrade(socket)
            with pytest.raises((InvalidHandshake, ConnectionClosed)):
                await first_packet(endpoint, upgrade_query(session))
            await assert_alive(socket, endpoint)

    await before_a_ping(attempt)
