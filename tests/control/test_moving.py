"""Attempts to move buckets between real shards with replicas, while edges publish into them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from control.leading import S1, S2, Leader, member, other
from remote.sending import Sender, rooms_of, using
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, bucket_of
from roomful.control.bucket_orders import BucketOrders
from roomful.control.link import ServerUnreachable
from roomful.control.moving import Attempt, MoveLimits, Outcome, Parcel, Progress, finish
from roomful.control.server import OrderRefused
from support.deadline import until, within


async def more_settled(sender: Sender) -> None:
    """Wait until more of its messages have an answer."""
    goal = sender.settled + 20
    await until(lambda: sender.settled >= goal)


async def test_a_bucket_moves_while_edges_publish_into_it(leader: Leader) -> None:
    """There and back, again and again: nothing is lost or twice, and each room keeps its order."""
    async with using(leader.cluster) as one, using(leader.cluster) as two:
        moving = rooms_of(one, "s1", 1)
        bucket = bucket_of(moving[0])
        while len(moving) < 4:
            moving += [room for room in rooms_of(one, "s1", 500) if bucket_of(room) == bucket]
        senders = [Sender(one), Sender(two)]
        is_over = False

        async def send(sender: Sender, rooms: list[str]) -> None:
            number = 0
            while not is_over:
                for room in rooms:
                    sender.send(room, is_named=number % 2 == 0)
                number += 1
                await until(lambda: sender.settled > sum(map(len, sender.sent.values())) - 16)
                await asyncio.sleep(0.001)

        load = [
            asyncio.create_task(send(sender, moving[index::2]))
            for index, sender in enumerate(senders)
        ]
        for number in range(6):
            source = leader.owner(bucket)
            # Logs go whole, or in parts.
            limits = MoveLimits(log_bytes=0 if number % 2 else 1 << 20, batch_bytes=5000)
            while leader.owner(bucket) == source:
                # On a busy machine a freeze may lapse: then it stays, and is tried again.
                outcome = await leader.move(bucket, limits=limits)
                assert outcome.unsettled == {}, outcome
            await more_settled(senders[0])
        is_over = True
        await asyncio.gather(*load)
        for sender in senders:
            await sender.check_whole()


@pytest.mark.parametrize("named", [1_000_000, 3])
async def test_four_buckets_move_with_one_scan(
    leader: Leader, monkeypatch: pytest.MonkeyPatch, named: int
) -> None:
    """
    Each is closed for itself; everything of them arrives, and is gone where it was.

    It is deleted by what was copied, or by another scan when that is too much to remember.
    """
    monkeypatch.setattr("roomful.control.moving.NAMED", named)
    async with using(leader.cluster) as shards:
        sender = Sender(shards)
        rooms = rooms_of(shards, "s2", 4)
        for room in rooms * 50:
            sender.send(room)
        await sender.check_whole()
        buckets = [bucket_of(room) for room in rooms]
        told: list[int] = []
        outcome = await leader.move(*buckets, on_progress=lambda now: told.append(now.keys))
        assert (set(outcome.moved), outcome.kept, outcome.unsettled) == (set(buckets), {}, {})
        assert outcome.uncleared == ""
        assert outcome.progress.keys >= 8
        assert outcome.progress.size_bytes > 4000
        assert set(outcome.progress.pauses_ms) == set(buckets)
        assert told == sorted(told)
        assert leader.owner(buckets[0]) == S1
        assert await sender.logs() == sender.sent
        for bucket in buckets:
            left = member(leader, S2).calls.command("KEYS", f"{{{bucket}}}*")
            assert left == [f"{{{bucket}}}b".encode()]
        assert [found async for found in (await leader.orders(S2)).scan(buckets)] == []


async def test_replicas_have_what_moved(leader: Leader) -> None:
    """The copy before the release, and the release before anyone writes at the target."""
    bucket = 7
    source = leader.owner(bucket)
    outcome = await leader.move(bucket)
    assert bucket in outcome.moved
    (replica,) = member(leader, source).replicas
    record = replica.connect().command("GET", f"{{{bucket}}}b")
    assert record.startswith(b"GONE ")


@pytest.mark.parametrize("side", ["source", "target"])
async def test_without_replicas_nothing_is_released(leader: Leader, side: str) -> None:
    """Too few replicas in time: of the target, it stays; of the source, it is not opened yet."""
    bucket = 21
    source = leader.owner(bucket)
    target = other(source)
    broken = member(leader, source if side == "source" else target)
    (replica,) = broken.replicas
    primary = f"127.0.0.1 {broken.primary.port}".split()
    replica.connect().command("REPLICAOF", "NO", "ONE")
    version = leader.version(bucket)
    # The other side's replica has to be in time, however busy this machine is.
    limits = MoveLimits(safe_s=0.1 if side == "target" else 2.0, hold_s=20.0)
    attempt = await leader.attempt(bucket, limits=limits)
    outcome = await within(attempt.run())
    replica.connect().command("REPLICAOF", *primary)
    if side == "target":
        assert "too few replicas" in outcome.kept[bucket]
        assert leader.records(bucket)[source] == f"OWNED {version + 2}"
        assert leader.records(bucket)[target].startswith("GONE ")
        return
    assert "too few replicas" in outcome.unsettled[bucket]
    assert leader.records(bucket)[source].startswith("GONE ")
    assert leader.records(bucket)[target].endswith(" whole")
    leader.close()
    orders = await leader.orders(source), await leader.orders(target)
    record = await within(_finish(*orders, bucket, attempt.migration, version + 2))
    assert record == f"OWNED {version + 2}" == leader.records(bucket)[target]


async def _finish(
    source: BucketOrders, target: BucketOrders, bucket: int, migration: str, version: int
) -> str:
    while True:
        try:
            return await finish(source, target, bucket, migration, version=version)
        except OrderRefused:
            await asyncio.sleep(0.01)


async def test_a_freeze_that_lapses_leaves_it_where_it_was(leader: Leader) -> None:
    """What took too long is given up; the next attempt may be quicker."""
    bucket = 33
    source, version = leader.owner(bucket), leader.version(bucket)
    outcome = await leader.move(bucket, limits=MoveLimits(hold_s=0.0))
    assert "BUCKET OWNED" in outcome.kept[bucket]
    assert leader.owner(bucket) == source
    assert leader.version(bucket) == version + 2
    outcome = await leader.move(bucket)
    assert outcome.moved == {bucket: version + 4}


async def test_a_bucket_of_another_version_stays_and_others_go(leader: Leader) -> None:
    """What the controller believed was old."""
    one, other = [bucket for bucket in range(100, 200) if leader.owner(bucket) == S1][:2]
    target = await leader.orders(S2)
    version = leader.version(other)
    parcels = [Parcel(one, 77, 77, target), Parcel(other, version, version, target)]
    outcome = await within(Attempt(await leader.orders(S1), parcels).run())
    assert "BUCKET OWNED 1" in outcome.kept[one]
    assert set(outcome.moved) == {other}
    assert leader.records(one)[S1] == "OWNED 1"


async def test_stopped_it_stays(leader: Leader) -> None:
    """At the next step, in order: open, in the same version, and with no copy elsewhere."""
    async with using(leader.cluster) as shards:
        sender = Sender(shards)
        (room,) = rooms_of(shards, "s1", 1)
        bucket = bucket_of(room)
        for _ in range(100):
            sender.send(room)
        await sender.check_whole()
        stops: list[Attempt] = []

        def stop(_progress: Progress) -> None:
            stops[0].stop("a test does not want it")

        source = leader.owner(bucket)
        version = leader.version(bucket)
        attempt = await leader.attempt(bucket, on_progress=stop)
        stops.append(attempt)
        outcome = await within(attempt.run())
        assert outcome.kept == {bucket: "a test does not want it"}
        assert leader.records(bucket)[source] == f"OWNED {version}"
        target = other(source)
        left = member(leader, target).calls.command("KEYS", f"{{{bucket}}}*")
        assert left == [f"{{{bucket}}}b".encode()]
        await sender.check_whole()


async def test_cancelled_it_is_settled_by_whoever_comes_next(leader: Leader) -> None:
    """As after the controller's death: the attempt is given up by its name, and made anew."""
    bucket = 55
    source, version = leader.owner(bucket), leader.version(bucket)
    target = other(source)
    member(leader, source).calls.command(
        "SET", f"{{{bucket}}}l:filler", "no stream, but a key", "NX"
    )
    running: list[asyncio.Task[Outcome]] = []
    attempt = await leader.attempt(bucket, on_progress=lambda _progress: running[0].cancel())
    running.append(asyncio.create_task(attempt.run()))
    with suppress(asyncio.CancelledError):
        await within(running[0])
    assert running[0].cancelled()
    assert leader.records(bucket)[source] == f"MOVING {version} {attempt.migration} {target}"
    stays, goes = await leader.orders(source), await leader.orders(target)
    assert await stays.thaw(bucket, attempt.migration) == f"OWNED {version}"
    assert (await goes.drop(bucket, attempt.migration)).startswith("GONE ")
    outcome = await leader.move(bucket)
    assert bucket in outcome.moved
    calls = member(leader, target).calls
    assert calls.command("DEL", f"{{{bucket}}}l:filler") == 1


@pytest.mark.parametrize("name", [S1, S2])
async def test_a_failover_ends_an_attempt(leader: Leader, name: ShardName) -> None:
    """Orders are of the old term. The source's next primary says what became of the bucket."""
    bucket = 88
    source, version = leader.owner(bucket), leader.version(bucket)
    calls = member(leader, name).calls
    term = 1 + calls("take_term", [], name, 1)[0]
    member(leader, source).calls.command("SET", f"{{{bucket}}}l:filler", "no stream, but a key")
    attempt = await leader.attempt(
        bucket, on_progress=lambda _progress: calls("take_term", [], name, term)
    )
    outcome = await within(attempt.run())
    # The tests that come after know the first term only.
    calls.command("HSET", "roomful:shard", "term", 1)
    if name == source:
        assert f"STALE_TERM {term}" in outcome.unsettled[bucket]
        orders = await leader.orders(source)
        assert await orders.thaw(bucket, attempt.migration) == f"OWNED {version}"
    else:
        assert f"STALE_TERM {term}" in outcome.kept[bucket]
        assert leader.owner(bucket) == source
    for one in (S1, S2):
        await (await leader.orders(one)).drop(bucket, attempt.migration)
    outcome = await leader.move(bucket)
    assert bucket in outcome.moved
    assert member(leader, leader.owner(bucket)).calls.command("DEL", f"{{{bucket}}}l:filler") == 1


async def test_without_its_connection_an_attempt_orders_nothing(leader: Leader) -> None:
    """The lead may be someone else's by now, and WAIT would wait for nothing."""
    orders = await leader.orders(S1)
    leader.servers[S1].close()
    with pytest.raises(ServerUnreachable, match="does not have the lead"):
        await orders.thaw(1, "m")
    await leader.servers[S1].observe(insists=True)
    with pytest.raises(ServerUnreachable, match="is gone"):
        await orders.is_safe(1.0)


async def test_a_dead_target_leaves_it_where_it_was(leader: Leader) -> None:
    """Its server does not answer any more: given up at the source, and said."""
    bucket = 66
    source, version = leader.owner(bucket), leader.version(bucket)
    attempt = await leader.attempt(bucket)
    target = other(source)
    leader.servers[target].close()
    outcome = await within(attempt.run())
    assert "does not have the lead" in outcome.kept[bucket]
    assert leader.records(bucket)[source] == f"OWNED {version}"


async def test_an_unreachable_source_is_said(leader: Leader) -> None:
    """Nobody knows then what its record is."""
    bucket = 77
    attempt = await leader.attempt(bucket)
    leader.servers[leader.owner(bucket)].close()
    outcome = await within(attempt.run())
    assert "could not be given up" in outcome.unsettled[bucket]


async def test_records_are_given_as_they_come_to_now(leader: Leader) -> None:
    """Of all buckets, in one question."""
    await leader.orders(S1)
    found = await leader.servers[S1].records(range(BUCKETS))
    assert len(found) == BUCKETS
    owned = [bucket for bucket, record in enumerate(found) if record.startswith("OWNED ")]
    assert all(leader.owner(bucket) == S1 for bucket in owned[:20])
