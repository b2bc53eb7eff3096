"""
The promise, seen from one client: nothing lost, nothing twice, in order, however often it is cut.

ROOMFUL_TEST_CUTS says how often (10 by default; 100 in the long run).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from support.deadline import DEADLINE_S, eventually, within
from support.jsclient import JsClient, js_client
from support.proxy import Proxy
from support.resuming import PlainReceiver, Receiver, RetryingSender, SocketReceiver, running
from support.server import Server
from support.tokens import make_token

CUTS = int(os.environ.get("ROOMFUL_TEST_CUTS", "10"))
MESSAGES_PER_SECOND = 200
BETWEEN_CUTS = 20
"""Messages heard between two cuts, so that each one falls into the stream."""

User = Callable[[str], str]


@asynccontextmanager
async def sending(server: Server, room: str, user: str) -> AsyncIterator[RetryingSender]:
    """Keep messages coming; at the end of the block no new one is sent."""
    sender = RetryingSender(server.ws_url, make_token(user), room, per_second=MESSAGES_PER_SECOND)
    task = asyncio.create_task(sender.run())
    try:
        yield sender
        sender.finish()
        await asyncio.wait_for(task, DEADLINE_S)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_stock_js_client_is_cut(
    server: Server, room: str, user: User, transport: str
) -> None:
    """The stock client recovers every time and hears each message once and in order."""
    auth = {"token": make_token(user("bob"))}
    async with (
        Proxy.before(server.port) as proxy,
        js_client(proxy.url, auth, transports=[transport]) as client,
    ):
        assert (await client.report("connect"))["recovered"] is False
        assert (await client.call("join-room", room))["success"]
        heard: list[int] = []
        async with sending(server, room, user("alice")) as sender:
            for _ in range(CUTS):
                await hear(client, heard, BETWEEN_CUTS)
                await cut_until_noticed(proxy, client)
                assert (await client.report("connect"))["recovered"] is True
        await hear(client, heard, sender.acked - len(heard))
        await client.call("get-presence", room)
        assert client.inbox.pending("message") == []
    assert heard == list(range(sender.acked))


async def cut_until_noticed(proxy: Proxy, client: JsClient) -> None:
    """Cut what is there; between two polls there may be nothing, or nothing that matters."""

    async def is_noticed() -> bool:
        return bool(client.reports.drain("disconnect") or (proxy.cut() and False))

    await eventually(is_noticed, "the client notices a cut")


async def hear(client: JsClient, heard: list[int], count: int) -> None:
    """Move *count* messages from the client to the list."""
    events = await client.inbox.take("message", count)
    heard.extend(event.body["content"] for event in events)


async def test_stock_js_client_is_cut_during_the_replay(
    server: Server, room: str, user: User
) -> None:
    """A cut at the moment of the return, while the replay is on its way, loses nothing either."""
    auth = {"token": make_token(user("bob"))}
    async with (
        Proxy.before(server.port) as proxy,
        js_client(proxy.url, auth, transports=["websocket"]) as client,
    ):
        await client.report("connect")
        assert (await client.call("join-room", room))["success"]
        heard: list[int] = []
        async with sending(server, room, user("alice")) as sender:
            await hear(client, heard, BETWEEN_CUTS)
            proxy.cut()
            for _ in range(CUTS):
                assert (await client.report("connect"))["recovered"] is True
                proxy.cut()
            assert (await client.report("connect"))["recovered"] is True
            await hear(client, heard, BETWEEN_CUTS)
        await hear(client, heard, sender.acked - len(heard))
        await client.call("get-presence", room)
        assert client.inbox.pending("message") == []
    assert heard == list(range(sender.acked))


@pytest.mark.parametrize("kind", [SocketReceiver, PlainReceiver])
async def test_client_by_hand_is_cut(
    server: Server, room: str, user: User, kind: type[Receiver]
) -> None:
    """pid and offset, and plain JSON's `resume`, keep the same promise."""
    async with Proxy.before(server.port) as proxy:
        receiver = kind(proxy.ws_url, make_token(user("bob")), room)
        async with running(receiver):
            await within(receiver.joined.wait())
            async with sending(server, room, user("alice")) as sender:
                for cut in range(1, CUTS + 1):
                    await receiver.wait_heard(len(receiver.heard) + BETWEEN_CUTS)
                    assert proxy.cut() > 0
                    await receiver.wait_recovered(cut)
            await receiver.wait_heard(sender.acked)
    assert receiver.recovered == [True] * CUTS
    assert receiver.heard == list(range(sender.acked))


async def test_sender_is_cut(server: Server, room: str, user: User) -> None:
    """A sender that repeats what was not acked, with its id, is stored once and in order."""
    receiver = SocketReceiver(server.ws_url, make_token(user("bob")), room)
    async with Proxy.before(server.port) as proxy:
        sender = RetryingSender(
            proxy.ws_url, make_token(user("alice")), room, per_second=MESSAGES_PER_SECOND * 10
        )
        async with running(receiver):
            await within(receiver.joined.wait())
            task = asyncio.create_task(sender.run())
            for cut in range(1, CUTS + 1):
                await receiver.wait_heard(len(receiver.heard) + BETWEEN_CUTS)
                proxy.cut()
                await wait_repeated(sender, cut)
            sender.finish()
            await asyncio.wait_for(task, DEADLINE_S)
            await receiver.wait_heard(sender.acked)
    assert receiver.heard == list(range(sender.acked))


async def wait_repeated(sender: RetryingSender, count: int) -> None:
    """Return once the sender has noticed *count* cuts."""

    async def has_noticed() -> bool:
        return sender.repeated >= count

    await eventually(has_noticed, f"{count} repeats")
