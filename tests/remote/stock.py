"""A stock client on an edge in this process: resumes with its pid and its last cursor."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from edge.transport import FakeTransport
from roomful.edge.edge import Edge
from roomful.edge.encoding import Wire
from roomful.edge.socketio_connection import SocketIoConnection
from support.deadline import until
from support.tokens import make_token

__all__ = ["Client"]


class Client:
    """A stock client: it keeps its pid and the last cursor, and resumes with them."""

    # Mutable state: everything.
    def __init__(self, user: str) -> None:
        self.user = user
        self.pid: str | None = None
        self.cursor: str | None = None
        self.heard: dict[str, list[str]] = {}
        """By room, since the client was last told that it may lack something: ids,"""
        self.offsets: dict[str, list[int]] = {}
        """and offsets."""
        self.left: list[tuple[str, str]] = []
        """Users who were said to have left, with the room."""
        self.resumed = 0
        self.anew = 0
        self._acks = 0
        self._asked = 0
        self._transport = FakeTransport()
        self._connection: SocketIoConnection | None = None
        self._is_in = False

    @property
    def is_in(self) -> bool:
        """Whether it is signed in."""
        return self._is_in

    def connect(self, edge: Edge) -> None:
        """Come back, to *edge*."""
        self._is_in = False
        self._transport = FakeTransport()
        self._connection = SocketIoConnection(edge, self._transport, Wire.CURSOR, "")
        self._transport.on_closed = self._connection.on_closed
        auth = {"token": make_token(self.user)}
        if self.pid is not None and self.cursor is not None:
            auth |= {"pid": self.pid, "offset": self.cursor}
        self._connection.on_text(b"0" + msgspec.json.encode(auth))

    async def join(self, *rooms: str) -> None:
        """Join *rooms*."""
        await self._until(lambda: self._is_in)
        for room in rooms:
            assert self._connection is not None
            self.heard[room], self.offsets[room] = [], []
            self._connection.on_text(b'2%d["join-room","%b"]' % (self._asked, room.encode()))
            self._asked += 1
            await self._until(lambda: self._acks == self._asked)

    def cut(self, chance: random.Random) -> None:
        """Lose the connection, with some of what is on its way."""
        if self._connection is not None:
            self.read(chance.randrange(1 + len(self._transport.unread)))
            self._connection.on_closed()
            self._connection = None

    @property
    def is_away(self) -> bool:
        """Whether it has no connection."""
        closed = self._transport.closed_with is not None and not self._transport.unread
        return self._connection is None or closed

    def read(self, count: int = 1 << 30) -> None:
        """Read what has come."""
        for packet in self._transport.take(count):
            text = packet.decode()
            if text.startswith("40"):
                self._connected(msgspec.json.decode(text[2:])["pid"])
            elif text.startswith("43"):
                assert '"success":true' in text, text
                self._acks += 1
            elif text.startswith("42"):
                self._event(*msgspec.json.decode(text[2:]))

    def _connected(self, pid: str) -> None:
        self._is_in = True
        if pid == self.pid:
            self.resumed += 1
            return
        self.anew += self.pid is not None
        self.pid, self.cursor, self.heard, self.offsets = pid, None, {}, {}

    def _event(self, name: str, *arguments: Any) -> None:
        if name == "message":
            body = arguments[0]
            self.heard[body["roomId"]].append(body["id"])
            self.offsets[body["roomId"]].append(body["offset"])
        elif name == "user-left":
            self.left.append((arguments[0]["userId"], arguments[0]["roomId"]))
        if isinstance(arguments[-1], str):
            self.cursor = arguments[-1]

    async def _until(self, condition: Callable[[], bool]) -> None:
        def is_so() -> bool:
            self.read()
            return condition()

        await until(is_so)
