"""`roomful cluster`: real processes, and what of it survives their ends (docs/cluster.md)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from local.machine import EDGES, SERVERS, Machine, run
from roomful.cli import main
from roomful.control.reading import Reading, read_cluster
from roomful.local.layout import Layout
from roomful.verify.processes import LocalProcess
from support.deadline import DEADLINE_S, eventually, until, within
from support.resuming import PlainReceiver, RetryingSender, running
from support.sio import signed_in
from support.tokens import make_token

LONG_S = 6 * DEADLINE_S
TOKEN = make_token("alice")


async def read(machine: Machine) -> Reading:
    """Ask the shards how they are."""
    layout = Layout.read(machine.state)
    assert layout is not None
    return await read_cluster([place.address for place in layout.servers()])


async def until_whole(machine: Machine, *gone: LocalProcess) -> None:
    """Return once everything runs that should, every replica follows, and *gone* were replaced."""

    async def is_whole() -> bool:
        now = machine.processes()
        if len(now) != EDGES + SERVERS + 1 or {one.pid for one in gone} & {one.pid for one in now}:
            return False
        reading = await read(machine)
        return not reading.unreachable and all(shard.is_whole for shard in reading.shards())

    await eventually(is_whole, "the cluster is whole", seconds=LONG_S)


def left_of(processes: list[LocalProcess]) -> list[LocalProcess]:
    """Give those that have not ended."""
    return [one for one in processes if Path(f"/proc/{one.pid}").exists()]


async def topology(*arguments: str) -> int:
    """Run `roomful topology`; gives its status."""
    return await asyncio.to_thread(main, ["topology", *arguments])


async def history(url: str, room: str) -> list[Any]:
    """Read all contents of *room*."""
    contents: list[Any] = []
    async with signed_in(url, TOKEN) as client:
        await client.join(room)
        after: int | None = 0
        while after is not None:
            page = await client.call("history", {"roomId": room, "after": after, "limit": 100})
            assert page["success"], page
            contents += [message["content"] for message in page["messages"]]
            after = page["next"]
    return contents


async def send_while(machine: Machine, room: str, number: signal.Signals, role: str) -> list[str]:
    """
    Kill the one process of *role* that matters to *room* while somebody sends to it.

    Everyone hears each message once and in order, the history says the same, new ones go on.
    Gives the codes of refusals that the sender met on the way.
    """
    sending_url, hearing_url = machine.ws_urls
    receiver = PlainReceiver(hearing_url, make_token("bob"), room)
    sender = RetryingSender(sending_url, make_token("sender"), room, per_second=100)
    async with running(receiver):
        await within(receiver.joined.wait(), seconds=LONG_S)
        sending = asyncio.create_task(sender.run())
        await receiver.wait_heard(30, seconds=LONG_S)
        victim = await find_victim(machine, room, role)
        os.kill(victim.pid, number)
        await until_whole(machine, victim)
        await receiver.wait_heard(sender.acked + 30, seconds=LONG_S)
        sender.finish()
        await within(sending, seconds=LONG_S)
        await receiver.wait_heard(sender.acked, seconds=LONG_S)
    expected = list(range(sender.acked))
    assert receiver.heard == expected
    assert await history(hearing_url, room) == expected
    return sender.refused


async def find_victim(machine: Machine, room: str, role: str) -> LocalProcess:
    """Give the first edge, the controller, or the primary of *room*'s shard."""
    if role != "server":
        return machine.processes(role)[0]
    found = (await read(machine)).topology
    assert found is not None
    port = found.shards[found.shard_of(room)].primary.port
    return next(one for one in machine.processes(role) if one.port == port)


def test_what_runs_is_said_with_where_it_is(machine: Machine) -> None:
    """The table names each edge, each server with its role, the logs, and how to stop it."""
    said = machine.said()
    assert "edges 2, shards 2, replicas of each 1, durability replicated" in said
    edges = re.findall(r"^  edge-\d +http://localhost:(\d+)$", said, re.MULTILINE)
    assert [int(port) for port in edges] == [machine.first_port, machine.first_port + 1]
    servers = re.findall(r"^  (s\d)-\d +redis://127\.0\.0\.1:(\d+)  (\w+)$", said, re.MULTILINE)
    assert {int(port) for _, port, _ in servers} == {
        one.port for one in machine.processes("server")
    }
    roles = sorted((shard, role) for shard, _, role in servers)
    assert roles == [("s1", "primary"), ("s1", "replica"), ("s2", "primary"), ("s2", "replica")]
    assert f"roomful topology --state-dir {machine.state}" in said
    assert {path.stem for path in (machine.state / "logs").glob("*.log")} == {
        "controller", "edge-1", "edge-2", "s1-0", "s1-1", "s2-0", "s2-1"
    }  # fmt: skip


async def test_killed_primary_loses_nothing_that_was_acked(machine: Machine) -> None:
    """Its replica takes its place, it comes back as a replica, and senders never notice more."""
    before = (await read(machine)).topology
    await send_while(machine, "primary-dies", signal.SIGKILL, "server")
    after = (await read(machine)).topology
    assert before is not None
    assert after is not None
    shard = before.shard_of("primary-dies")
    assert after.shards[shard].term > before.shards[shard].term
    assert after.shards[shard].primary in before.shards[shard].replicas


async def test_killed_controller_is_nobodys_matter(machine: Machine) -> None:
    """Messages go on without it, with no refusal, and it is started again."""
    assert await send_while(machine, "controller-dies", signal.SIGKILL, "controller") == []


async def test_killed_edge_is_started_again(machine: Machine) -> None:
    """Its clients come back to it and go on where they were."""
    await send_while(machine, "edge-dies", signal.SIGKILL, "edge")
    assert "process started again child=edge-1" in machine.said()


async def test_everything_ends_and_goes_on_later(machine: Machine) -> None:
    """Ctrl-C leaves no process; the next start has the history, the order and the ids."""
    async with signed_in(machine.ws_urls[0], TOKEN) as client:
        await client.join("kept")
        acks = [await client.say("kept", number, id=f"m{number}") for number in range(10)]
    ran = machine.processes()
    assert len(ran) == EDGES + SERVERS + 1
    assert await asyncio.to_thread(machine.end) == 0
    assert left_of(ran) == []
    await asyncio.to_thread(machine.start)
    async with signed_in(machine.ws_urls[1], TOKEN) as client:
        await client.join("kept")
        assert await client.say("kept", "double", id="m3") == acks[3]
        assert (await client.say("kept", "new"))["offset"] > acks[-1]["offset"]
    assert await history(machine.ws_urls[0], "kept") == [*range(10), "new"]
    await until_whole(machine)


async def test_nothing_is_left_when_it_is_killed_itself(machine: Machine) -> None:
    """What it started ends with it, and the same command goes on."""
    ran = machine.processes()
    assert await asyncio.to_thread(machine.end, signal.SIGKILL) == -signal.SIGKILL
    await until(lambda: not left_of(ran), seconds=LONG_S)
    await asyncio.to_thread(machine.start)
    await until_whole(machine)


async def test_topology_says_where_shards_are_and_how(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for people, JSON for machines, and a status of 0 while every shard is whole."""
    await until_whole(machine)
    status = await topology("--state-dir", str(machine.state))
    shown = capsys.readouterr()
    assert (status, shown.err) == (0, "")
    assert re.search(r"^generation \d+, durability replicated, acks 1$", shown.out, re.MULTILINE)
    assert len(re.findall(r"^s\d  serving  term \d+, 512 buckets$", shown.out, re.MULTILINE)) == 2
    ports = {one.port for one in machine.processes("server")}
    assert {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)$", shown.out, re.M)} == ports
    one_server = f"127.0.0.1:{min(ports)}"
    assert await topology(one_server, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == dict.fromkeys(("s1", "s2"), {"phase": "serving", "reason": ""})
    assert document["unreachable"] == {}
    assert {"generation", "shards", "buckets"} <= set(document)


async def test_topology_tells_of_a_replica_that_is_away(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and the status is 1 until it is back."""
    await until_whole(machine)
    reading = await read(machine)
    assert reading.topology is not None
    (away,) = reading.topology.shards[reading.shards()[0].name].replicas
    process = next(one for one in machine.processes("server") if one.port == away.port)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        status = await topology("--state-dir", str(machine.state))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    shown = capsys.readouterr()
    assert status == 1
    assert re.search(rf"replica  {away}  unreachable: .", shown.out)
    await until_whole(machine)


def test_two_do_not_run_in_one_directory(machine: Machine) -> None:
    """The second one says which process has it, and leaves that alone."""
    assert machine.process is not None
    refused = run(*machine.arguments)
    assert refused.returncode == 2
    assert f"running already (process {machine.process.pid})" in refused.stderr
    assert len(machine.processes("edge")) == EDGES


def test_port_of_another_program_is_named(machine: Machine, tmp_path: Path) -> None:
    """And what to do; nothing is started."""
    refused = run(
        "cluster", "--dev", "--port", str(machine.first_port), "--state-dir", tmp_path / "another"
    )
    assert refused.returncode == 2
    assert f"port {machine.first_port}, {machine.first_port + 1} of 127.0.0.1" in refused.stderr
    assert "--port" in refused.stderr
    assert not (tmp_path / "another" / "logs").exists()
