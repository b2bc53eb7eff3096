"""Signing in on shards that take their time, and clients that do not wait for it."""

from __future__ import annotations

import pytest

from edge.world import World
from shard.clock import run, settle


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
