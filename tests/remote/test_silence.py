"""One message at any moment of a bucket's move, and silence behind it, on real shards."""

from __future__ import annotations

import asyncio
import random

import pytest

from remote.cluster import Cluster
from remote.witness import check, journey_of, rooms_on, watching
from support.deadline import DEADLINE_S, until


@pytest.mark.parametrize("late", ["", "s1", "s2", "both"])
async def test_one_message_at_any_moment_of_a_move_is_heard(cluster: Cluster, late: str) -> None:
    """
    Nothing that comes later in its room tells that something is missing.

    Where an edge hears late it may also close who is in the room, which tells them to resume.
    """
    async with watching(cluster) as watch, watching(cluster) as sender:
        names = rooms_on(watch.shards, "s1", 28)
        chance = random.Random(late)  # noqa: S311
        await watch.hold(*names)
        for number, to in enumerate(("s2", "s1", "s2", "s1")):
            rooms = iter(names[7 * number :])
            journey = journey_of(cluster, names[0], to)
            slow = [one for name, one in watch.proxies.items() if late in (name, "both")]
            for proxy in slow:
                proxy.freeze()
            for step in journey.steps:
                sender.send(next(rooms))
                if chance.random() < 0.5:
                    # What can be stored is stored before the step, and not only sent.
                    await asyncio.sleep(0.02)
                step()
            journey.clear(journey.source)
            await sender.settled()
            for proxy in slow:
                proxy.thaw()

        def is_told(name: str) -> bool:
            (offset,) = sender.stored[name].values()
            is_closed = bool(late) and name in watch.sink.lost
            return is_closed or offset in watch.sink.heard(name)

        await until(lambda: all(map(is_told, names)), seconds=2 * DEADLINE_S)
        check(cluster, watch, *names)
        if not late:
            assert watch.sink.lost == []
            found_later = [
                one.reader.stream.statistics.gaps for one in watch.shards.shards.values()
            ]
            assert found_later == [0, 0], "the audit would find it, but only after a minute"
