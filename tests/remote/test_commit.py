"""
Group commit against real servers: what is acknowledged is safe, and nothing is lost, doubled or
reordered by what goes wrong between.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from functions.server import PRODUCTS, RunningServer
from remote.cluster import Cluster, address_of, running_cluster
from remote.sending import QUICK, Sender, change, rooms_of, using
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.cluster.topology import Address
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Stored
from roomful.shard.directory import Directory, NoTopology
from roomful.shard.fsync import CannotFsync
from roomful.shard.redis import LANES
from roomful.shard.redis_shards import RedisShards
from roomful.shard.resp import Login
from shard.recording import RecordingSink, make_envelope
from support.deadline import DEADLINE_S, until, within
from support.proxy import Proxy
from support.users import EDGE


@pytest.fixture(scope="module", params=PRODUCTS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two shards with a replica each; a test leaves them as it found them."""
    directory = tmp_path_factory.mktemp("cluster")
    with running_cluster(request.param, directory, shards=2, replicas=1) as running:
        yield running


def pause(server: RunningServer) -> None:
    """Stop the process without ending it: it answers nothing and keeps its connections."""
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)


def resume(server: RunningServer) -> None:
    """Let it go on."""
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGCONT)


async def test_messages_of_many_rooms_are_stored_in_order(cluster: Cluster) -> None:
    """Many in flight at once, over both shards; far fewer batches than messages."""
    async with using(cluster) as shards:
        sender = Sender(shards)
        rooms = rooms_of(shards, "s1", 5) + rooms_of(shards, "s2", 5)
        for number in range(500):
            sender.send(rooms[number % 10])
        await sender.check_whole()
        assert shards.statistics.stored == 500
        assert shards.statistics.batches <= 100


async def test_the_first_offset_is_given_again(cluster: Cluster) -> None:
    """Two with one id of their sender's are one message; without a name they are two."""
    async with using(cluster) as shards:
        (room,) = rooms_of(shards, "s1", 1)
        outcomes: list[Stored | Refused] = []
        for is_named in (True, True, False):
            shards.publish(make_envelope(room, "same"), outcomes.append, is_named=is_named)
        await until(lambda: len(outcomes) == 3)
        first, second, third = outcomes
        assert first == second != third
        assert shards.statistics.duplicates == 1


async def test_a_short_wait_is_no_ack(cluster: Cluster) -> None:
    """While the replica stands still nobody is answered; then everybody, once and in order."""
    replica = cluster.members[ShardName("s1")].replicas[0]
    async with using(cluster) as shards:
        rooms = rooms_of(shards, "s1", 3)
        sender = Sender(shards)
        sender.send(rooms[0])
        await sender.all_settled()
        pause(replica)
        try:
            for number in range(30):
                sender.send(rooms[number % 3], is_named=number % 2 == 0)
            await until(lambda: shards.statistics.short_waits >= 2)
            for number in range(30):
                sender.send(rooms[number % 3])
            assert sender.settled == 1
        finally:
            resume(replica)
        await sender.check_whole()
        assert shards.statistics.duplicates == 0, "a retry of our own is no duplicate"


async def test_an_outage_hurts_only_its_own_rooms(cluster: Cluster) -> None:
    """While one shard is silent the other serves; in time the waiting are refused, retryable."""
    limits = replace(QUICK.commit, publish_timeout_s=0.5)
    async with using(cluster, replace(QUICK, commit=limits)) as shards:
        away, there = rooms_of(shards, "s1", 1)[0], rooms_of(shards, "s2", 1)[0]
        primary = cluster.members[ShardName("s1")].primary
        pause(primary)
        try:
            lost, sender = Sender(shards), Sender(shards)
            for _ in range(5):
                lost.send(away)
                sender.send(there)
            await sender.check_whole()
            await lost.all_settled()
            assert {one.code for one in lost.refused} == {RefusalCode.SHARD_UNAVAILABLE}
        finally:
            resume(primary)
        again = Sender(shards)
        await asyncio.sleep(0)
        again.send(rooms_of(shards, "s1", 1)[0])
        await again.all_settled()


@pytest.mark.parametrize("seed", range(3))
async def test_cut_connections_double_and_reorder_nothing(cluster: Cluster, seed: int) -> None:
    """Whenever the connection is cut, the same batch goes out again, before what came later."""
    chance = random.Random(seed)  # noqa: S311
    primary = cluster.members[ShardName("s1")].primary
    async with Proxy.before(primary.port) as proxy:
        async with using(cluster, proxy=Address("127.0.0.1", proxy.port)) as shards:
            rooms = rooms_of(shards, "s1", 4)
            sender = Sender(shards)
            for _ in range(12):
                for _ in range(chance.randrange(40)):
                    sender.send(chance.choice(rooms), is_named=chance.random() < 0.3)
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(chance.choice((0, 0, 0.001, 0.004)))
                proxy.cut()
            await sender.check_whole()


def rooms_by_lane(shards: RedisShards) -> list[list[str]]:
    """Give two rooms of each lane of the first shard."""
    rooms = rooms_of(shards, "s1", 16)
    lanes = [[room for room in rooms if bucket_of(room) % LANES == lane] for lane in range(LANES)]
    return [lane[:2] for lane in lanes]


async def test_lanes_have_a_batch_under_way_each(cluster: Cluster) -> None:
    """At once, of different buckets; of the same bucket what comes later waits."""
    replica = cluster.members[ShardName("s1")].replicas[0]
    async with using(cluster) as shards:
        by_lane = rooms_by_lane(shards)
        rooms = [room for pair in by_lane for room in pair]
        lanes = shards.shards[ShardName("s1")].lanes
        sender = Sender(shards)

        def under_way() -> list[list[bool]]:
            routes = [shards.routes[bucket_of(room)] for room in rooms]
            return [[lane.has_under_way(route) for route in routes] for lane in lanes]

        pause(replica)
        try:
            for room in rooms:
                sender.send(room)
            await until(lambda: shards.statistics.short_waits >= 2)
            for _ in range(3):
                for room in rooms:
                    sender.send(room)
                await asyncio.sleep(0)
            assert under_way() == [[True, True, False, False], [False, False, True, True]]
            assert sender.settled == 0
        finally:
            resume(replica)
        await sender.check_whole()


async def test_a_lane_that_is_cut_off_does_not_stop_the_other(cluster: Cluster) -> None:
    """Its own messages go out again when it is back, once and in order."""
    calls = cluster.members[ShardName("s1")].calls
    async with using(cluster) as shards:
        cut, whole = rooms_by_lane(shards)
        slow, quick = Sender(shards), Sender(shards)
        for _ in range(40):
            slow.send(cut[0])
            slow.send(cut[1])
            quick.send(whole[0])
            # None while it comes back.
            found = re.search(
                rb"id=(\d+) .*name=roomful-commit-.*-0 ", calls.command("CLIENT", "LIST")
            )
            if found is not None:
                calls.command("CLIENT", "KILL", "ID", int(found[1]))
            await quick.all_settled()
        await quick.check_whole()
        await slow.check_whole()
        assert shards.statistics.lost_batches > 0


def move(cluster: Cluster, buckets: set[int], version: int) -> dict[int, ShardName]:
    """Let *buckets* be on the other shard, as far as the shards know; gives who has them."""
    assert cluster.topology is not None
    owners = {}
    for bucket in buckets:
        source = cluster.topology.buckets[bucket]
        target = ShardName("s2" if source == "s1" else "s1")
        owners[bucket] = target
        cluster.members[source].calls.command(
            "SET", f"{{{bucket}}}b", f"GONE {version} m1 {target}"
        )
        cluster.members[target].calls.command("SET", f"{{{bucket}}}b", f"OWNED {version}")
    return owners


async def test_a_moved_bucket_is_followed_in_order(cluster: Cluster) -> None:
    """What the old owner refuses goes to the new one, before what was sent later."""
    async with using(cluster) as shards:
        rooms = rooms_of(shards, "s1", 3)
        sender = Sender(shards)
        before = cluster.topology
        assert before is not None
        for room in rooms:
            sender.send(room)
        await sender.all_settled()
        for number in range(60):
            sender.send(rooms[number % 3])
        await asyncio.sleep(0)
        owners = move(cluster, set(map(bucket_of, rooms)), 2)
        for number in range(60):
            sender.send(rooms[number % 3])
        await sender.all_settled()
        assert sender.refused == []
        assert {shards.shard_of(room).name for room in rooms} == {"s2"}
        # The rest of the room's log stayed: no bucket was copied here.
        stored = await sender.logs()
        for room in rooms:
            sent = sender.sent[room]
            assert stored[room] == sent[len(sent) - len(stored[room]) :]
            assert len(stored[room]) >= 20
        assert shards.statistics.rerouted > 0
        for bucket, target in owners.items():
            cluster.members[target].calls.command("DEL", f"{{{bucket}}}b")
            cluster.members[ShardName("s1")].calls.command("SET", f"{{{bucket}}}b", "OWNED 1")


async def test_a_frozen_bucket_makes_an_ack_slow_and_nothing_else(cluster: Cluster) -> None:
    """Messages of the bucket wait in order; the shard's other buckets go on."""
    async with using(cluster) as shards:
        frozen, free = rooms_of(shards, "s1", 2)
        calls = cluster.members[ShardName("s1")].calls
        bucket = f"{{{bucket_of(frozen)}}}b"
        calls.command("SET", bucket, "FROZEN 2 m1 s2 99999999999999")
        slow, quick = Sender(shards), Sender(shards)
        for _ in range(20):
            slow.send(frozen)
            quick.send(free)
        await quick.check_whole()
        for _ in range(20):
            slow.send(frozen)
        assert slow.settled == 0
        calls.command("SET", bucket, "OWNED 3")
        await slow.check_whole()
        calls.command("SET", bucket, "OWNED 1")


async def test_a_new_term_is_learnt_from_the_shard(cluster: Cluster) -> None:
    """A shard in a later term refuses all; what waits goes out when the topology says the term."""
    async with using(cluster) as shards:
        (room,) = rooms_of(shards, "s1", 1)
        topology = cluster.topology
        assert topology is not None
        term = topology.shards[ShardName("s1")].term + 1
        cluster.members[ShardName("s1")].calls("take_term", [], "s1", term)
        sender = Sender(shards)
        for _ in range(20):
            sender.send(room)
        await until(lambda: shards.statistics.refused_batches > 0)
        assert sender.settled == 0
        records = dict(topology.shards)
        records[ShardName("s1")] = msgspec.structs.replace(records[ShardName("s1")], term=term)
        cluster.announce(change(topology, shards=records))
        await sender.check_whole()


@pytest.mark.parametrize("product", PRODUCTS)
async def test_fsynced_needs_servers_that_can(product: str, tmp_path: Path) -> None:
    """With older servers an edge does not start, and says which; with others acks come."""
    with running_cluster(product, tmp_path, is_fsynced=True) as cluster:
        calls = cluster.members[ShardName("s1")].calls
        version = calls.command("INFO", "server")["redis_version"]
        if tuple(map(int, version.split(".")[:2])) < (7, 2):
            with pytest.raises(CannotFsync, match=f"is redis {version}"):
                async with using(cluster):
                    pass
            return
        async with using(cluster) as shards:
            sender = Sender(shards)
            for _ in range(20):
                sender.send("room")
            await sender.check_whole()


async def test_a_wrong_password_is_said_at_once(cluster: Cluster) -> None:
    """Waiting would not help: it names each server and the user, and never the password."""
    addresses = [address_of(one.primary) for one in cluster.members.values()]
    wrong = Directory(addresses, Login("edge", "guessed"), find_s=10 * DEADLINE_S)
    with pytest.raises(NoTopology, match=r"refuses the user edge \(WRONGPASS") as seen:
        await within(wrong.find())
    assert "guessed" not in str(seen.value)
    for address in addresses:
        assert str(address) in str(seen.value)


async def test_a_name_that_no_host_can_have_is_a_server_that_does_not_answer(
    cluster: Cluster,
) -> None:
    """An edge finds the cluster by the others."""
    good = address_of(cluster.members[ShardName("s1")].primary)
    directory = Directory([Address("a" * 64, 1), good], EDGE, find_s=DEADLINE_S)
    assert len((await within(directory.find())).shards) == 2


async def test_nobody_there_is_said_clearly() -> None:
    """An edge without any shard gives up in a bounded time and says whom it asked."""
    async with Proxy.before(1) as proxy:
        port = proxy.port
    directory = Directory([Address("127.0.0.1", port)], Login(), find_s=0.1)
    shards = RedisShards(directory, "edge", QUICK)
    shards.attach(RecordingSink())
    with pytest.raises(NoTopology, match=f"127.0.0.1:{port} does not answer"):
        await shards.start()
    await shards.aclose()
