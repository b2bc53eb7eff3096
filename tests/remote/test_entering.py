"""
Who enters a room on real shards while another goes away: what one client does takes nothing from
the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from edge.hall import Member
from remote.cluster import Cluster
from remote.witness import OPTIONS, Watch, build_shards, journey_of, rooms_on, watching
from roomful.edge.fanout import Fanout
from roomful.shard.message import RoomId
from roomful.shard.redis_shards import RedisShards
from support.deadline import DEADLINE_S, until, within

PATIENT = replace(OPTIONS, reader=replace(OPTIONS.reader, hold_s=100 * DEADLINE_S))
"""Nobody who waits for a room is helped by the end of their patience."""


@asynccontextmanager
async def hall(cluster: Cluster) -> AsyncIterator[tuple[Fanout, RedisShards]]:
    """Run a fan-out that hears the shards."""
    async with AsyncExitStack() as stack:
        shards, _ = await build_shards(cluster, stack, options=PATIENT)
        fanout = Fanout(shards)
        shards.attach(fanout)
        await shards.start()
        try:
            yield fanout, shards
        finally:
            await shards.aclose()


async def hears(watch: Watch, member: Member, room: str) -> None:
    """Publish into *room*, and wait until the member has heard it."""
    before = len(member.heard)
    watch.send(room)
    await watch.settled()
    await until(lambda: len(member.heard) > before)


async def test_who_is_in_a_room_stays_when_another_is_gone_in_that_moment(
    cluster: Cluster,
) -> None:
    """Both waited for the room; one is cancelled when it is heard, the other is in it."""
    async with hall(cluster) as (fanout, shards), watching(cluster) as sender:
        (name,) = rooms_on(shards, "s1", 1)
        room, member = RoomId(name), Member()

        async def enter() -> None:
            await fanout.enter(member, room)
            gone.cancel()

        entering = asyncio.create_task(enter())
        gone = asyncio.create_task(fanout.enter(Member(), room))
        await within(asyncio.wait((entering, gone)))
        assert gone.cancelled()
        await hears(sender, member, room)
        journey_of(cluster, room, "s2").travel()
        await hears(sender, member, room)


@pytest.mark.parametrize("is_first", [True, False])
async def test_who_waits_for_a_room_goes_on_when_another_does_not(
    cluster: Cluster, is_first: bool
) -> None:
    """The one that is gone was before it, or came after it."""
    async with hall(cluster) as (fanout, shards), watching(cluster) as sender:
        (name,) = rooms_on(shards, "s1", 1)
        room, member = RoomId(name), Member()
        works = [fanout.enter(Member(), room), fanout.enter(member, room)]
        tasks = [asyncio.create_task(work) for work in (works if is_first else works[::-1])]
        gone, entering = tasks if is_first else tasks[::-1]
        await asyncio.sleep(0)
        gone.cancel()
        await within(entering)
        await hears(sender, member, room)


async def test_a_room_of_which_all_are_gone_is_let_go(cluster: Cluster) -> None:
    """Nobody is left who could do it later."""
    async with hall(cluster) as (fanout, shards):
        (name,) = rooms_on(shards, "s1", 1)
        entering = asyncio.create_task(fanout.enter(Member(), RoomId(name)))
        await asyncio.sleep(0)
        entering.cancel()
        await within(asyncio.wait((entering,)))
        assert shards.shard_of(name).reader.stream.find(RoomId(name)) is None
        assert not fanout.rooms
        assert not shards.holding._held
