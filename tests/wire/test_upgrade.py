"""A polling session that becomes a WebSocket in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from support.deadline import within
from support.eio import EngineSocket, Polling
from support.resuming import RetryingSender
from support.server import Server
from support.sio import signed_in
from support.tokens import make_token

User = Callable[[str], str]
MESSAGES = 100


@asynccontextmanager
async def polling_member(
    http: httpx.AsyncClient, server: Server, user: str, room: str
) -> AsyncIterator[Polling]:
    """A polling session that has signed in and joined."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    await session.post("40" + json.dumps({"token": make_token(user)}))
    await session.post("420" + json.dumps(["join-room", room]))
    while not any(packet.startswith("430[") for packet in await session.packets()):
        pass
    yield session


def contents(packets: list[str]) -> list[int]:
    """Return the contents of the `message` events among *packets*."""
    events = [json.loads(packet[2:]) for packet in packets if packet.startswith("42[")]
    return [event[1]["content"] for event in events if event[0] == "message"]


@pytest.mark.parametrize("run", range(3))
async def test_upgrade_in_the_middle_of_a_stream(
    server: Server, http: httpx.AsyncClient, room: str, user: User, run: int
) -> None:
    """What came by polling before and by WebSocket after is everything, once and in order."""
    heard: list[int] = []
    sender = RetryingSender(
        server.ws_url, make_token(user("alice")), room, per_second=500 + 100 * run
    )
    async with polling_member(http, server, user("bob"), room) as session:
        sending = asyncio.create_task(sender.run())
        while len(heard) < MESSAGES:
            heard += contents(await session.packets())
        query = f"EIO=4&transport=websocket&sid={session.sid}"
        async with EngineSocket.dial(f"{server.ws_url}/socket.io/", query) as socket:
            await socket.send("2probe")
            assert await socket.receive() == "3probe"
            # As clients do: the poll under way is ended before the upgrade is completed.
            while (packets := await session.packets()) != ["6"]:
                heard += contents(packets)
            await socket.send("5")
            while len(heard) < 2 * MESSAGES:
                heard += contents([str(await socket.receive_data())])
            sender.finish()
            await within(sending)
            while len(heard) < sender.acked:
                heard += contents([str(await socket.receive_data())])
    assert heard == list(range(sender.acked))


async def test_failed_probe_leaves_the_stream_to_polling(
    server: Server, http: httpx.AsyncClient, room: str, user: User
) -> None:
    """A WebSocket that goes away between probe and upgrade takes nothing with it."""
    async with (
        polling_member(http, server, user("bob"), room) as session,
        signed_in(server.ws_url, make_token(user("alice"))) as sender,
    ):
        await sender.join(room)
        query = f"EIO=4&transport=websocket&sid={session.sid}"
        async with EngineSocket.dial(f"{server.ws_url}/socket.io/", query) as socket:
            await socket.send("2probe")
            assert await socket.receive() == "3probe"
        heard: list[int] = []
        for number in range(10):
            await sender.say(room, number)
        while len(heard) < 10:
            heard += contents(await session.packets())
    assert heard == list(range(10))
