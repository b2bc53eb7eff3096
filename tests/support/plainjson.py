"""A client of the plain JSON WebSocket, as somebody without any library would write it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from support.deadline import DEADLINE_S, within
from support.inbox import Inbox

__all__ = ["PlainJson", "plain_signed_in"]


class PlainJson:
    """One connection; messages wait by their `type`, acks go to who called."""

    # State: the newest cursor, and the acks awaited by their ref.
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.inbox: Inbox[dict[str, Any]] = Inbox()
        self.cursor: str | None = None
        self.close_code: int | None = None
        self.closed = asyncio.Event()
        self._acks: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()

    @classmethod
    @asynccontextmanager
    async def dial(
        cls,
        url: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        subprotocols: Sequence[str] | None = None,
    ) -> AsyncIterator[PlainJson]:
        """Open the WebSocket; how to sign in is the caller's choice."""
        async with connect(
            f"{url}/ws{query}",
            additional_headers=headers,
            subprotocols=[Subprotocol(name) for name in subprotocols] if subprotocols else None,
            compression=None,
            ping_interval=None,
            max_size=None,
            max_queue=None,
            proxy=None,
        ) as connection:
            client = cls(connection)
            reader = asyncio.create_task(client._read())
            try:
                yield client
            finally:
                reader.cancel()
                await asyncio.wait([reader])

    async def send(self, message: Any) -> None:
        """Send one message as JSON."""
        await self.connection.send(json.dumps(message))

    async def call(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send an operation and return its ack."""
        ref = f"call-{next(self._numbers)}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._acks[ref] = answer
        await self.send({"type": kind, "ref": ref} | fields)
        return await within(answer)

    async def next(self, kind: str, *, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """Take the next message of that type."""
        return await self.inbox.next(kind, seconds=seconds)

    def cut(self) -> None:
        """End the TCP connection without a word."""
        self.connection.transport.abort()

    async def wait_closed(self, *, seconds: float = DEADLINE_S) -> int | None:
        """Return the close code the server gave, None if the connection just ended."""
        await within(self.closed.wait(), seconds=seconds)
        return self.close_code

    async def _read(self) -> None:
        try:
            async for frame in self.connection:
                assert isinstance(frame, str), "plain JSON is text"
                self._receive(json.loads(frame))
        except ConnectionClosed:
            pass
        finally:
            received = self.connection.protocol.close_rcvd
            self.close_code = received.code if received else None
            self._end()

    def _end(self) -> None:
        why = f"connection closed ({self.close_code})"
        self.inbox.end(why)
        self.closed.set()
        for future in self._acks.values():
            if not future.done():
                future.set_exception(ConnectionError(why))
                future.exception()  # marks it as seen

    def _receive(self, message: dict[str, Any]) -> None:
        if "cursor" in message:
            self.cursor = message["cursor"]
        ref = message.get("ref")
        if message["type"] == "ack" and isinstance(ref, str) and ref in self._acks:
            self._acks.pop(ref).set_result(message)
        else:
            self.inbox.put(message["type"], message)


@asynccontextmanager
async def plain_signed_in(url: str, token: str) -> AsyncIterator[PlainJson]:
    """A connection that has signed in with a header, its `connected` taken."""
    headers = {"Authorization": f"Bearer {token}"}
    async with PlainJson.dial(url, headers=headers) as client:
        await client.next("connected")
        yield client
