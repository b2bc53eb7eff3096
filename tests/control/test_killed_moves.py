"""A controller killed at each of its orders: the next one finds what it needs in the records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from control.leading import Leader, other
from remote.sending import Sender, rooms_of, using
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.control.bucket_orders import BucketOrders
from roomful.control.moving import Attempt, MoveLimits, Parcel, finish
from support.deadline import within


class Mortal:
    """What kills a controller, before or after its *number*th order from now."""

    # Mutable state: the orders that are left.
    def __init__(self, number: int, *, is_before: bool) -> None:
        self.left = number
        self.is_before = is_before

    async def send(self, order: Callable[[], Any]) -> Any:
        """Send an order, or die."""
        self.left -= 1
        if self.left == 0 and self.is_before:
            raise asyncio.CancelledError
        reply = await order()
        if self.left == 0:
            # It was carried out, and nobody knows.
            raise asyncio.CancelledError
        return reply


class MortalOrders(BucketOrders):
    """Orders that end some time."""

    mortal: Mortal

    async def _send(self, patience_s: float, *words: str | int | bytes) -> Any:
        return await self.mortal.send(lambda: BucketOrders._send(self, patience_s, *words))


async def orders(leader: Leader, name: ShardName, mortal: Mortal) -> MortalOrders:
    """Give a shard's orders, of a controller that is to die."""
    await leader.orders(name)
    given = MortalOrders(leader.servers[name], name, 1, acks=1)
    given.mortal = mortal
    return given


async def settle(leader: Leader, bucket: int) -> None:
    """Do what a controller does that finds what another has left."""
    records = {name: words.split() for name, words in leader.records(bucket).items()}
    given = {name: await leader.orders(name) for name in records}
    for name, words in records.items():
        there = records[other(name)]
        if words[0] == "IMPORTING" and there[0] == "GONE" and words[2] == there[2]:
            version = int(there[1])
            await finish(given[other(name)], given[name], bucket, words[2], version=version)
            return
        if words[0] in ("MOVING", "FROZEN"):
            await given[name].thaw(bucket, words[2])
    for name, words in records.items():
        if words[0] == "IMPORTING":
            await given[name].drop(bucket, words[2])


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("log_bytes", [0, 1 << 20])
async def test_killed_at_any_order_it_loses_nothing(
    leader: Leader, *, is_before: bool, log_bytes: int
) -> None:
    """The bucket is open again in one place, with everything, and the next attempt moves it."""
    async with using(leader.cluster) as shards:
        sender = Sender(shards)
        (room,) = rooms_of(shards, "s1", 1)
        bucket, number, is_over = bucket_of(room), 0, False
        while not is_over:
            number += 1
            for _ in range(3):
                sender.send(room, is_named=True)
            await sender.all_settled()
            source = leader.owner(bucket)
            mortal = Mortal(number, is_before=is_before)
            target = await orders(leader, other(source), mortal)
            parcels = [Parcel(bucket, leader.version(bucket), leader.newest(bucket), target)]
            attempt = Attempt(
                await orders(leader, source, mortal),
                parcels,
                limits=MoveLimits(log_bytes=log_bytes),
                on_progress=lambda _progress: sender.send(room),
            )
            (outcome,) = await within(asyncio.gather(attempt.run(), return_exceptions=True))
            is_over = not isinstance(outcome, asyncio.CancelledError)
            await settle(leader, bucket)
            assert sorted(words.split()[0] for words in leader.records(bucket).values()) in (
                ["GONE", "OWNED"],
                ["NONE", "OWNED"],
            )
            await sender.check_whole()
        assert number > 12
