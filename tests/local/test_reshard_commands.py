"""`roomful shard` and `roomful bucket`: what people type while a cluster runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from local.machine import EDGES, SERVERS, Machine, run
from roomful.control.reading import Reading, read_cluster
from roomful.local.layout import Layout
from support.deadline import DEADLINE_S, until, within
from support.ports import claim_ports
from support.resuming import PlainReceiver, RetryingSender, running
from support.tokens import make_token

LONG_S = 6 * DEADLINE_S


async def read(machine: Machine) -> Reading:
    """Ask the shards how they are."""
    layout = Layout.read(machine.state)
    assert layout is not None
    return await read_cluster([place.address for place in layout.servers()])


async def shares(machine: Machine) -> dict[str, int]:
    """Give how many buckets each shard has."""
    topology = (await read(machine)).topology
    assert topology is not None
    return {name: len(topology.buckets_of(name)) for name in topology.shards}


async def roomful(machine: Machine, *words: str) -> str:
    """Run a command that has to be done; gives what it said."""
    done = await asyncio.to_thread(run, *words, "--state-dir", machine.state)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    """It says what would move."""
    before = (await read(machine)).topology
    said = await roomful(machine, "shard", "add", "--dry-run")

    assert "341 buckets would have to move:" in said
    assert "nothing was changed" in said
    assert "512 buckets would" in await roomful(machine, "shard", "drain", "s1", "--dry-run")
    assert (await read(machine)).topology == before
    layout = Layout.read(machine.state)
    assert layout is not None
    assert sorted(layout.shards) == ["s1", "s2"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("shard", "drain", "s7"), "there is no shard s7: s1, s2"),
        (("bucket", "move", "1024", "s1"), "there is no bucket 1024: 0 to 1023"),
        (("bucket", "move", "7", "s7"), "shard s7 is not there: s1, s2 can have the bucket"),
        (("shard", "add", "s3", "127.0.0.1:1"), "shard s3 needs 2 servers or more"),
        (("shard", "add", "s3", "nowhere"), "'nowhere' is no address"),
    ],
)
def test_what_cannot_be_is_refused(machine: Machine, words: tuple[str, ...], why: str) -> None:
    """In words, with a status of its own; nothing is left for anybody."""
    refused = run(*words, "--state-dir", machine.state)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert why in refused.stderr


async def test_shards_come_and_go_while_somebody_sends(tmp_path: Path) -> None:
    """Their servers start and end; everybody hears everything, once and in order."""
    machine = Machine(tmp_path, claim_ports(EDGES + SERVERS + 2))
    await asyncio.to_thread(machine.start)
    try:
        sending_url, hearing_url = machine.ws_urls
        receivers = [PlainReceiver(hearing_url, make_token("bob"), f"r{n}") for n in range(8)]
        senders = [
            RetryingSender(sending_url, make_token("sender"), f"r{n}", per_second=20)
            for n in range(8)
        ]
        async with running(*receivers), asyncio.TaskGroup() as group:
            for receiver in receivers:
                # Who is not in the room yet has no right to the first message.
                await within(receiver.joined.wait(), seconds=LONG_S)
            sending = [group.create_task(sender.run()) for sender in senders]
            said = await roomful(machine, "shard", "add")
            assert re.search(r"done after .* s1 34[12], s2 34[12], s3 34[12]", said)
            assert len(machine.processes("server")) == SERVERS + 2
            said = await roomful(machine, "shard", "drain", "s1")
            assert "s2 512, s3 512" in said
            await until(lambda: len(machine.processes("server")) == SERVERS, seconds=LONG_S)
            for sender in senders:
                sender.finish()
            await asyncio.wait(sending, timeout=LONG_S)
            for sender, receiver in zip(senders, receivers, strict=True):
                await receiver.wait_heard(sender.acked, seconds=LONG_S)
                assert receiver.heard == list(range(sender.acked))
        assert await shares(machine) == {"s2": 512, "s3": 512}
        assert await asyncio.to_thread(machine.end) == 0
        # The same command goes on with the shards that there are then.
        await asyncio.to_thread(machine.start)
        assert await shares(machine) == {"s2": 512, "s3": 512}
    finally:
        await asyncio.to_thread(machine.close)
