"""
An edge on the side of a primary that was cut off: what it heard there is taken back, what the new
primary has stored meanwhile comes, and no cursor says of it that it was heard before it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from edge.world import make_settings
from functions.calls import Calls
from functions.server import PRODUCTS
from remote.cluster import Cluster, address_of, running_cluster
from remote.stock import Client
from remote.witness import Step, Witness, build_shards
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.edge.edge import Edge
from roomful.protocol.errors import Refused
from roomful.shard.base import Moved
from roomful.shard.message import RoomId
from roomful.shard.redis_shards import RedisShards
from shard.recording import make_envelope
from support.deadline import until

S1 = ShardName("s1")
ROOMS = ("busy", "quiet", "other")


@dataclass
class Split:
    """A primary that was cut off with an edge, and its replica that has taken its place."""

    cluster: Cluster
    shards: RedisShards
    sink: Witness
    old: Calls
    new: Calls

    def store(self, calls: Calls, term: int, *rooms: str) -> list[int]:
        """Store a message in each room, on this side or that."""
        keys: list[str] = []
        words: list[str | int | bytes] = []
        for room in rooms:
            keys.append(f"{{{bucket_of(room)}}}l:{room}")
            body = b'{"id":"m","roomId":"%b"' % room.encode()
            words += [1, 1, "", 1, msgspec.msgpack.encode(make_envelope(room, "m", body=body))]
        found = calls("publish", keys, term, 5000, 3_600_000, 300_000, 0, 0, *words)
        return [int(one) for one in found]

    def reattach(self) -> None:
        """Let the old primary follow the new one, as a controller orders it first."""
        port = self.cluster.members[S1].replicas[0].port
        self.old.command("REPLICAOF", "127.0.0.1", port)

    def is_attached(self) -> bool:
        """Whether it has everything of the new one."""
        return bool(self.old.command("INFO", "replication")["master_link_status"] == "up")

    def tell(self, shards: RedisShards | None = None) -> None:
        """Let the edge (or another) hear of the new primary."""
        shards = shards or self.shards
        topology = shards.topology
        assert topology is not None
        record = msgspec.structs.replace(
            topology.shards[S1],
            term=2,
            primary=address_of(self.cluster.members[S1].replicas[0]),
            replicas=(topology.shards[S1].primary,),
        )
        shards.apply(
            msgspec.structs.replace(
                topology, generation=topology.generation + 1, shards={S1: record}
            )
        )

    async def hear_again(self) -> None:
        """Wait until the edge hears the new primary."""
        (last,) = self.store(self.new, 2, "other")
        await until(lambda: last in self.sink.heard("other"))
        await until(lambda: self.shards.positions()[S1] >= last)

    async def edges(self, stack: AsyncExitStack) -> tuple[list[Edge], list[Callable[[], None]]]:
        """Give two edges, and what tells each of the new primary."""
        edges: list[Edge] = []
        told: list[Callable[[], None]] = []
        for _ in range(2):
            shards, _proxies = await build_shards(self.cluster, stack)
            edge = Edge(make_settings(), shards=shards)
            await shards.start()
            edge.start()
            stack.push_async_callback(edge.aclose)
            edges.append(edge)
            told.append(partial(self.tell, shards))
        return edges, told

    def log(self, room: str) -> list[int]:
        """Give the offsets of what the new primary has of *room*."""
        key = f"{{{bucket_of(room)}}}l:{room}"
        found = self.new.command("XRANGE", key, "-", "+")
        return [int(one[0].split(b"-")[0]) for one in found]

    def check(self, kept: int) -> None:
        """Compare what was heard with the new primary's logs; *kept* is what it took over."""
        base = 2 << 40
        for room in ROOMS:
            log = self.log(room)
            heard: list[int] = []
            has_ghost, cursor = False, 0
            for step in self.sink.steps:
                if isinstance(step, Step):
                    cursor = max(cursor, step.offset)
                    if step.room == room:
                        ghosts = [one for one in step.offsets if one not in log]
                        assert all(kept < one < base for one in ghosts)
                        assert not (has_ghost and len(ghosts) < len(step.offsets)), (
                            f"{room}: what is not stored was heard, and nobody was told"
                        )
                        has_ghost |= bool(ghosts)
                        heard += [one for one in step.offsets if one in log]
                    if not kept < cursor < base:
                        hidden = [one for one in log if one <= cursor and one not in heard]
                        assert not hidden, f"{room}: {hidden} hidden by {cursor}"
                elif step == room:
                    has_ghost = False
            assert not has_ghost
            assert heard == log


@asynccontextmanager
async def split(product: str, directory: Path) -> AsyncIterator[Split]:
    """Let an edge hear a primary that is cut off with it."""
    with running_cluster(product, directory, shards=1, replicas=1) as cluster:
        async with AsyncExitStack() as stack:
            shards, _ = await build_shards(cluster, stack)
            sink = Witness()
            shards.attach(sink)
            await shards.start()
            stack.push_async_callback(shards.aclose)
            for room in ROOMS:
                await shards.hold(RoomId(room))
            member = cluster.members[S1]
            (replica,) = member.replicas
            both = Split(cluster, shards, sink, member.calls, replica.connect())
            offsets = both.store(both.old, 1, *ROOMS)
            await until(lambda: offsets[-1] in sink.heard(ROOMS[-1]))
            while both.old.command("WAIT", 1, 1000) < 1:
                pass
            both.new.command("REPLICAOF", "NO", "ONE")
            yield both


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_primary_that_was_cut_off_and_follows_the_new_one(
    product: str, is_cut: bool, tmp_path: Path
) -> None:
    """Its publications come over the connection on which it was heard as the primary."""
    async with split(product, tmp_path) as both:
        kept = max(max(both.sink.heard(room)) for room in ROOMS)
        ghosts = both.store(both.old, 1, "busy", "busy", "other")
        await until(lambda: ghosts[-1] in both.sink.heard("other"))
        both.new("take_term", [], "s1", 2)
        both.store(both.new, 2, "busy", "busy")
        both.reattach()
        if is_cut:
            both.old.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(both.is_attached)
        for _ in range(5):
            both.store(both.new, 2, "quiet")
            await asyncio.sleep(0.01)
        both.store(both.new, 2, "busy")
        both.tell()
        await both.hear_again()
        both.check(kept)


@pytest.mark.parametrize("product", PRODUCTS)
async def test_what_was_read_of_it_is_taken_back_too(product: str, tmp_path: Path) -> None:
    """Someone who resumed there was sent what the new primary does not have."""
    async with split(product, tmp_path) as both:
        (ghost,) = both.store(both.old, 1, "resumed")
        await both.shards.hold(RoomId("resumed"))
        home = both.shards.shard_of("resumed")
        replay = await home.read({RoomId("resumed"): 0}, 0, 1 << 20)
        assert [entry.offset for entry in replay.entries] == [ghost]
        both.new("take_term", [], "s1", 2)
        both.tell()
        await both.hear_again()
        assert both.sink.lost == ["resumed"]


@pytest.mark.parametrize("product", PRODUCTS)
async def test_a_page_of_the_old_primary_is_not_given_after_the_new_one(
    product: str, tmp_path: Path
) -> None:
    """Its reply came late: who waits for it must not be told what is taken back already."""
    async with split(product, tmp_path) as both:
        both.store(both.old, 1, "busy", "late")
        home = both.shards.shard_of("late")
        page = asyncio.create_task(home.read({RoomId("late"): 0}, 0, 1 << 20))
        await asyncio.sleep(0)
        both.new("take_term", [], "s1", 2)
        both.tell()
        with pytest.raises((Moved, Refused)):
            await page


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("seed", range(4))
async def test_clients_on_both_sides(product: str, seed: int, tmp_path: Path) -> None:
    """
    Whenever they go over to the other side: each has a piece of the new primary's log, or was told.
    """
    chance = random.Random(seed)  # noqa: S311
    async with split(product, tmp_path) as both, AsyncExitStack() as stack:
        edges, told = await both.edges(stack)
        clients = [Client(f"user{number}") for number in range(6)]
        for client in clients:
            client.connect(edges[0])
            await client.join(*ROOMS)
        both.new("take_term", [], "s1", 2)
        told[1]()
        await until(lambda: not edges[1].shards.unready())
        for step in range(40):
            if step == 20:
                both.reattach()
            if step == 20 + seed:
                both.old.command("CLIENT", "KILL", "TYPE", "pubsub")
            if step == 26:
                told[0]()
            if step < 20 and chance.random() < 0.7:
                both.store(both.old, 1, *chance.sample(ROOMS, 2))
            both.store(both.new, 2, *chance.sample(ROOMS, 2))
            await asyncio.sleep(0.005)
            for client in clients:
                client.read(chance.randrange(10))
                if chance.random() < 0.1:
                    client.cut(chance)
                if client.is_away:
                    # To the side that is cut off nobody comes whom it would have to refuse.
                    client.connect(edges[1])
                    await until(partial(_is_in, client))
                    if not client.heard:
                        await client.join(*ROOMS)
        (last,) = both.store(both.new, 2, "other")
        for client in clients:
            await until(partial(_has, client, "other", last))
            for room in ROOMS:
                log, heard = both.log(room), client.offsets[room]
                assert heard == log[len(log) - len(heard) :], (client.user, room)
        assert sum(client.resumed for client in clients) > 0


def _is_in(client: Client) -> bool:
    client.read()
    return client.is_in


def _has(client: Client, room: str, offset: int) -> bool:
    client.read()
    if client.is_away:
        return False
    return offset in client.offsets.get(room, ())
