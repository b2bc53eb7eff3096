"""The clients people have already, each with each way to connect, behind one small interface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import socketio  # type: ignore[import-untyped]  # python-socketio has no types

from support.deadline import DEADLINE_S
from support.event import Event
from support.inbox import Inbox
from support.jsclient import js_client

__all__ = ["KINDS", "SignInFailed", "StockClient", "stock_client"]

KINDS = [
    f"{language}-{transport}"
    for language in ("js", "python")
    for transport in ("websocket", "polling", "upgrade")
]
"""What stock_client can start."""

_TRANSPORTS = {
    "websocket": ["websocket"],
    "polling": ["polling"],
    "upgrade": ["polling", "websocket"],
}


class SignInFailed(Exception):
    """The client's library reported a connect error with this message."""


class StockClient(Protocol):
    """What the tests do with a client; both libraries can."""

    inbox: Inbox[Event]

    async def emit(self, name: str, *args: Any) -> None:
        """Emit without an ack."""

    async def call(self, name: str, *args: Any) -> Any:
        """Emit and return the one argument of the ack."""

    async def next(self, name: str) -> Event:
        """Take the next event of that name."""


class PythonClient:
    """python-socketio's AsyncClient."""

    def __init__(self) -> None:
        self.inbox: Inbox[Event] = Inbox()
        self.library = socketio.AsyncClient(reconnection=False)
        self.connect_errors: Inbox[Any] = Inbox()
        self.library.on("*", self._hear)
        self.library.on("connect_error", self._hear_refusal)

    async def _hear(self, name: str, *args: Any) -> None:
        self.inbox.put(name, Event(name, list(args)))

    async def _hear_refusal(self, reason: Any) -> None:
        self.connect_errors.put("connect_error", reason)

    async def emit(self, name: str, *args: Any) -> None:
        """Emit without an ack."""
        await self.library.emit(name, args)

    async def call(self, name: str, *args: Any) -> Any:
        """Emit and return the one argument of the ack."""
        return await self.library.call(name, args, timeout=DEADLINE_S)

    async def next(self, name: str) -> Event:
        """Take the next event of that name."""
        return await self.inbox.next(name)


@asynccontextmanager
async def stock_client(kind: str, url: str, auth: dict[str, Any]) -> AsyncIterator[StockClient]:
    """
    A connected client of *kind*; with "upgrade" it is on a WebSocket by then.

    Raises:
        SignInFailed: the server refused the auth.
    """
    language, transport = kind.split("-")
    dial = _javascript if language == "js" else _python
    async with dial(url, auth, transport) as client:
        yield client


@asynccontextmanager
async def _javascript(url: str, auth: dict[str, Any], transport: str) -> AsyncIterator[StockClient]:
    async with js_client(
        url, auth, transports=_TRANSPORTS[transport], reconnection=False
    ) as client:
        kind, report = await client.first_report("connect", "connect_error")
        if kind == "connect_error":
            raise SignInFailed(report["message"])
        if transport == "upgrade" and report["transport"] != "websocket":
            assert (await client.report("upgrade"))["transport"] == "websocket"
        elif transport != "upgrade":
            assert report["transport"] == transport
        yield client


@asynccontextmanager
async def _python(url: str, auth: dict[str, Any], transport: str) -> AsyncIterator[StockClient]:
    client = PythonClient()
    try:
        await client.library.connect(url, auth=auth, transports=_TRANSPORTS[transport])
    except socketio.exceptions.ConnectionError as error:
        reason = await client.connect_errors.next("connect_error")
        raise SignInFailed(str(reason)) from error
    try:
        expected = "polling" if transport == "polling" else "websocket"
        assert client.library.transport() == expected
        yield client
    finally:
        await client.library.disconnect()
