"""Resuming with plain JSON: the rooms that are named, those that are joined already, and faults."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from edge.transport import FakeTransport
from edge.world import World
from roomful.cluster.cursor import ShardName, decode_cursor
from roomful.edge.json_connection import JsonConnection
from roomful.edge.websocket import Socket
from roomful.protocol.errors import RefusalCode, Refused
from shard.clock import run, settle
from support.tokens import make_token


class Slow(FakeTransport):
    """A client that stops reading: its replay is refused when it has to wait for it."""

    is_stuck = False

    async def drained(self) -> None:
        """Wait until all is read, or give up."""
        if self.is_stuck:
            raise Refused(RefusalCode.OVERLOADED, "the client does not read")
        await super().drained()


class JsonClient:
    """A signed-in plain JSON client on the first edge of a world with one prompt shard."""

    def __init__(self, *, shards: str = "a", kept: int = 10_000, **claims: Any) -> None:
        self.world = World(shards=shards, page_messages=1, kept=kept)
        self.world.gates.is_open = True
        self.transport = Slow()
        token = make_token("alice", **claims)
        # A connection asks no more of its WebSocket than of any transport.
        socket = cast(Socket, self.transport)
        self.connection = JsonConnection(self.world.edges[0], socket, "", token)
        self.transport.on_closed = self.connection.on_closed
        self.heard: list[dict[str, Any]] = []

    async def call(self, **fields: Any) -> dict[str, Any]:
        """Do an operation; gives its ack."""
        self.connection.on_text(json.dumps({**fields, "ref": 1}).encode())
        await self.read()
        acks = [one for one in self.heard if one["type"] == "ack"]
        self.heard = [one for one in self.heard if one["type"] != "ack"]
        return acks[-1]

    async def read(self) -> None:
        """Read all there is."""
        await settle()
        while packets := self.transport.take(1):
            self.heard += map(json.loads, packets)
            await settle()

    async def publish(self, *rooms: str) -> None:
        """Store messages, and let the edge hear them."""
        self.world.publish(rooms)
        await settle()
        for line in self.world.lines:
            line.deliver(1 << 30)
        await settle()

    def offsets(self, room: str) -> list[int]:
        """Give the offsets of the messages of *room* that were heard."""
        return [one["offset"] for one in self.heard if one.get("roomId") == room]


def test_what_was_missed_comes_once_and_before_anything_new() -> None:
    """With rooms named that are not joined yet, and what comes meanwhile."""

    async def check() -> None:
        client = JsonClient()
        await client.read()
        await client.publish("b1", "b2", "b1", "a1")
        ack = await client.call(type="resume", cursor="a.1", rooms=["b1", "b2"])
        await client.publish("b1")
        await client.read()
        assert (ack["recovered"], sorted(ack["rooms"]), ack["holes"]) == (True, ["b1", "b2"], [])
        assert (client.offsets("b1"), client.offsets("b2")) == ([2, 5], [3])

    run(check())


def test_what_was_heard_live_is_not_sent_again() -> None:
    """A client may join first and resume then."""

    async def check() -> None:
        client = JsonClient()
        await client.publish("b1", "b1")
        await client.call(type="join-room", roomId="b1")
        await client.publish("b1")
        await client.call(type="resume", cursor="a.1", rooms=["b1"])
        await client.publish("b1")
        await client.read()
        assert sorted(client.offsets("b1")) == [2, 3, 4]

    run(check())


@pytest.mark.parametrize(
    "cursor", ["a.1-b.1", "a.1", "c.1"], ids=["old", "partly known", "of a shard that left"]
)
def test_each_room_with_a_hole_is_named(cursor: str) -> None:
    """On whichever shard it is: what is not named is no reason to ask for its history."""

    async def check() -> None:
        client = JsonClient(shards="ab", kept=1)
        await client.publish("b1", "a1", "a2", *["a1", "b1", "a2"] * 300)
        ack = await client.call(type="resume", cursor=cursor, rooms=["a1", "a2", "b1"])
        assert (ack["recovered"], sorted(ack["holes"])) == (False, ["a1", "a2", "b1"])

    run(check())


@pytest.mark.parametrize("cursor", ["a.9999", "nonsense!", "z.1"])
def test_a_cursor_that_is_none_of_ours(cursor: str) -> None:
    """Not recovered; the rooms are joined, and heard from now on."""

    async def check() -> None:
        client = JsonClient()
        await client.publish("b1")
        ack = await client.call(type="resume", cursor=cursor, rooms=["b1"])
        assert (ack["success"], ack["recovered"]) == (True, False)
        await client.publish("b1")
        await client.read()
        assert client.offsets("b1") == [2]

    run(check())


def test_a_cursor_never_passes_what_is_still_to_come() -> None:
    """Whatever the client hears while its replay is under way: cut there, nothing is lost."""

    async def check() -> None:
        client = JsonClient()
        await client.call(type="join-room", roomId="a1")
        await client.publish("b1", "b1", "b1")
        resume = {"type": "resume", "cursor": "a.0", "rooms": ["b1"]}
        client.connection.on_text(json.dumps(resume).encode())
        await settle()
        await client.publish("a1")
        received: set[int] = set()
        for packet in client.transport.take(100):
            message = json.loads(packet)
            if message.get("roomId") == "b1":
                received.add(message["offset"])
            if message["type"] == "message":
                reached = decode_cursor(message["cursor"])[ShardName("a")]
                assert received >= {offset for offset in (1, 2, 3) if offset <= reached}

    run(check())


@pytest.mark.parametrize("fault", ["a room that is not allowed", "a client that does not read"])
def test_a_resume_that_is_refused_changes_nothing(fault: str) -> None:
    """The client is told, and hears its rooms as before: its own, and those it had joined."""

    async def check() -> None:
        client = JsonClient(rooms={"b*": ["join"]})
        await client.call(type="join-room", roomId="b1")
        if fault == "a client that does not read":
            await client.publish("b2", "b2", "b2")
            client.transport.is_stuck = True
            ack = await client.call(type="resume", cursor="a.0", rooms=["b1", "b2"])
        else:
            ack = await client.call(type="resume", cursor="a.0", rooms=["b1", "secret"])
        assert ack["success"] is False
        if client.transport.closed_with is None:
            await client.publish("b1", "user:alice")
            await client.read()
            assert len(client.offsets("b1")) == 1
            assert len(client.offsets("user:alice")) == 1

    run(check())
