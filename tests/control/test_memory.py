"""What the memory of a shard's server is for: data, besides what its replicas need."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from control.driving import Driven
from control.servers import Fleet, SealedServer
from roomful.cluster.cursor import ShardName
from roomful.control.asking import read_usage
from roomful.shard.library import library_source, library_version
from support.users import CONTROLLER

MEGABYTE = 2**20
MakeFleet = Callable[..., Fleet]
Control = Callable[..., Driven]


def fill(server: SealedServer, value: str, count: int) -> None:
    """Store *value* some times more."""
    for _ in range(count):
        server.command("RPUSH", "more", value)


async def test_what_was_written_long_ago_takes_no_memory_from_data(
    make_fleet: MakeFleet, control: Control
) -> None:
    """
    The backlog for replicas fills with everything that is written, and data has its memory still.

    It counts as used memory: a server with less memory than a backlog refused all writes after it
    had been written to for long, however little it had.
    """
    fleet = make_fleet(shards=1, replicas=1, memory_bytes=16 * MEGABYTE)
    driven = control(fleet, acks=1)
    await driven.serve()
    primary = fleet.at(driven.record().primary)
    value = "x" * (MEGABYTE - 1024)  # with its head it takes a megabyte of the allocator
    for _ in range(100):
        primary.store("same", value)

    topology = driven.controller.topology
    assert topology is not None
    usage = (await read_usage(topology, CONTROLLER))[ShardName("s1")]
    assert 1 / 16 < usage.memory < 0.5

    fill(primary, value, 12)
    usage = (await read_usage(topology, CONTROLLER))[ShardName("s1")]
    assert usage.memory > 0.75
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        fill(primary, value, 12)


async def test_a_full_shard_serves_with_the_functions_that_it_has(
    make_fleet: MakeFleet, control: Control
) -> None:
    """An upgrade does not wait for room: newer functions are loaded once there is some."""
    fleet = make_fleet(shards=1, replicas=0)
    await control(fleet).serve()
    (server,) = fleet.servers
    version = library_version()
    older = library_source().replace(f"VERSION = {version}\n", f"VERSION = {version - 1}\n")
    server.command("FUNCTION", "LOAD", "REPLACE", older)
    server.command("CONFIG", "SET", "maxmemory", 1)
    driven = control(fleet, insists=True)
    await driven.serve()
    assert server.command("FCALL_RO", "roomful_version", 0) == version - 1
    server.command("CONFIG", "SET", "maxmemory", 0)
    await driven.until(
        lambda _: server.command("FCALL_RO", "roomful_version", 0) == library_version()
    )


async def test_a_full_shard_gets_its_next_primary(make_fleet: MakeFleet, control: Control) -> None:
    """It needs room for a few words, which is no reason to have none that serves what it has."""
    fleet = make_fleet(shards=1, replicas=1)
    await control(fleet, acks=1).serve()
    first, second = fleet.servers
    second.command("CONFIG", "SET", "maxmemory", 1)
    first.restart()
    first.command("CONFIG", "SET", "maxmemory", 1)
    # Another controller, which has looked after neither before.
    driven = control(fleet, acks=1, insists=True)
    await driven.until(lambda status: status.is_serving and driven.record().term == 2)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        fill(fleet.at(driven.record().primary), "x", 1)
