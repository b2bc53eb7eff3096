"""Shards come and go while a controller looks after them; buckets follow, whoever dies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from control.driving import QUICK, Driven
from control.servers import Fleet
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS
from roomful.cluster.requests import AddShard, DrainShard, PinBucket, Request, encode_request
from roomful.cluster.topology import Topology
from roomful.control.asking import leave_request
from roomful.control.server import OrderRefused
from roomful.control.spec import ClusterStatus
from roomful.control.waits import Listener
from support.deadline import until
from support.users import CONTROLLER

S1, S2, S3 = ShardName("s1"), ShardName("s2"), ShardName("s3")


def topology(control: Driven) -> Topology:
    """Give what the controller has published last."""
    assert control.controller.topology is not None
    return control.controller.topology


def shares(control: Driven) -> dict[str, int]:
    """Give how many buckets each shard has."""
    found = topology(control)
    return {name: len(found.buckets_of(name)) for name in sorted(found.shards)}


def added(fleet: Fleet, name: ShardName = S3) -> AddShard:
    """Ask for another shard."""
    return AddShard(name, tuple(server.address for server in fleet.shards[name]))


async def ask(control: Driven, *requests: Request) -> None:
    """Leave requests on a shard, as the commands do."""
    for request in requests:
        await leave_request(topology(control), request, CONTROLLER)


def even_on(*names: ShardName) -> Callable[[ClusterStatus], bool]:
    """Whether these shards and no other are there, each with its share."""

    def is_even(status: ClusterStatus) -> bool:
        found = status.topology
        if found is None or found.shards.keys() != set(names) or not status.is_serving:
            return False
        held = [len(found.buckets_of(name)) for name in names]
        return max(held) - min(held) <= 1

    return is_even


def check_owners(fleet: Fleet, control: Driven) -> None:
    """Each bucket is owned by one shard, which is the one of the topology."""
    keys = [f"{{{bucket}}}b" for bucket in range(BUCKETS)]
    for name, servers in fleet.shards.items():
        records = servers[0].command("MGET", *keys)
        assert isinstance(records, list)
        states = [(record or b"NONE").decode().split()[0] for record in records]
        owned = [bucket for bucket, state in enumerate(states) if state == "OWNED"]
        assert tuple(owned) == topology(control).buckets_of(ShardName(name))
        assert set(states) <= {"OWNED", "GONE", "NONE"}


async def test_a_shard_is_added_and_drained(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """It gets its share and gives it back; then it is not there, and its name is not used again."""
    fleet = make_fleet(shards=3, replicas=1)
    one = control(fleet, acks=1, only=["s1", "s2"])
    await one.serve()
    assert shares(one) == {"s1": 512, "s2": 512}

    await ask(one, added(fleet))
    await one.until(even_on(S1, S2, S3))
    check_owners(fleet, one)
    assert topology(one).shards[S3].replicas == (fleet.shards["s3"][1].address,)

    await ask(one, DrainShard(S1))
    await one.until(even_on(S2, S3))
    check_owners(fleet, one)
    assert topology(one).intents.retired == (S1,)

    await ask(one, added(fleet, S1))
    await one.until(lambda _: not one.controller.topology.intents.joining)  # type: ignore[union-attr]
    assert S1 not in topology(one).shards


async def test_how_long_each_bucket_was_closed_is_told(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """Once for each that moves: those that are pinned, and those that go back for them."""
    closed: list[float] = []
    fleet = make_fleet(shards=2, replicas=0)
    one = control(fleet, listener=Listener(bucket_moved=closed.append))
    await one.serve()
    before = topology(one).buckets
    pinned = topology(one).buckets_of(S1)[:3]
    await ask(one, *(PinBucket(bucket, S2) for bucket in pinned))
    await one.until(
        lambda status: even_on(S1, S2)(status) and set(pinned) <= set(topology(one).buckets_of(S2))
    )
    pairs = zip(before, topology(one).buckets, strict=True)
    assert len(closed) == sum(was != now for was, now in pairs) >= len(pinned)
    assert all(closed_s > 0 for closed_s in closed)


async def test_another_controller_does_not_count_anew_how_long_a_drained_shard_has_had_nothing(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """However often controllers die meanwhile, it leaves when it would have left."""
    fleet = make_fleet(shards=2, replicas=2)
    patient = replace(QUICK, quiet_s=3_600.0)
    one = control(fleet, acks=1, pace=patient)
    await one.until(lambda _: one.shard("s1").is_whole)
    await ask(one, DrainShard(S1))
    await one.until(lambda _: S1 in topology(one).intents.emptied)
    since = topology(one).intents.emptied
    await one.controller.aclose()

    two = control(fleet, acks=1, pace=patient)
    await two.serve()
    await two.once()
    assert topology(two).intents.emptied == since
    # The primary dies, too: it is the shard that has had nothing, whichever server has it.
    fleet.shards["s1"][0].kill()
    await two.until(lambda _: two.record("s1").term == 2)
    await two.once()
    assert topology(two).intents.emptied == since
    await two.controller.aclose()

    three = control(fleet, acks=1)
    await three.until(lambda _: S1 not in topology(three).shards)
    assert topology(three).intents.emptied == {}
    assert topology(three).intents.retired == (S1,)


async def test_a_bucket_is_put_somewhere_and_stays(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """Another one goes back for it, so that shares stay even."""
    fleet = make_fleet(shards=2, replicas=0)
    one = control(fleet)
    await one.serve()
    before = topology(one).buckets
    bucket = before.index(S1)

    await ask(one, PinBucket(bucket, S2))
    await one.until(lambda _: topology(one).buckets[bucket] == S2)
    await one.until(even_on(S1, S2))
    check_owners(fleet, one)
    assert shares(one) == {"s1": 512, "s2": 512}
    moved = [now for was, now in zip(before, topology(one).buckets, strict=True) if was != now]
    assert sorted(moved) == [S1, S2]


async def growing(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> tuple[Fleet, Driven]:
    """Give two shards to which a third is being added, and who does it."""
    fleet = make_fleet(shards=3, replicas=0)
    driven = control(fleet, only=["s1", "s2"])
    await driven.serve()
    await ask(driven, added(fleet))
    return fleet, driven


async def test_a_controller_that_comes_asks_all_servers_of_the_topology(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """Before it does anything: what it was started with may be older, and a bucket on its way."""
    fleet, one = await growing(make_fleet, control)
    await one.until(even_on(S1, S2, S3))
    bucket = topology(one).buckets_of(S3)[0]
    version = topology(one).versions[bucket]
    await one.controller.aclose()
    # It has gone back to s1, and whoever saw to it did not live to say so.
    fleet.shards["s3"][0].store(f"{{{bucket}}}b", f"GONE {version + 2} m s1")
    fleet.shards["s1"][0].store(f"{{{bucket}}}b", f"OWNED {version + 2}")

    two = control(fleet, only=["s1", "s2"])
    status = await two.once()
    assert status.shards.keys() == {S1, S2, S3}
    assert topology(two).buckets[bucket] == S1
    await two.until(even_on(S1, S2, S3))
    check_owners(fleet, two)


async def test_another_controller_goes_on(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """One that comes in the middle finds what was wanted, and what moved already."""
    fleet, one = await growing(make_fleet, control)
    await one.until(lambda _: 0 < shares(one).get("s3", 0) < BUCKETS // 4)
    await one.controller.aclose()

    another = control(fleet, only=["s2"])
    await another.until(even_on(S1, S2, S3))
    check_owners(fleet, another)


@pytest.mark.parametrize("document", [b"{}", encode_request(DrainShard(S3))])
async def test_what_cannot_be_is_forgotten(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven], document: bytes
) -> None:
    """It changes nothing, and is not asked again."""
    fleet = make_fleet(shards=1, replicas=0)
    one = control(fleet)
    await one.serve()
    server = fleet.shards["s1"][0]
    server.command("HSET", "roomful:requests", "1", document)
    before = topology(one)

    await one.until(lambda _: server.command("HLEN", "roomful:requests") == 0)
    assert topology(one) == before


async def test_full_shards_give_rooms_to_another(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """What people ask for then takes no memory that there is not: it is the way out."""
    fleet = make_fleet(shards=3, replicas=1)
    one = control(fleet, acks=1, only=["s1", "s2"])
    await one.serve()
    for server in (*fleet.shards["s1"], *fleet.shards["s2"]):
        server.command("CONFIG", "SET", "maxmemory", 1)

    await ask(one, added(fleet))
    await one.until(even_on(S1, S2, S3))
    await ask(one, *[DrainShard(S1)] * 100)
    with pytest.raises(OrderRefused, match="no more than 100"):
        await ask(one, DrainShard(S1))


@pytest.mark.parametrize("is_dead", [False, True])
async def test_what_people_ask_goes_where_it_can_be_left(
    is_dead: bool, make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """The first shard is away, or has no room on its disk: another one takes the request."""
    fleet = make_fleet(shards=2, replicas=0)
    one = control(fleet)
    await one.serve()
    (first,) = fleet.shards["s1"]
    if is_dead:
        first.kill()
    else:
        (first.directory / "dump.rdb" / "full").mkdir(parents=True)
        first.command("CONFIG", "SET", "save", "3600 1")
        first.command("BGSAVE")
        await until(lambda: first.info()["rdb_last_bgsave_status"] != "ok")
    bucket = topology(one).buckets_of(S1)[0]
    await ask(one, PinBucket(bucket, S2), PinBucket(bucket, S1))
    await one.until(lambda _: bool(topology(one).intents.pins))
    assert topology(one).intents.pins == ((bucket, S1),), "the last one counts"


async def test_a_full_shard_is_drained(
    make_fleet: Callable[..., Fleet], control: Callable[..., Driven]
) -> None:
    """Giving everything away takes no memory either."""
    fleet = make_fleet(shards=2, replicas=1)
    one = control(fleet, acks=1)
    await one.serve()
    fleet.shards["s1"][0].store("{1}o:session", "x")
    for server in fleet.shards["s1"]:
        server.command("CONFIG", "SET", "maxmemory", 1)

    await ask(one, DrainShard(S1))
    await one.until(even_on(S2))
