"""What needs no lead: leaving what people ask of a cluster, and seeing how full its shards are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.requests import Request, encode_request
from roomful.cluster.topology import Topology
from roomful.control.link import Credentials, ServerUnreachable
from roomful.control.server import NotNow, Server
from roomful.protocol.errors import RoomfulError

__all__ = ["ShardUsage", "leave_request", "read_usage"]

TIMEOUT_S: Final = 2.0


async def leave_request(topology: Topology, request: Request, credentials: Credentials) -> None:
    """
    Leave *request* on the first primary of *topology* that takes writes; needs no lead.

    Raises:
        ServerUnreachable: no primary answers, or this one not to the end: it may be left.
        OrderRefused: too many wait there, none takes writes, or too few replicas have it.

    Source: docs/adr/0024-what-people-ask-of-a-cluster.md
    """
    name, document = str(time.time_ns()), encode_request(request)
    refusal: RoomfulError | None = None
    for shard in sorted(topology.shards):
        primary = topology.shards[shard].primary
        server = Server(primary, credentials, timeout_s=TIMEOUT_S, is_reader=True)
        try:
            try:
                await server.info("server")
            except ServerUnreachable as exc:
                refusal = refusal or exc
                continue
            # If it is lost from here on it may be there: left elsewhere, too, it could come again
            # after its opposite.
            return await server.request(name, document, topology.acks)
        except NotNow as exc:
            refusal = refusal or exc
        finally:
            server.close()
    assert refusal is not None, "a cluster has a shard"
    raise refusal


@dataclass(frozen=True, slots=True)
class ShardUsage:
    """How much a shard's primary has and has done."""

    memory: float
    """The part of its memory limit that its data uses; 0 without a limit."""
    cpu_s: float
    """Seconds that its main thread has worked, since the process began."""
    run_id: str
    """That process."""


async def read_usage(
    topology: Topology, credentials: Credentials
) -> Mapping[ShardName, ShardUsage]:
    """
    Give the usage of every shard of *topology*.

    Raises:
        ServerUnreachable: a primary did not answer.
    """

    async def one(name: ShardName) -> tuple[ShardName, ShardUsage]:
        primary = topology.shards[name].primary
        server = Server(primary, credentials, timeout_s=TIMEOUT_S, is_reader=True)
        try:
            return name, _usage(await server.info("server", "memory", "cpu", "replication"))
        finally:
            server.close()

    return dict(await asyncio.gather(*map(one, topology.shards)))


def _usage(info: Mapping[str, str]) -> ShardUsage:
    # The backlog for replicas is not what a shard is full of, and has a part of its own.
    backlog = int(info.get("repl_backlog_size", 0))
    limit = max(0, int(info["maxmemory"]) - backlog)
    used = int(info["used_memory"]) - min(backlog, int(info.get("mem_replication_backlog", 0)))
    # What replicas and clients wait for comes and goes.
    used -= int(info.get("mem_not_counted_for_evict", 0))
    threads = ("used_cpu_sys_main_thread", "used_cpu_user_main_thread")
    cpu_s = sum(float(info.get(name, 0.0)) for name in threads)
    return ShardUsage(used / limit if limit else 0.0, cpu_s, info["run_id"])
