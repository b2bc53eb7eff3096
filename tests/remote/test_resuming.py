"""
Clients that resume on any edge while their rooms' buckets move between real shards: each hears
what is owed to it once, in its rooms' order, or is told that it may lack something.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from edge.world import make_settings
from remote.cluster import Cluster
from remote.stock import Client
from remote.witness import Watch, build_shards, journey_of, rooms_on, watching
from roomful.edge.edge import Edge
from roomful.shard.message import RoomId
from support.deadline import until, within
from support.proxy import Proxy


class Scene:
    """Edges with clients that come and go, and a sender."""

    def __init__(self, edges: list[Edge], sender: Watch, seed: int) -> None:
        self.edges = edges
        self.sender = sender
        self.chance = random.Random(seed)  # noqa: S311
        self.clients = [Client(f"user{number}") for number in range(4)]

    async def come_back(self, client: Client, rooms: list[str]) -> None:
        """Let a client that is away connect to any edge; anew, it joins its rooms again."""
        before = client.anew
        client.connect(self.chance.choice(self.edges))

        def is_in() -> bool:
            client.read()
            return client.is_in or client.is_away

        await until(is_in)
        if client.is_in and client.anew > before:
            await client.join(*rooms)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("is_broken", [False, True])
async def test_clients_that_resume_while_buckets_move(
    cluster: Cluster, is_broken: bool, seed: int
) -> None:
    """On both edges, in rooms of three buckets that move in both directions."""
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(watching(cluster))
        edges: list[Edge] = []
        proxies: list[Proxy] = []
        for _ in range(2):
            shards, between = await build_shards(cluster, stack)
            edge = Edge(make_settings(), shards=shards)
            await shards.start()
            edge.start()
            stack.push_async_callback(edge.aclose)
            edges.append(edge)
            proxies += between.values()
        scene = Scene(edges, sender, seed)
        chance = scene.chance
        groups = [rooms_on(sender.shards, name, 2) for name in ("s1", "s2", "s1")]
        rooms = [room for group in groups for room in group]
        for client in scene.clients:
            client.connect(chance.choice(scene.edges))
            await client.join(*rooms)
        for _ in range(60):
            sender.send(*chance.sample(rooms, 3))
            client = chance.choice(scene.clients)
            match chance.randrange(6):
                case 0:
                    client.cut(chance)
                case 1:
                    group = chance.choice(groups)
                    home = journey_of(cluster, group[0], "s1").origin
                    journey_of(cluster, group[0], "s2" if home == "s1" else "s1").travel()
                case 2 if is_broken:
                    chance.choice(proxies).cut()
                case _:
                    await asyncio.sleep(chance.random() * 0.02)
            for one in scene.clients:
                one.read(chance.randrange(20))
                if one.is_away and chance.random() < 0.5:
                    await scene.come_back(one, rooms)
        await sender.settled()
        for client in scene.clients:
            while client.is_away or not client.is_in:
                await within(scene.come_back(client, rooms))
        await check(scene, rooms, is_broken=is_broken)


async def check(scene: Scene, rooms: list[str], *, is_broken: bool) -> None:
    """Let everybody hear everything, and compare it with the logs."""
    sender = scene.sender
    logs = {
        room: [entry.envelope.id for entry in (await _page(sender, room)).entries] for room in rooms
    }
    for client in scene.clients:

        def has_heard(client: Client = client) -> bool:
            client.read()
            return all(
                client.heard[room][-1:] == logs[room][-1:] for room in rooms if client.heard[room]
            )

        def is_over(client: Client = client) -> bool:
            return has_heard(client) or client.is_away

        await until(is_over)
        while client.is_away:
            # An edge found out late that it lacks something, and told the client to resume.
            await within(scene.come_back(client, rooms))
            await until(is_over)
        for room in rooms:
            heard = client.heard[room]
            assert heard == logs[room][len(logs[room]) - len(heard) :], (client.user, room)
            if not client.anew:
                assert heard == logs[room]
    for room in rooms:
        assert (await sender.shards.members(RoomId(room))).count == len(scene.clients)
    assert [client.left for client in scene.clients] == [[]] * len(scene.clients)
    if not is_broken:
        assert sum(client.anew for client in scene.clients) == 0
    assert sum(client.resumed for client in scene.clients) > 0


async def _page(sender: Watch, room: str) -> Any:
    return await sender.shards.page(room, before=None, after=0, limit=10_000)  # type: ignore[arg-type]
