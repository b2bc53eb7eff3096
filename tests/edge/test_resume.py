"""
Resuming, whatever happens when: a client gets exactly what is owed to it, once, in order on each
shard, and the cursor it holds at any moment tells what it has from what it has not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.resuming import MOVING, PAGES, SCHEDULE, Schedule, check
from edge.world import Client, World
from roomful.edge import edge as edge_module
from roomful.edge import room as room_module
from roomful.edge.sign_in import RENEW_S
from roomful.shard.base import Replay, SessionRecord
from roomful.shard.message import RoomId
from shard.clock import run, settle


@pytest.mark.parametrize("shards", ["a", "ab"])
@settings(max_examples=150)
@given(schedule=SCHEDULE, page_messages=PAGES)
def test_nothing_is_lost_and_nothing_comes_twice(
    shards: str, schedule: Schedule, page_messages: int
) -> None:
    """On shards whose stream tells an edge of every room, as the embedded one does."""
    check(schedule, shards=shards, page_messages=page_messages)


@settings(max_examples=150)
@given(schedule=SCHEDULE, page_messages=PAGES)
def test_the_same_where_only_held_rooms_are_heard(schedule: Schedule, page_messages: int) -> None:
    """On shards whose stream tells an edge only of the rooms that it holds."""
    check(schedule, hears_all=False, page_messages=page_messages)


@settings(max_examples=150)
@given(schedule=MOVING, page_messages=PAGES)
def test_the_same_while_rooms_move(schedule: Schedule, page_messages: int) -> None:
    """From shard to shard and back; edges hear of it late, and some cannot hear it to the end."""
    check(schedule, hears_all=False, page_messages=page_messages)


@settings(max_examples=100)
@given(schedule=MOVING, kept=st.integers(1, 6))
def test_a_hole_is_told_while_rooms_move(schedule: Schedule, kept: int) -> None:
    """With logs so short that they may not reach back, wherever they are then."""
    check(schedule, hears_all=False, page_messages=2, kept=kept)


@settings(max_examples=100)
@given(schedule=SCHEDULE, page_messages=PAGES)
def test_the_same_while_the_transport_is_upgraded(schedule: Schedule, page_messages: int) -> None:
    """With a client that begins on polling and goes over to a WebSocket whenever it likes."""
    check(schedule, upgrades=True, page_messages=page_messages)


@settings(max_examples=100)
@given(schedule=SCHEDULE, waiting=st.integers(0, 2))
def test_the_same_when_more_comes_than_can_be_collected(schedule: Schedule, waiting: int) -> None:
    """What does not fit behind the barrier is read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room_module, "WAITING_BYTES", waiting * 450)
        check(schedule, page_messages=2)


@pytest.mark.parametrize("shards", ["a", "ab"])
@settings(max_examples=100)
@given(schedule=SCHEDULE, kept=st.integers(1, 6))
def test_a_hole_is_told_and_never_passed_over(shards: str, schedule: Schedule, kept: int) -> None:
    """With logs so short that they may not reach back: then the session begins anew."""
    check(schedule, shards=shards, page_messages=2, kept=kept)


def test_few_connections_of_an_edge_have_a_page_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come back at once: the others wait, and get theirs too."""
    monkeypatch.setattr(edge_module, "PAGES_AT_ONCE", 2)

    async def check() -> None:
        world = World(shards="a", hears_all=False, page_messages=1)
        world.gates.is_open = True
        clients = [world.client, *(Client(world, upgrades=False) for _ in range(9))]
        for world.client in clients:
            await connect(world, 0)
            await join(world, "a1")
            world.client.cut()
        world.client.notice()
        world.publish(["a1"] * 3)
        read, reading, most = world.edges[0].history.read, 0, 0

        async def counted(*arguments: Any) -> Replay:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            try:
                return await read(*arguments)
            finally:
                reading -= 1

        monkeypatch.setattr(world.edges[0].history, "read", counted)
        world.gates.is_open = False
        for client in clients:
            client.connect(0)
        await settle()
        while world.gates.open_one(0):
            await settle()
            for client in clients:
                client.read(100)
            await settle()
        assert most == 2
        for world.client in clients:
            await world.finish()
        for client in clients:
            assert [name for _, _, name in client.received] == ["m1", "m2", "m3"]
            assert client.recoveries == 1
        await world.aclose()

    run(check())


async def connect(world: World, edge: int) -> None:
    """Let the client connect to the edge of that number, and read what it is told."""
    world.client.connect(edge)
    await settle()
    world.client.read(100)


async def join(world: World, room: str) -> None:
    """Let the client into *room*."""
    world.client.join(room)
    await settle()
    world.client.read(100)
    assert room in world.client.rooms


def test_a_client_that_goes_away_while_it_resumes(caplog: pytest.LogCaptureFixture) -> None:
    """At whatever point: nothing fails, nobody is left in a room, and the next resume works."""

    async def check_cut_after(gates: int) -> None:
        world = World(hears_all=False)
        world.gates.is_open = True
        await connect(world, 0)
        await join(world, "a1")
        world.client.cut()
        world.client.notice()
        await settle()
        world.publish(["a1"])
        world.gates.is_open = False
        world.client.connect(0)
        for _ in range(gates):
            await settle()
            world.gates.open_one(0)
            for line in world.lines:
                line.deliver(1)
        world.client.cut()
        world.client.notice()
        world.gates.is_open = True
        while world.gates.open_one(0):
            await settle()
        await settle()
        for edge in world.edges:
            assert edge.fanout.rooms == {}
            assert not edge.connections
        await world.finish()
        assert [name for _, _, name in world.client.received] == ["m1"]
        await world.aclose()

    for gates in range(25):
        run(check_cut_after(gates))
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_connection_that_is_not_known_to_be_gone_takes_no_room_away() -> None:
    """The record is the session's, not the connection's: who has it last may write it."""

    async def check() -> None:
        world = World(shards="a", has_zombies=True)
        world.gates.is_open = True
        await connect(world, 0)
        await join(world, "a1")
        await asyncio.sleep(RENEW_S / 2)
        world.client.cut()
        await connect(world, 1)
        await join(world, "b1")
        # Until the first edge keeps its record anew, and the second does not yet.
        await asyncio.sleep(RENEW_S * 0.75)
        world.client.cut()
        world.publish(["a1", "b1"])
        await settle()
        await world.finish()
        assert world.client.recoveries == 2
        assert len(world.client.received) == 2
        await world.aclose()

    run(check())


def test_who_comes_second_takes_nothing_from_who_was_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two connections read the same record: the one that is too late begins anew, no more."""

    async def check() -> None:
        world = World(shards="a")
        world.gates.is_open = True
        await connect(world, 0)
        await join(world, "a1")
        world.client.cut()
        world.client.notice()
        await settle()
        shards, pid = world.edges[1].shards, world.client.pid
        assert pid is not None
        save = shards.save_session

        async def save_second(
            record: SessionRecord, ttl_s: float, *, is_taken: bool = False
        ) -> bool:
            if is_taken:
                assert await save(record, ttl_s, is_taken=True)
            return await save(record, ttl_s, is_taken=is_taken)

        monkeypatch.setattr(shards, "save_session", save_second)
        await connect(world, 1)
        await settle()
        assert world.client.failures == 1
        first = await shards.load_session(pid)
        assert first is not None
        assert first.generation == 2
        assert (await shards.members(RoomId("a1"))).count == 1
        await world.aclose()

    run(check())
