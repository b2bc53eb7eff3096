"""Which edge is ready: what is wrong with a shard is no reason to send clients elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from functions.server import PRODUCTS, serving
from remote.cluster import Cluster
from remote.stage import staged
from remote.witness import OPTIONS, Witness, build_shards
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.shard.durability import Durability
from roomful.shard.redis import RedisShard, ShardOptions
from roomful.shard.redis_shards import RedisShards
from roomful.telemetry.lasting import failures
from support.deadline import DEADLINE_S, eventually, until
from support.proxy import Proxy
from support.users import EDGE

S1 = ShardName("s1")
QUICK = replace(OPTIONS, call_timeout_s=2.0, login=EDGE)
UNHEARD = "shard s1 answers, and is not heard"


@asynccontextmanager
async def reaching(
    cluster: Cluster, options: ShardOptions = QUICK
) -> AsyncIterator[tuple[RedisShards, Mapping[ShardName, Proxy]]]:
    """Run an edge that reaches its shards through proxies."""
    async with AsyncExitStack() as stack:
        shards, proxies = await build_shards(cluster, stack, options=options)
        shards.attach(Witness())
        await shards.start()
        try:
            yield shards, proxies
        finally:
            await shards.aclose()


def is_heard(shard: RedisShard) -> bool:
    """Whether all of the shard's connections are there, and its stream."""
    return shard.is_up and shard._calls.is_up and not shard.reader.is_deaf


@pytest.mark.parametrize("product", PRODUCTS)
async def test_a_server_that_takes_no_writes_is_heard(product: str, tmp_path: Path) -> None:
    """Its disk is full: it says so of every write, and what is read or cast comes as before."""
    with serving(product, tmp_path / "full") as server:
        async with staged(server) as stage, stage.hearing("a") as heard:
            (server.directory / "dump.rdb" / "full").mkdir(parents=True)
            await stage.call("CONFIG", "SET", "save", "3600 1")
            await stage.call("BGSAVE")

            async def is_refusing() -> bool:
                reply = await stage.call("INFO", "persistence")
                return b"rdb_last_bgsave_status:err" in reply

            await eventually(is_refusing, "the server refuses writes")
            connections = heard.reader.statistics.connections
            full_at = asyncio.get_running_loop().time()
            await until(lambda: heard.reader.proven_at > full_at + 1e-3)
            assert not heard.reader.is_deaf
            assert heard.reader.statistics.connections == connections


async def test_a_shard_that_hangs_takes_no_edge_out(cluster: Cluster) -> None:
    """It takes connections and answers none of them, to any edge; then it goes on."""
    async with reaching(cluster) as (shards, proxies):
        shard, said = shards.shards[S1], set()

        async def holds(condition: str) -> None:
            def look() -> bool:
                said.add(shards.unready())
                away = not shard._calls.is_up and shard.reader.is_deaf
                return away if condition == "away" else is_heard(shard)

            await until(look, seconds=2 * DEADLINE_S)

        proxies[S1].freeze()
        await holds("away")
        proxies[S1].cut()
        proxies[S1].thaw()
        await holds("heard")
        assert said == {None}


async def test_an_edge_that_alone_hears_nothing_is_not_ready(cluster: Cluster) -> None:
    """The shard does what this edge asks, so that others may well hear it."""
    async with reaching(cluster) as (shards, _):
        command = cluster.members[S1].calls.command
        command("ACL", "SETUSER", EDGE.username, "-subscribe")
        try:
            command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: shards.unready() == UNHEARD, seconds=2 * DEADLINE_S)
        finally:
            command("ACL", "SETUSER", EDGE.username, "+subscribe")
        await until(lambda: shards.unready() is None)
        assert is_heard(shards.shards[S1])


async def test_an_edge_that_reaches_no_shard_is_ready_until_its_leases_lapse(
    cluster: Cluster,
) -> None:
    """A failover of all there is takes no edge out; one that is cut off goes."""
    async with (
        reaching(cluster, replace(QUICK, lease_s=1.0)) as (lapsed, mine),
        reaching(cluster, replace(QUICK, lease_s=10 * DEADLINE_S)) as (other, others),
    ):
        for proxy in (*mine.values(), *others.values()):
            proxy.freeze()
        for proxy in (*mine.values(), *others.values()):
            proxy.cut()
        await until(lambda: lapsed.unready() is not None)
        assert not any(one._calls.is_up for one in other.shards.values())
        assert other.unready() is None
        for proxy in mine.values():
            proxy.thaw()
        await until(lambda: lapsed.unready() is None)


async def test_a_failure_that_nobody_foresaw_leaves_no_edge_deaf(cluster: Cluster) -> None:
    """Each task of a shard begins again: no topology can have its primary's port."""
    async with reaching(cluster) as (shards, _):
        before = shards.topology
        assert before is not None
        tasks = ["reader of s1", "calls of s1", "lane 0 of s1", "lane 1 of s1"]
        counts = {name: failures[name] for name in tasks}
        unthought = changed(before.shards[S1], primary=Address("127.0.0.1", 70_000))
        shards.shards[S1].retarget(unthought, Durability(before.acks))
        await until(lambda: all(failures[name] > counts[name] for name in tasks))
        shards.apply(changed(before, generation=before.generation + 1))
        await until(lambda: is_heard(shards.shards[S1]))
