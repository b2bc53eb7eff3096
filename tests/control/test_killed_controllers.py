"""SIGKILL of the controller after each step of a move: the next one finds all, nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control.leading import other
from remote.cluster import Cluster, address_of
from remote.sending import Sender, rooms_of, using
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.cluster.requests import PinBucket, encode_request, planned_moves
from roomful.control.controller import Controller
from roomful.control.link import Credentials
from roomful.control.server import Server
from roomful.control.spec import ClusterSpec, Pace
from support.deadline import DEADLINE_S, within

TESTS = Path(__file__).parent.parent
STEPS = (
    *("keep", "forget_requests", "records", "move", "begin_import", "keys", "dump", "import"),
    *("changed", "freeze", "complete", "release", "activate", "clear"),
)
"""In their order: of the controller, and the functions of a move."""


async def die_after(step: str, cluster: Cluster) -> None:
    """Run a controller until it has killed itself after *step*."""
    members = [
        ",".join(str(address_of(server)) for server in (one.primary, *one.replicas))
        for one in cluster.members.values()
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "control.mortal_controller", step, *members),
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'services'}"},
    )
    try:
        assert await within(process.wait(), seconds=3 * DEADLINE_S) == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ask(cluster: Cluster, bucket: int, target: ShardName) -> None:
    """Ask for a bucket to be put on *target*, as `roomful bucket move` does."""
    server = Server(address_of(cluster.members[target].primary), Credentials(), is_reader=True)
    try:
        await server.request("1", encode_request(PinBucket(bucket, target)), 1)
    finally:
        server.close()


@asynccontextmanager
async def living(cluster: Cluster) -> AsyncIterator[Controller]:
    """Have a controller that is not killed."""
    shards = {
        name: tuple(address_of(server) for server in (one.primary, *one.replicas))
        for name, one in cluster.members.items()
    }
    controller = Controller(ClusterSpec(shards), pace=Pace(interval_s=0.05))
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until_at(controller: Controller, bucket: int, target: ShardName) -> None:
    """Wait until a bucket is on *target*, and everything else where it shall be."""
    async with asyncio.timeout(3 * DEADLINE_S):
        while True:
            topology = controller.topology
            if topology is not None and topology.buckets[bucket] == target:
                if not planned_moves(topology):
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "deaths",
    [
        *(pytest.param((step,), id=step) for step in STEPS),
        pytest.param(("changed", "thaw", "drop_import"), id="changed-thaw-drop"),
        # Nobody has to thaw a bucket whose freeze lapses before the next controller comes.
        pytest.param(("freeze", "drop_import", "freeze"), id="freeze-drop-freeze"),
        pytest.param(("complete", "drop_import", "complete"), id="complete-drop-complete"),
        pytest.param(("release", "release", "activate", "clear"), id="release-again-activate"),
    ],
)
async def test_killed_after_any_step_the_next_one_goes_on(
    cluster: Cluster, deaths: tuple[str, ...]
) -> None:
    """The bucket comes to its shard with all that was ever acknowledged, once and in order."""
    async with using(cluster) as shards:
        sender = Sender(shards)
        (room,) = rooms_of(shards, "s1", 1)
        bucket, target = bucket_of(room), other(ShardName("s1"))
        for _ in range(5):
            sender.send(room, is_named=True)
        await sender.all_settled()
        await ask(cluster, bucket, target)
        for step in deaths:
            await die_after(step, cluster)
            sender.send(room, is_named=True)
        async with living(cluster) as controller:
            await until_at(controller, bucket, target)
        sender.send(room, is_named=True)
        await sender.check_whole()
        assert shards.shard_of(room).name == target

    records = {
        name: one.calls.record(f"{{{bucket}}}").split()[0] for name, one in cluster.members.items()
    }
    assert records == {ShardName("s1"): "GONE", target: "OWNED"}
