"""
A Socket.IO v5 client by hand, over WebSocket: small, strict, and written after the protocol only.

It keeps the session's secret and the newest cursor as the stock JS client does, so that tests can
resume by hand, and it can be cut off without a goodbye.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from support.deadline import DEADLINE_S, within
from support.event import Event
from support.inbox import Inbox

__all__ = ["ConnectRefused", "SocketIo", "signed_in"]

_HEAD = re.compile(r"4([0-6])(?:(\d+)-)?(?:(/[^,]*),)?(\d+)?")
_CONNECT, _DISCONNECT, _EVENT, _ACK, _CONNECT_ERROR, _BINARY_EVENT, _BINARY_ACK = range(7)


class ConnectRefused(AssertionError):
    """The server answered CONNECT with CONNECT_ERROR; `payload` is what it said."""

    def __init__(self, payload: Any) -> None:
        super().__init__(f"refused: {payload}")
        self.payload = payload


class SocketIo:
    """One connection to the main namespace."""

    # State: what CONNECT answered, the newest cursor, acks awaited, and the binary packet that
    # still lacks attachments.
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.inbox: Inbox[Event] = Inbox()
        self.sid = ""
        self.pid: str | None = None
        self.cursor: str | None = None
        self.close_code: int | None = None
        self.closed = asyncio.Event()
        self._acks: dict[int, asyncio.Future[list[Any]]] = {}
        self._numbers = itertools.count()
        self._connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._partial: tuple[re.Match[str], str] | None = None
        self._attachments: list[bytes] = []

    @classmethod
    @asynccontextmanager
    async def dial(cls, url: str) -> AsyncIterator[SocketIo]:
        """Open the Engine.IO session of a client that has not signed in yet."""
        endpoint = f"{url}/socket.io/?EIO=4&transport=websocket"
        async with connect(
            endpoint,
            compression=None,
            ping_interval=None,
            max_size=None,
            max_queue=None,
            proxy=None,
        ) as connection:
            opening = await within(connection.recv())
            assert str(opening).startswith("0{"), opening
            client = cls(connection)
            reader = asyncio.create_task(client._read())
            try:
                yield client
            finally:
                reader.cancel()
                await asyncio.wait([reader])

    async def sign_in(self, auth: Any) -> dict[str, Any]:
        """Send CONNECT with *auth* and return the answer; raises ConnectRefused."""
        if self._connected.done():
            # It has left before, and comes in again.
            self._connected = asyncio.get_running_loop().create_future()
        await self.send("40" + json.dumps(auth))
        answer: dict[str, Any] = await within(self._connected)
        self.sid, self.pid = answer["sid"], answer.get("pid")
        return answer

    async def send(self, packet: str | bytes) -> None:
        """Send a packet as it is."""
        await self.connection.send(packet)

    async def emit(self, name: str, *args: Any) -> None:
        """Send an event and want no ack."""
        await self.send("42" + json.dumps([name, *args]))

    async def start_call(self, name: str, *args: Any) -> asyncio.Future[list[Any]]:
        """Send an event that wants an ack; the future is the ack's arguments."""
        number = next(self._numbers)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._acks[number] = answer
        await self.send(f"42{number}" + json.dumps([name, *args]))
        return answer

    async def call_raw(self, body: str, *attachments: bytes) -> Any:
        """Send an event whose JSON is written by hand, and return the argument of its ack."""
        number = next(self._numbers)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._acks[number] = answer
        await self.send(
            f"45{len(attachments)}-{number}{body}" if attachments else f"42{number}{body}"
        )
        for attachment in attachments:
            await self.send(attachment)
        return (await within(answer))[0]

    async def call(self, name: str, *args: Any) -> Any:
        """Send an event and return the one argument of its ack."""
        (answer,) = await within(await self.start_call(name, *args))
        return answer

    async def next(self, name: str, *, seconds: float = DEADLINE_S) -> Event:
        """Take the next event of that name."""
        return await self.inbox.next(name, seconds=seconds)

    async def join(self, room: str) -> Any:
        """Join *room*, which must work, and return the ack."""
        ack = await self.call("join-room", {"roomId": room})
        assert ack["success"], ack
        return ack

    async def say(self, room: str, content: Any, **fields: Any) -> Any:
        """Send a message, which must be stored, and return the ack."""
        ack = await self.call("message", {"roomId": room, "content": content} | fields)
        assert ack["success"], ack
        return ack

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
                await self._receive(frame)
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
        for future in [self._connected, *self._acks.values()]:
            if not future.done():
                future.set_exception(ConnectionError(why))
                future.exception()  # marks it as seen: not every test waits for every ack

    async def _receive(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self._attachments.append(frame)
            self._complete_binary()
        elif frame == "2":
            await self.send("3")
        elif frame.startswith("4"):
            self._receive_packet(frame)
        else:
            raise AssertionError(f"unexpected Engine.IO packet {frame[:40]!r}")

    def _receive_packet(self, frame: str) -> None:
        head = _HEAD.match(frame)
        assert head is not None, frame[:80]
        assert self._partial is None, "a text packet in the middle of attachments"
        if head[2] is None:
            self._dispatch(head, frame[head.end() :], [])
        else:
            self._partial = (head, frame[head.end() :])
            self._complete_binary()

    def _complete_binary(self) -> None:
        assert self._partial is not None, "an attachment of nothing"
        head, body = self._partial
        if len(self._attachments) == int(head[2]):
            self._partial, attachments, self._attachments = None, self._attachments, []
            self._dispatch(head, body, attachments)

    def _dispatch(self, head: re.Match[str], body: str, attachments: list[bytes]) -> None:
        kind = int(head[1])
        data: Any = json.loads(body) if body else None
        if head[2] is not None:
            data = _fill(data, attachments)
        if kind in (_EVENT, _BINARY_EVENT):
            self._heard(Event(data[0], data[1:]))
        elif kind in (_ACK, _BINARY_ACK):
            self._acks.pop(int(head[4])).set_result(data)
        elif kind == _CONNECT:
            self._connected.set_result(data)
        elif kind == _CONNECT_ERROR:
            self._connected.set_exception(ConnectRefused(data))
        else:
            self.inbox.put("disconnect", Event("disconnect", []))

    def _heard(self, event: Event) -> None:
        if event.args and isinstance(event.args[-1], str):
            self.cursor = event.args[-1]
        self.inbox.put(event.name, event)


def _fill(value: Any, attachments: list[bytes]) -> Any:
    """Put *attachments* where their placeholders are."""
    if isinstance(value, list):
        return [_fill(item, attachments) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            return attachments[value["num"]]
        return {key: _fill(item, attachments) for key, item in value.items()}
    return value


@asynccontextmanager
async def signed_in(url: str, token: str, **auth: Any) -> AsyncIterator[SocketIo]:
    """A connection that has signed in with *token*."""
    async with SocketIo.dial(url) as client:
        await client.sign_in({"token": token} | auth)
        yield client
