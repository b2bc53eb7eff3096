"""
Rooms that are heard while their bucket moves, on real shards: once, in order, and no cursor hides
what was not delivered, whatever the edge hears late or not at all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from functions.server import PRODUCTS
from remote.cluster import Cluster, running_cluster
from remote.witness import Watch, check, journey_of, rooms_on, watching
from roomful.cluster.cursor import ShardName
from roomful.shard.erasure import Erasure
from roomful.shard.message import RoomId
from roomful.shard.redis import RedisShard
from support.deadline import eventually, until, within

S1, S2 = ShardName("s1"), ShardName("s2")


async def store(watch: Watch, *rooms: str) -> list[int]:
    """Publish into each room, and wait for the acks; gives the offsets."""
    watch.send(*rooms)
    await watch.settled()
    return [list(watch.stored[room].values())[-1] for room in rooms]


async def hear_last(watch: Watch, *rooms: str) -> None:
    """Publish once more into each room, and wait until that is heard."""
    for room, offset in zip(rooms, await store(watch, *rooms), strict=True):
        await watch.until_heard(room, offset)


async def test_rooms_are_heard_on_where_their_bucket_is(cluster: Cluster) -> None:
    """There and back, with a room that stays: nothing is missed, nothing comes twice."""
    async with watching(cluster) as watch:
        rooms, (quiet,) = rooms_on(watch.shards, "s1", 3), rooms_on(watch.shards, "s2", 1)
        await watch.hold(*rooms, quiet)
        moved: list[tuple[ShardName, int]] = []
        watch.shards.on_moved = lambda shard, bucket: moved.append((shard, bucket))
        for to in ("s2", "s1", "s2"):
            for _ in range(20):
                watch.send(*rooms, quiet)
                await asyncio.sleep(0)
            journey_of(cluster, rooms[0], to).travel()
            await hear_last(watch, *rooms, quiet)
        assert watch.sink.lost == []
        assert [len(watch.sink.heard(room)) for room in (*rooms, quiet)] == [63] * 4
        assert [shard for shard, _ in moved] == ["s2", "s1", "s2"]
        check(cluster, watch, *rooms, quiet)


@pytest.mark.parametrize("from_", ["s1", "s2"])
async def test_a_user_is_erased_from_rooms_that_move(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, from_: str
) -> None:
    """Also from those that go to a shard that was gone through, before theirs is."""
    async with watching(cluster) as watch:
        (room,) = rooms_on(watch.shards, from_, 1)
        await store(watch, room)
        (sent,) = (await watch.shards.page(RoomId(room), before=None, after=None, limit=1)).entries
        logs, asked = RedisShard.logs, []

        async def logs_and_move(shard: RedisShard) -> Sequence[RoomId]:
            found = await logs(shard)
            asked.append(shard.name)
            if len(asked) == 1:
                to = "s1" if from_ == "s2" else "s2"
                journey = journey_of(cluster, room, to)
                journey.travel()
                journey.clear(journey.source)
            return found

        monkeypatch.setattr(RedisShard, "logs", logs_and_move)
        erasure = Erasure(1 << 52, "x", user=sent.envelope.user)
        assert await watch.shards.erase(erasure) >= 1
        page = await watch.shards.page(RoomId(room), before=None, after=None, limit=1)
        assert not page.entries


async def test_an_edge_that_hears_the_source_late_waits_for_it(cluster: Cluster) -> None:
    """Whoever hears the target in time must not hear of it what comes later in the room."""
    async with watching(cluster) as watch, watching(cluster) as sender:
        (room,), (other,) = rooms_on(watch.shards, "s1", 1), rooms_on(watch.shards, "s2", 1)
        await watch.hold(room, other)
        await hear_last(watch, room, other)
        watch.proxies[S1].freeze()
        born = [(await store(sender, room))[0] for _ in range(5)]
        journey_of(cluster, room, "s2").travel()
        new = await store(sender, room, other)
        assert watch.shards.shard_of(room).name in ("s1", "s2")
        await until(lambda: watch.shards.shard_of(room).name == "s2")
        assert watch.sink.heard(room)[-1] < born[0], "what is in front of it was not heard"
        watch.proxies[S1].thaw()
        await watch.until_heard(room, new[0])
        await watch.until_heard(other, new[1])
        assert watch.sink.lost == []
        assert watch.sink.heard(room)[-6:] == [*born, new[0]]
        check(cluster, watch, room, other)


async def test_a_source_that_cannot_be_heard_is_told(cluster: Cluster) -> None:
    """After a bounded time its rooms' members are closed, with a cursor that hides nothing."""
    async with watching(cluster) as watch, watching(cluster) as sender:
        rooms, (other,) = rooms_on(watch.shards, "s1", 2), rooms_on(watch.shards, "s2", 1)
        await watch.hold(*rooms, other)
        await hear_last(watch, *rooms, other)
        watch.proxies[S1].freeze()
        await store(sender, *rooms)
        journey_of(cluster, rooms[0], "s2").travel()
        (new,) = await store(sender, other)
        await watch.until_heard(other, new)
        assert sorted(watch.sink.lost) == sorted(rooms)
        assert watch.shards.holding.statistics.broken_off == 2
        for room in rooms:
            (offset,) = await store(sender, room)
            await watch.until_heard(room, offset)
        check(cluster, watch, *rooms, other)
        watch.proxies[S1].cut()
        watch.proxies[S1].thaw()


@pytest.mark.parametrize("cut", ["s1", "s2", "both"])
async def test_a_connection_that_is_lost_during_the_switch(cluster: Cluster, cut: str) -> None:
    """What was missed is read, or told if it cannot be known any more; hidden by nothing."""
    async with watching(cluster) as watch, watching(cluster) as sender:
        rooms, (other,) = rooms_on(watch.shards, "s1", 2), rooms_on(watch.shards, "s2", 1)
        await watch.hold(*rooms, other)
        await hear_last(watch, *rooms, other)
        proxies = [one for name, one in watch.proxies.items() if cut in (name, "both")]
        for proxy in proxies:
            proxy.freeze()
        await store(sender, *rooms, other)
        journey = journey_of(cluster, rooms[0], "s2")
        journey.freeze_and_copy()
        journey.complete()
        for proxy in proxies:
            proxy.cut()
        journey.release()
        journey.activate()
        journey.clear(journey.source)
        await store(sender, *rooms, other)
        for proxy in proxies:
            proxy.thaw()
        await hear_last(watch, *rooms, other)
        assert sorted(watch.sink.lost) == ([] if cut == "s2" else sorted(rooms))
        check(cluster, watch, *rooms, other)


async def test_a_bucket_that_goes_on_before_it_was_heard(cluster: Cluster) -> None:
    """There and back while the edge hears neither: told, and then heard again."""
    async with watching(cluster) as watch, watching(cluster) as sender:
        (room,), (other,) = rooms_on(watch.shards, "s1", 1), rooms_on(watch.shards, "s2", 1)
        await watch.hold(room, other)
        await hear_last(watch, room, other)
        watch.proxies[S2].cut()
        watch.proxies[S2].freeze()
        await store(sender, room)
        journey_of(cluster, room, "s2").travel()
        await store(sender, room, other)
        journey_of(cluster, room, "s1").travel()
        (last,) = await store(sender, room)
        watch.proxies[S2].cut()
        watch.proxies[S2].thaw()
        await watch.until_heard(other, list(sender.stored[other].values())[-1])
        (last,) = await store(sender, room)
        await watch.until_heard(room, last)
        assert room in watch.sink.lost
        check(cluster, watch, room, other)


async def test_an_edge_with_an_old_topology_hears_it_where_it_is(cluster: Cluster) -> None:
    """It comes later, and what the shards say of arrivals is newer than what it was told."""
    async with watching(cluster) as sender:
        (room,) = rooms_on(sender.shards, "s1", 1)
        await store(sender, room)
        journey_of(cluster, room, "s2").travel()
        async with watching(cluster) as late:
            await until(lambda: late.shards.shard_of(room).name == "s2")
            await late.hold(room)
            await hear_last(late, room)
            assert late.sink.lost == []
            check(cluster, late, room)


async def test_rooms_that_are_entered_during_the_switch(cluster: Cluster) -> None:
    """Whoever is held from some moment on hears everything after it."""
    async with watching(cluster) as watch, watching(cluster) as sender:
        names = rooms_on(watch.shards, "s1", 40)
        chance = random.Random(7)  # noqa: S311
        entering = []
        for number, to in enumerate(("s2", "s1", "s2", "s1")):
            journey = journey_of(cluster, names[0], to)
            steps = (
                journey.freeze_and_copy,
                journey.complete,
                journey.release,
                journey.activate,
                lambda journey=journey: journey.clear(journey.source),
            )
            for step in steps:
                for room in names[number * 10 : number * 10 + 10]:
                    if chance.random() < 0.4 and room not in entering:
                        entering.append(room)
                        await within(watch.hold(room))
                sender.send(*entering)
                await asyncio.sleep(0)
                step()
            await sender.settled()
        for room in entering:
            (offset,) = await store(sender, room)
            await watch.until_heard(room, offset)
        assert watch.sink.lost == []
        check(cluster, watch, *entering)


@pytest.mark.parametrize("product", PRODUCTS)
async def test_a_source_that_dies_after_the_release(
    product: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nobody has its last publications: members are closed, and go on where the bucket is."""
    with running_cluster(product, tmp_path_factory.mktemp("dies"), shards=2) as cluster:
        async with watching(cluster) as watch, watching(cluster) as sender:
            (room,), (other,) = rooms_on(watch.shards, "s1", 1), rooms_on(watch.shards, "s2", 1)
            await watch.hold(room, other)
            await hear_last(watch, room, other)
            watch.proxies[S1].freeze()
            await store(sender, room)
            journey = journey_of(cluster, room, "s2")
            journey.freeze_and_copy()
            journey.complete()
            journey.release()
            cluster.members[S1].primary.kill()
            journey.target("activate", [journey.key], 1, journey.migration, journey.version + 2)
            for one in (other, room):
                (offset,) = await store(sender, one)
                await watch.until_heard(one, offset)
            assert watch.sink.lost == [room]
            del cluster.members[S1]
            check(cluster, watch, room, other)
            watch.proxies[S1].thaw()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_breaks_while_buckets_move(cluster: Cluster, seed: int) -> None:
    """Moves in both directions under load, with connections that are cut and stand still."""
    chance = random.Random(seed)  # noqa: S311
    async with watching(cluster) as watch, watching(cluster) as sender:
        groups = [rooms_on(watch.shards, name, 2) for name in ("s1", "s2", "s1")]
        rooms = [room for group in groups for room in group]
        await watch.hold(*rooms)
        await hear_last(watch, *rooms)
        is_over = False

        async def load() -> None:
            while not is_over:
                sender.send(*chance.sample(rooms, 3))
                await asyncio.sleep(chance.choice((0, 0.002, 0.01)))

        async def trouble() -> None:
            while not is_over:
                proxy = chance.choice(list(watch.proxies.values()))
                await asyncio.sleep(chance.random() * 0.1)
                if chance.random() < 0.5:
                    proxy.freeze()
                    await asyncio.sleep(chance.random() * 0.2)
                if chance.random() < 0.7:
                    proxy.cut()
                proxy.thaw()

        tasks = [asyncio.create_task(load()), asyncio.create_task(trouble())]
        for _ in range(12):
            group = chance.choice(groups)
            home = watch_home(cluster, group[0])
            journey_of(cluster, group[0], "s2" if home == "s1" else "s1").travel()
            await asyncio.sleep(chance.random() * 0.15)
        is_over = True
        await within(asyncio.gather(*tasks))
        await sender.settled()
        for room in rooms:
            await hear_again(watch, sender, room)
        check(cluster, watch, *rooms)


async def hear_again(watch: Watch, sender: Watch, room: str) -> None:
    """Publish until something is heard: until its members are closed, a room may hear nothing."""

    async def is_heard() -> bool:
        (offset,) = await store(sender, room)
        await asyncio.sleep(0.05)
        return offset in watch.sink.heard(room)

    await eventually(is_heard, f"{room} is heard")


def watch_home(cluster: Cluster, room: str) -> str:
    """Give the shard that has *room*."""
    return journey_of(cluster, room, "s1").origin
