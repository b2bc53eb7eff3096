"""
Every fault that can be done from outside to the processes of a cluster of our own (cluster.py).

A fault is mended when every shard serves with all its replicas attached, every edge is ready and
the controller runs: what was broken is whole again, by nobody's hand but the cluster's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from random import Random
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from roomful.cluster.topology import Address, Topology
from roomful.control.reading import read_cluster
from roomful.control.server import NAME as CONTROLLER
from roomful.local.layout import Layout
from roomful.local.ports import HOST
from roomful.verify.cluster import LOOK_S, LocalCluster, LocalShape, is_ready
from roomful.verify.incidents import Fault, FaultKind, Incident
from roomful.verify.processes import LocalProcess
from roomful.verify.proxy import Proxy

__all__ = ["MEND_S", "RESHARD_S", "LocalBreaker"]

MEND_S: Final = 60.0
PAUSE_S: Final = 6.0
"""A primary that stands still for so long is suspected and replaced meanwhile."""
RESHARD_S: Final = 180.0
"""For a third of all rooms to move under load, and for a drained shard to be heard to the end."""
LAG_S: Final = 10.0
"""An archive that is less behind keeps up."""

_PAUSE: Final = re.compile(r" bucket moved .*?pause_ms=([0-9.]+)")
"""What the controller says of each bucket: how long it was closed."""
CUT_OFF_S: Final = 8.0
"""Longer than it takes to give its role to another one."""

CUT_OFF: Final = ("-psync", "-sync", "-info")
"""
What replicas and the controller cannot do without, and edges never do: forbidden, and with the
connections closed that there are, the server answers edges only. That needs no rights over the
machine's network.
"""
MENDED: Final = ("+@all", "-sync")
"""
A replica whose PSYNC was refused tries SYNC next. If that were allowed by then, it would follow
without ever confirming anything.
"""


class LocalBreaker:
    """Breaks a LocalCluster."""

    def __init__(
        self, cluster: LocalCluster, shape: LocalShape, database: Proxy | None = None
    ) -> None:
        """Break *cluster*, and the archivers' way to their *database*."""
        self._cluster = cluster
        self._shape = shape
        self._database = database
        self._pauses_ms: list[float] = []

    @staticmethod
    def possible(shape: LocalShape) -> frozenset[FaultKind]:
        """Give what can be done to a cluster of *shape*: without replicas no primary may die."""
        kinds = {FaultKind.EDGE_KILL, FaultKind.CONTROLLER_KILL, FaultKind.ROLLING_RESTART}
        kinds.add(FaultKind.RESHARD)
        if shape.replicas:
            kinds |= {FaultKind.PRIMARY_KILL, FaultKind.PAUSE, FaultKind.PARTITION}
            kinds.add(FaultKind.HAND_OVER)
        if shape.archivers:
            kinds |= {FaultKind.ARCHIVER_KILL, FaultKind.DATABASE_AWAY}
        return frozenset(kinds)

    @property
    def kinds(self) -> frozenset[FaultKind]:
        """What can be done."""
        return self.possible(self._shape)

    async def inflict(self, fault: Fault) -> Incident:
        """Do *fault* and wait until the cluster is whole again."""
        random, began_at = Random(fault.seed), time.monotonic()  # noqa: S311 - to be repeated
        do = {
            FaultKind.EDGE_KILL: self._kill_edge,
            FaultKind.CONTROLLER_KILL: self._kill_controller,
            FaultKind.ROLLING_RESTART: self._roll,
            FaultKind.PRIMARY_KILL: self._kill_primary,
            FaultKind.PAUSE: self._pause_primary,
            FaultKind.HAND_OVER: self._hand_over,
            FaultKind.RESHARD: self._reshard,
            FaultKind.PARTITION: self._cut_off_primary,
            FaultKind.ARCHIVER_KILL: self._kill_archiver,
            FaultKind.DATABASE_AWAY: self._take_database_away,
        }[fault.kind]
        failed: str | None = None
        self._pauses_ms = []
        try:
            what = await do(random)
            failed = await self._until_whole()
        except (OSError, LookupError, RedisError) as exc:
            what, failed = "", f"could not be done: {exc or type(exc).__name__}"
        return Incident(fault.kind, what, began_at, time.monotonic(), failed, self._pauses_ms)

    # Faults ---------------------------------------------------------------------------------

    async def _kill_edge(self, random: Random) -> str:
        victim = random.choice(self._cluster.processes("edge"))
        os.kill(victim.pid, signal.SIGKILL)
        return f"edge on {victim.port} killed"

    async def _kill_archiver(self, random: Random) -> str:
        victim = random.choice(self._cluster.processes("archiver"))
        os.kill(victim.pid, signal.SIGKILL)
        return "archiver killed"

    async def _take_database_away(self, _random: Random) -> str:
        assert self._database is not None, "archivers have a database"
        self._database.close()
        try:
            await asyncio.sleep(self._shape.outage_s)
        finally:
            self._database.open()
        return f"the archive's database away for {self._shape.outage_s:g} s"

    async def _kill_controller(self, random: Random) -> str:
        victim = random.choice(self._cluster.processes("controller"))
        os.kill(victim.pid, signal.SIGKILL)
        return "controller killed"

    async def _roll(self, _random: Random) -> str:
        edges = self._cluster.processes("edge")
        for edge in edges:
            os.kill(edge.pid, signal.SIGTERM)
            await self._until_another(edge)
        return f"{len(edges)} edges restarted, one after the other"

    def _is_another(self, before: LocalProcess) -> bool:
        now = [one for one in self._cluster.processes("edge") if one.port == before.port]
        return bool(now) and now[0].pid != before.pid and is_ready(f"http://{HOST}:{before.port}")

    async def _kill_primary(self, random: Random) -> str:
        shard, victim = await self._primary(random)
        os.kill(victim.pid, signal.SIGKILL)
        return f"primary of {shard} on {victim.port} killed"

    async def _pause_primary(self, random: Random) -> str:
        shard, victim = await self._primary(random)
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(PAUSE_S)
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        return f"primary of {shard} on {victim.port} stopped for {PAUSE_S:g} s"

    async def _hand_over(self, random: Random) -> str:
        """Give a shard another primary as people do before they restart its server."""
        shard, before = await self._primary(random)
        said = await self._roomful("failover", shard)
        return f"{shard} handed over by {before.port}: {said}"

    async def _reshard(self, random: Random) -> str:
        """Add a shard as people do, or drain one when there is one more than at the start."""
        log = self._cluster.state / "logs" / "controller.log"
        begin = log.stat().st_size
        topology = (await read_cluster(self._addresses())).topology
        if topology is None:
            raise LookupError("no server keeps a topology")
        command = ["add"]
        if len(topology.shards) > self._shape.shards:
            command = ["drain", random.choice(sorted(topology.shards))]
        said = await self._roomful("shard", *command, "--timeout", str(RESHARD_S))
        words = log.read_bytes()[begin:].decode(errors="replace")
        self._pauses_ms = [float(pause) for pause in _PAUSE.findall(words)]
        return f"shard {' '.join(command)}: {said}, {len(self._pauses_ms)} buckets moved"

    async def _roomful(self, *arguments: str) -> str:
        """Run a command about this cluster; gives the last line that it wrote."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "roomful.cli", *arguments),
            *("--state-dir", str(self._cluster.state)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        if process.returncode:
            raise LookupError(f"roomful {' '.join(arguments)}: {last}")
        return last

    def _addresses(self) -> list[Address]:
        layout = Layout.read(self._cluster.state)
        assert layout is not None, "a cluster that runs has written its layout"
        return [place.address for place in layout.servers()]

    async def _cut_off_primary(self, random: Random) -> str:
        shard, victim = await self._primary(random)
        async with Redis(host=HOST, port=victim.port, socket_timeout=CUT_OFF_S) as server:
            await _order(server, "ACL", "SETUSER", "default", *CUT_OFF)
            try:
                await _order(server, "CLIENT", "KILL", "TYPE", "replica")
                for client in await server.client_list():
                    if client["name"] == CONTROLLER:
                        await _order(server, "CLIENT", "KILL", "ID", client["id"])
                await asyncio.sleep(CUT_OFF_S)
            finally:
                await _order(server, "ACL", "SETUSER", "default", *MENDED)
        return f"primary of {shard} on {victim.port} cut off for {CUT_OFF_S:g} s, not from edges"

    async def _primary(self, random: Random) -> tuple[str, LocalProcess]:
        reading = await read_cluster(self._addresses())
        if reading.topology is None:
            raise LookupError("no server keeps a topology")
        shard = random.choice(sorted(reading.topology.shards))
        port = reading.topology.shards[shard].primary.port
        server = next(one for one in self._cluster.processes("server") if one.port == port)
        return shard, server

    # Mending --------------------------------------------------------------------------------

    async def _until_whole(self) -> str | None:
        """Wait until everything is as it should be; gives what is not after MEND_S."""
        end, why = time.monotonic() + MEND_S, ""
        while time.monotonic() < end:
            why = await self._lack()
            if not why:
                return None
            await asyncio.sleep(LOOK_S)
        return f"not mended after {MEND_S:g} s: {why}"

    async def _lack(self) -> str:
        if not self._cluster.processes("controller"):
            return "the controller does not run"
        reading = await read_cluster(self._addresses())
        if reading.unreachable:
            return f"{len(reading.unreachable)} servers cannot be reached"
        waiting = [status for status in reading.shards() if not status.is_whole]
        if waiting or reading.topology is None:
            return "; ".join(f"{one.name}: {one.phase} {one.reason}" for one in waiting)
        if self._shape.archivers and (why := await self._archive_lack(reading.topology)):
            return why
        away = [url for url in self._cluster.urls if not await asyncio.to_thread(is_ready, url)]
        return f"{', '.join(away)} not ready" if away else ""

    async def _archive_lack(self, topology: Topology) -> str:
        there = len(self._cluster.processes("archiver"))
        if there < self._shape.archivers:
            return f"{there} of {self._shape.archivers} archivers run"
        for name, record in topology.shards.items():
            port = record.primary.port
            async with Redis(host=HOST, port=port, socket_timeout=CUT_OFF_S) as server:
                age_ms = int((await server.fcall_ro("roomful_v1_outbox", 0))[2])
            if age_ms > LAG_S * 1000:
                return f"the archive is {age_ms / 1000:.0f} s behind {name}"
        return ""

    async def _until_another(self, before: LocalProcess) -> None:
        """Wait for the process that comes after an edge to be ready."""
        end = time.monotonic() + MEND_S
        while not await asyncio.to_thread(self._is_another, before):
            if time.monotonic() > end:
                raise LookupError(f"the edge on {before.port} was not back in {MEND_S:g} s")
            await asyncio.sleep(LOOK_S)


async def _order(server: Redis, *words: str) -> None:
    await server.execute_command(*words)  # type: ignore[no-untyped-call]
