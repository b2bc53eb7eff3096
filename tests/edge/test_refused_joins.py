"""A join that is refused leaves everything as it was, whatever refused it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.transport import FakeTransport
from edge.world import make_settings
from roomful.edge.edge import Edge
from roomful.edge.encoding import Wire
from roomful.edge.socketio_connection import SocketIoConnection
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.message import RoomId
from shard.clock import run, settle
from shard.recording import make_envelope
from support.tokens import make_token

ROOM = RoomId("r")
JOIN = b'27["join-room","r"]'


async def refuse(*_: Any, **__: Any) -> None:
    """Answer as a shard whose disk is full."""
    raise Refused(RefusalCode.SHARD_UNAVAILABLE, "the disk is full")


class Place:
    """An edge with one client."""

    def __init__(self) -> None:
        self.edge = Edge(make_settings())
        self.edge.start()
        self.socket = FakeTransport()
        self.connection = SocketIoConnection(self.edge, self.socket, Wire.CURSOR, "")
        self.connection.on_text(b"0" + json.dumps({"token": make_token("bob")}).encode())

    async def join(self) -> bool:
        """Join, and say whether the answer is success."""
        await settle()
        self.socket.unread.clear()
        self.connection.on_text(JOIN)
        await settle()
        (ack,) = [one for one in self.socket.unread if one.startswith(b"437")]
        return bool(json.loads(ack[3:])[0]["success"])

    async def hears(self) -> bool:
        """Publish, and say whether the client hears it."""
        self.socket.unread.clear()
        self.edge.shards.publish(make_envelope("r", "x"), lambda _: None, is_named=False)
        await settle()
        return any(b'"message"' in one for one in self.socket.unread)

    async def aclose(self) -> None:
        """End."""
        self.connection.on_closed()
        await self.edge.aclose()


def test_who_is_refused_is_not_in_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session could not be kept, on another shard than the room's."""

    async def check() -> None:
        place = Place()
        await settle()
        with monkeypatch.context() as patch:
            patch.setattr(place.edge.memory, "save_session", refuse)
            assert not await place.join()
        assert ROOM not in place.connection.rooms
        assert (await place.edge.shards.members(ROOM)).count == 0
        assert not await place.hears()
        assert await place.join()
        assert await place.hears()
        await place.aclose()

    run(check())


@pytest.mark.parametrize("what", ["join", "save_session"])
def test_who_was_in_the_room_before_stays(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A join that is repeated, and refused, takes nobody out."""

    async def check() -> None:
        place = Place()
        assert await place.join()
        with monkeypatch.context() as patch:
            patch.setattr(place.edge.memory, what, refuse)
            assert not await place.join()
        assert ROOM in place.connection.rooms
        assert await place.hears()
        await place.aclose()

    run(check())
