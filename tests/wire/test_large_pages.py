"""Much to read, and a client that reads it all: nobody is closed for what it asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from support.deadline import within
from support.eio import Polling
from support.plainjson import plain_signed_in
from support.resuming import SocketReceiver, running
from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_service_token, make_token

User = Callable[[str], str]
MESSAGES = 60
CONTENT = "x" * 200_000


async def fill(server: Server, user: str, room: str) -> None:
    """Store 12 MB in the room."""
    async with signed_in(server.ws_url, make_token(user)) as sender:
        await sender.join(room)
        for _ in range(MESSAGES):
            await sender.say(room, CONTENT)


@pytest.mark.parametrize("limit", [100, 20])
async def test_history_of_large_messages_is_read_page_by_page(
    server: Server, room: str, user: User, limit: int
) -> None:
    """A page may have fewer messages than asked for; following `next` gives all of them once."""
    await fill(server, user("alice"), room)
    async with signed_in(server.ws_url, make_token(user("bob"))) as client:
        found: list[int] = []
        question = {"roomId": room, "limit": limit, "after": 0}
        while question["after"] is not None:
            page = await client.call("history", question)
            assert page["success"], page
            found += [message["offset"] for message in page["messages"]]
            question["after"] = page["next"]
    assert len(found) == MESSAGES
    assert found == sorted(set(found))


async def test_history_of_large_messages_over_plain_json(
    server: Server, room: str, user: User
) -> None:
    """The same on the other wire."""
    await fill(server, user("alice"), room)
    async with plain_signed_in(server.ws_url, make_token(user("bob"))) as client:
        page = await client.call("history", roomId=room, limit=100)
        assert page["messages"]
        assert (await client.call("join-room", roomId=room))["success"]


async def test_history_of_large_messages_over_polling(
    server: Server, http: httpx.AsyncClient, room: str, user: User
) -> None:
    """A polling client gets its page too, and keeps its session."""
    await fill(server, user("alice"), room)
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    await session.post("40" + json.dumps({"token": make_token(user("bob"))}))
    await session.post("420" + json.dumps(["history", {"roomId": room, "limit": 100}]))
    packets: list[str] = []
    while not any(packet.startswith("430[") for packet in packets):
        packets = await session.packets()
    (page,) = json.loads(packets[-1].removeprefix("430"))
    assert page["messages"]


async def test_large_backlog_is_recovered(server: Server, room: str, user: User) -> None:
    """A client that missed 12 MB and reads gets them all, and is not taken for a slow one."""
    token = make_token(user("bob"))
    async with signed_in(server.ws_url, token) as old:
        await old.join(room)
        await old.say(room, "before")
        await old.next("message")
        old.cut()
        await old.closed.wait()
    await fill(server, user("alice"), room)
    async with SocketIo.dial(server.ws_url) as new:
        await new.sign_in({"token": token, "pid": old.pid, "offset": old.cursor})
        assert new.pid == old.pid
        heard = await new.inbox.take("message", MESSAGES)
        await new.say(room, "after")
        assert (await new.next("message")).body["content"] == "after"
    offsets = [event.body["offset"] for event in heard]
    assert offsets == sorted(set(offsets))


async def test_burst_of_large_messages_is_heard_by_all(
    server: Server, http: httpx.AsyncClient, room: str, user: User
) -> None:
    """
    Ten messages near the payload limit at once are 9 MB, more than a send buffer.

    A member may be closed as slow for that; it resumes, and has heard each of them once.
    """
    headers = {"Authorization": f"Bearer {make_service_token()}"}
    receivers = [SocketReceiver(server.ws_url, make_token(user(f"u{n}")), room) for n in range(3)]

    async def post(number: int) -> None:
        body = {"data": [number, "x" * 900_000]}
        answer = await http.post(
            f"{server.url}/api/rooms/{room}/events", json=body, headers=headers
        )
        assert answer.is_success, answer.text

    async with running(*receivers):
        for receiver in receivers:
            await within(receiver.joined.wait())
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(post(number))
        for receiver in receivers:
            await receiver.wait_heard(10)
    for receiver in receivers:
        assert all(receiver.recovered), receiver
        assert sorted(content[0] for content in receiver.heard) == list(range(10))
        assert receiver.heard == receivers[0].heard
