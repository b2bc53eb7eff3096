"""Who is in a room when connections come, go, break, and are many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_token

User = Callable[[str], str]
LIST_LIMIT = 5


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """A short grace, and rooms that are large early."""
    return {"presence_grace_s": "0.5", "presence_list_limit": str(LIST_LIMIT)}


@asynccontextmanager
async def crowd(server: Server, room: str, count: int) -> AsyncIterator[list[SocketIo]]:
    """Users in a room, one after another."""
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(count):
            token = make_token(f"{room}-{number}")
            client = await stack.enter_async_context(signed_in(server.ws_url, token))
            await client.join(room)
            clients.append(client)
        yield clients


async def test_lost_connection_is_a_leave_after_the_grace(
    server: Server, room: str, user: User
) -> None:
    """A member whose connection broke is there for the grace, and then has left."""
    bob = user("bob")
    loop = asyncio.get_running_loop()
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as watcher,
        signed_in(server.ws_url, make_token(bob)) as member,
    ):
        await watcher.join(room)
        await member.join(room)
        member.cut()
        cut_at = loop.time()
        assert (await watcher.next("user-left")).body["userId"] == bob
        assert loop.time() - cut_at > 0.4
        assert (await watcher.call("get-presence", room))["count"] == 1


async def test_client_that_says_goodbye_leaves_at_once(
    server: Server, room: str, user: User
) -> None:
    """DISCONNECT needs no grace."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as watcher,
        signed_in(server.ws_url, make_token(bob)) as member,
    ):
        await watcher.join(room)
        await member.join(room)
        await member.send("41")
        assert (await watcher.next("user-left", seconds=0.4)).body["userId"] == bob


async def test_large_room_is_counted_not_listed(server: Server, room: str) -> None:
    """Above the list limit only the count is told, and it is right."""
    async with crowd(server, room, LIST_LIMIT + 3) as clients:
        ack = await clients[0].call("get-presence", room)
        assert (ack["members"], ack["count"]) == ([], LIST_LIMIT + 3)
        counted = {"roomId": room, "count": 0}
        while counted["count"] != LIST_LIMIT + 3:
            (counted,) = (await clients[0].next("presence-count")).args
        assert set(counted) == {"roomId", "count"}
        # Those who came while the room was small were told one by one, the others were not.
        assert len(clients[0].inbox.pending("user-joined")) <= LIST_LIMIT


async def test_count_of_a_large_room_is_told_at_most_once_a_second(
    server: Server, room: str
) -> None:
    """Twenty joins and leaves are not twenty events."""
    async with crowd(server, room, LIST_LIMIT + 1) as clients:
        await clients[0].next("presence-count")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(20):
            await clients[-1].call("leave-room", room)
            await clients[-1].join(room)
        seconds = loop.time() - began
        await clients[0].call("get-presence", room)
        assert len(clients[0].inbox.pending("presence-count")) <= seconds + 1


async def test_a_status_goes_with_its_session(server: Server, room: str, user: User) -> None:
    """Who comes in over the same connection, perhaps somebody else, has not set it."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        await client.call("presence", {"status": "away"})
        await client.send("41")
        await client.sign_in({"token": make_token(user("bob"))})
        ack = await client.join(room)
    assert ack["members"] == [{"userId": user("bob"), "status": "online"}]
