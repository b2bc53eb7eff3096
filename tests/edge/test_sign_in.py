"""Signing in on shards that take their time, and clients that do not wait for it."""

from __future__ import annotations

import json
from typing import cast

import pytest

from edge.transport import FakeTransport
from edge.world import World, make_settings
from roomful.edge.edge import Edge
from roomful.edge.encoding import Wire
from roomful.edge.json_connection import JsonConnection
from roomful.edge.socketio_connection import SocketIoConnection
from roomful.edge.websocket import Socket
from shard.clock import run, settle
from support.tokens import make_token


async def _come_to_rest(world: World) -> None:
    world.gates.is_open = True
    while world.gates.open_one(0):
        await settle()
    await settle()


def _check_nobody_left(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for edge in world.edges:
        assert edge.fanout.rooms == {}
        assert not edge.connections
        assert edge.counts.users == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("gates", range(6))
def test_a_client_that_goes_away_while_it_signs_in(
    caplog: pytest.LogCaptureFixture, gates: int
) -> None:
    """At whatever point: nobody is left in the room of its user, and nothing fails."""

    async def check() -> None:
        world = World(hears_all=False)
        world.client.connect(0)
        for _ in range(gates):
            await settle()
            world.gates.open_one(0)
        world.client.cut()
        world.client.notice()
        await _come_to_rest(world)
        _check_nobody_left(world, caplog)
        await world.aclose()

    run(check())


@pytest.mark.parametrize("gates", range(6))
def test_a_client_that_takes_its_connect_back(caplog: pytest.LogCaptureFixture, gates: int) -> None:
    """DISCONNECT before the answer to CONNECT: the connection is closed, or the session over."""

    async def check() -> None:
        world = World(hears_all=False)
        world.client.connect(0)
        for _ in range(gates):
            await settle()
            world.gates.open_one(0)
        connection = world.client._connection
        assert connection is not None
        connection.on_text(b"1")
        await _come_to_rest(world)
        assert connection.record is None
        world.client.cut()
        world.client.notice()
        await settle()
        _check_nobody_left(world, caplog)
        await world.aclose()

    run(check())


def test_only_who_could_resume_by_it_has_a_record() -> None:
    """A plain JSON client resumes by what it says itself, so nothing is written at its joins."""

    async def check() -> None:
        edge = Edge(make_settings())
        edge.start()
        assert edge.memory is not None
        socket = cast(Socket, FakeTransport())
        plain = JsonConnection(edge, socket, "", make_token("alice"))
        plain.on_text(b'{"type":"join-room","roomId":"a1"}')
        await settle()
        assert set(plain.rooms) == {"a1", "user:alice"}
        assert edge.memory.dump().sessions == []
        stock = SocketIoConnection(edge, FakeTransport(), Wire.CURSOR, "")
        stock.on_text(b"0" + json.dumps({"token": make_token("bob")}).encode())
        stock.on_text(b'2["join-room","a1"]')
        await settle()
        ((_, record),) = edge.memory.dump().sessions
        assert set(record.rooms) == {"a1", "user:bob"}
        for connection in (plain, stock):
            connection.on_closed()
        await edge.aclose()

    run(check())
