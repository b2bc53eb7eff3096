"""Sids that belong to somebody else, or to nobody any more."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.eio import EngineSocket, Polling, barrier
from support.server import Server
from support.tokens import make_token


@pytest.fixture
def endpoint(server: Server) -> str:
    """Where Socket.IO is."""
    return f"{server.url}/socket.io/"


async def test_two_polls_at_once_end_the_session(http: httpx.AsyncClient, endpoint: str) -> None:
    """The first poll gets the close packet, the second a 400, and the sid is unknown then."""
    session = Polling(http, endpoint)
    await session.open()
    first = asyncio.create_task(session.poll())
    await barrier(endpoint)
    second = await session.poll()
    assert (await first).text == "1"
    assert second.status_code == 400
    assert (await session.poll()).json()["code"] == 1


async def test_bad_packet_in_a_post_is_a_400_and_ends_the_session(
    http: httpx.AsyncClient, endpoint: str
) -> None:
    """Nothing of a payload behind a bad packet is looked at."""
    for body in ("abc", "", "\x1e", "4", "b!!!", "bAQ=\x1e", "40\x1e9", b"\xff\xfe", b'40{"\xff"}'):
        session = Polling(http, endpoint)
        await session.open()
        assert (await session.post(body)).status_code == 400, body
        assert (await session.poll()).status_code == 400, body


async def test_foreign_websocket_sid_is_no_entrance(
    http: httpx.AsyncClient, server: Server, endpoint: str
) -> None:
    """The sid of a session on a WebSocket gives a stranger nothing, and costs its owner nothing."""
    query = "EIO=4&transport=websocket"
    async with EngineSocket.dial(f"{server.ws_url}/socket.io/", query) as socket:
        opening = str(await socket.receive())
        sid = opening.split('"sid":"')[1].split('"')[0]
        stranger = Polling(http, endpoint)
        stranger.parameters |= {"sid": sid}
        assert (await stranger.poll()).status_code == 400
        with pytest.raises((InvalidHandshake, ConnectionClosed)):
            await first_packet(server, f"{query}&sid={sid}")
        await socket.send('40{"token":"' + make_token("alice") + '"}')
        assert str(await socket.receive_data()).startswith("40{")


async def first_packet(server: Server, query: str) -> str | bytes:
    """Open a WebSocket and return what the server says first."""
    async with EngineSocket.dial(f"{server.ws_url}/socket.io/", query) as socket:
        return await socket.receive()


async def test_socketio_sid_is_no_engine_sid(
    http: httpx.AsyncClient, server: Server, endpoint: str
) -> None:
    """What others may see of a session (its Socket.IO sid) opens no transport."""
    async with EngineSocket.opened(f"{server.ws_url}/socket.io/") as socket:
        await socket.send('40{"token":"' + make_token("alice") + '"}')
        answer = str(await socket.receive_data())
        public = answer.split('"sid":"')[1].split('"')[0]
    stranger = Polling(http, endpoint)
    stranger.parameters |= {"sid": public}
    assert (await stranger.poll()).status_code == 400


async def test_closed_session_cannot_be_used_again(http: httpx.AsyncClient, endpoint: str) -> None:
    """After the client's close packet the sid is unknown to every request."""
    session = Polling(http, endpoint)
    await session.open()
    await session.post("1")
    assert (await session.poll()).json()["code"] == 1
    assert (await session.post("3")).json()["code"] == 1


async def test_session_that_was_never_upgraded_survives_a_failed_probe(
    http: httpx.AsyncClient, server: Server, endpoint: str
) -> None:
    """A WebSocket that says nonsense instead of `2probe` is closed; polling goes on."""
    session = Polling(http, endpoint)
    await session.open()
    query = f"EIO=4&transport=websocket&sid={session.sid}"
    async with EngineSocket.dial(f"{server.ws_url}/socket.io/", query) as socket:
        await socket.send("2nonsense")
        await socket.wait_closed()
    await session.post('40{"token":"' + make_token("alice") + '"}')
    assert (await session.packets())[0].startswith("40{")


async def test_sids_are_not_guessable(http: httpx.AsyncClient, endpoint: str) -> None:
    """A thousand sids are all different and have at least 80 bits each."""
    sids = {(await Polling(http, endpoint).open()).sid for _ in range(200)}
    assert len(sids) == 200
    assert min(map(len, sids)) >= 14
