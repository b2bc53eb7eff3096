"""python-socketio calls a handler with exactly the event's arguments: no cursor may be added."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support.deadline import within
from support.server import Server
from support.stock import PythonClient, stock_client
from support.tokens import make_token


@pytest.mark.parametrize("kind", ["python-websocket", "python-polling", "python-upgrade"])
async def test_handler_with_one_parameter_hears_stored_events(
    server: Server, kind: str, room: str, user: Callable[[str], str]
) -> None:
    """`async def on_message(body)` works, as in every python-socketio program there is."""
    async with stock_client(kind, server.url, {"token": make_token(user("alice"))}) as client:
        assert isinstance(client, PythonClient)
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def on_message(body: Any) -> None:
            await heard.put(body)

        client.library.on("message", on_message)
        await client.call("join-room", room)
        await client.call("message", {"roomId": room, "content": "hello"})
        assert (await within(heard.get()))["content"] == "hello"


async def test_recovery_can_be_asked_for(server: Server, user: Callable[[str], str]) -> None:
    """`auth: {recovery: true}` gives a Python client the cursor, for those who want to resume."""
    alice = user("alice")
    auth = {"token": make_token(alice), "recovery": True}
    async with stock_client("python-websocket", server.url, auth) as client:
        await client.call("direct-message", {"userId": alice, "content": 1})
        assert (await client.next("direct-message")).cursor is not None
