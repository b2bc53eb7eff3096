"""
Schedules: what happens in a world, step by step, and what must be true when it has come to rest.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from edge.world import ROOMS, World
from roomful.edge.resume import MOVE_S
from shard.clock import run, settle

__all__ = ["MOVING", "PAGES", "SCHEDULE", "Schedule", "check"]

STEPS = {
    "nothing": 1,
    "publish": 3,
    "publish many": 2,
    "deliver": 5,
    "open": 4,
    "open many": 4,
    "read": 4,
    "read all": 1,
    "join": 2,
    "cut": 1,
    "connect": 2,
    "reconnect": 1,
    "notice": 1,
    "upgrade": 1,
}
"""What can be done next, and how often it is; a number says to what it is done."""


def schedules(steps: dict[str, int]) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Give schedules of *steps*."""
    names = [name for name, weight in steps.items() for _ in range(weight)]
    step = st.tuples(st.sampled_from(names), st.integers(0, 15))
    return st.lists(step, min_size=60, max_size=120)


SCHEDULE = schedules(STEPS)
MOVING = schedules(STEPS | {"move": 4, "wait": 2})
"""Rooms move too."""

Schedule = list[tuple[str, int]]
PAGES = st.sampled_from([1, 3, 1000])


async def play(world: World, schedule: Schedule) -> None:
    """Do the steps, and after each let everything that can run without another step run."""
    client = world.client
    for step, number in schedule:
        match step:
            case "nothing":
                continue
            case "publish":
                world.publish([ROOMS[number % 4]])
            case "publish many":
                world.publish([ROOMS[(number + index) % 4] for index in range(number)])
            case "deliver":
                world.lines[number % len(world.lines)].deliver(1 + number // 4)
            case "open":
                world.gates.open_one(number)
            case "open many":
                for _ in range(number):
                    world.gates.open_one(0)
                    await settle()
            case "read":
                client.read(number % 4 + 1)
            case "read all":
                client.read(1 << 30)
            case "wait":
                await asyncio.sleep(MOVE_S)
            case "move":
                world.move(ROOMS[number % 4], is_broken=number >= 12)
            case "join":
                client.join(ROOMS[number % 4])
            case "connect":
                client.connect(number % 2)
            case "cut":
                client.cut()
            case "reconnect":
                client.cut()
                client.connect(number % 2)
            case "notice":
                client.notice()
            case "upgrade":
                client.upgrade()
        await settle()


async def check_whole_life(world: World, schedule: Schedule) -> None:
    """Begin in three rooms, do the steps, come to rest: then all that is owed has come, once."""
    client = world.client
    world.gates.is_open = True
    client.connect(0)
    await settle()
    client.read(100)
    for room in ("a1", "a2", "b1"):
        client.join(room)
        await settle()
        client.read(100)
    world.gates.is_open = False
    await play(world, schedule)
    client.notice()
    await world.finish()
    client.check()
    owed = set(client.owed())
    received = [one for one in client.received if one in owed]
    assert set(received) == owed
    assert len(client.received) == len(set(client.received))
    await world.aclose()


def check(schedule: Schedule, **world: Any) -> None:
    """Play *schedule* in a world of its own."""

    async def play_it() -> None:
        await check_whole_life(World(**world), schedule)

    run(play_it())
