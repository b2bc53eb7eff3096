"""
Runs a whole cluster on this machine, and ends it in order.

Started: servers (sealed), the controller, and when all shards have a primary, the edges and the
archivers. Stopped: edges (each drains its connections), archivers, the controller (so that it takes
no stop for a failure), then each shard's primary before its replicas, which by then have all. While
it runs it follows its layout: a shard that was added there is started, one that has left the
topology ends.

Each is a process of its own and is started again when it ends; all of them end with this one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
from pathlib import Path
from typing import Final

from roomful.cluster.topology import Address, Topology
from roomful.control.reading import Reading, read_cluster
from roomful.control.sealed import ServerOptions, build_server_options, render_config
from roomful.control.view import Phase
from roomful.local.layout import BadCluster, Layout, ServerPlace
from roomful.local.plan import EdgePlan, describe_cluster
from roomful.local.ports import HOST, is_free, obstacle
from roomful.local.process import Child

__all__ = ["LocalCluster"]

logger = logging.getLogger("roomful.local")

START_S: Final = 60.0
"""For all shards to get their roles, or for an edge to become ready."""

SERVER_PATIENCE_S: Final = 20.0
"""A primary waits up to 10 s for its replicas when it is stopped, and writes its file."""

ARCHIVER_PATIENCE_S: Final = 10.0
"""What it has not written it takes up at the next start."""

LOOK_S: Final = 1.0


class LocalCluster:
    """A cluster of processes; run() is its life."""

    # Mutable state: the processes, the signals that came, and what was last seen of the shards.
    def __init__(self, layout: Layout, edges: EdgePlan, program: str) -> None:
        self._layout = layout
        self._edges = edges
        self._program = program
        self._servers = {place.address: self._server(place) for place in layout.servers()}
        self._controller = Child("controller", self._controller_command(), self._log("controller"))
        self._edge_children = {
            port: self._edge(number, port) for number, port in enumerate(edges.ports, 1)
        }
        self._archivers = [self._archiver(number) for number in range(1, edges.archivers + 1)]
        self._signals = asyncio.Queue[signal.Signals]()
        self._topology: Topology | None = None
        self._phases: dict[str, Phase] = {}

    async def run(self) -> None:
        """
        Start everything, keep it running until SIGINT or SIGTERM, and stop it.

        Raises:
            BadCluster: something does not start; everything is stopped by then.
        """
        self._check_ports()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        try:
            self._write_configs()
            life = asyncio.create_task(self._live())
            ends = asyncio.create_task(self._signals.get())
            done, waiting = await asyncio.wait({life, ends}, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            if life in done:
                life.result()
        finally:
            await self._stop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    # Starting -------------------------------------------------------------------------------

    async def _live(self) -> None:
        await asyncio.gather(*(server.start() for server in self._servers.values()))
        await self._controller.start()
        await self._until_serving()
        beside = (*self._edge_children.values(), *self._archivers)
        await asyncio.gather(*(child.start() for child in beside))
        await asyncio.gather(*(self._until_ready(port) for port in self._edges.ports))
        sys.stderr.write(describe_cluster(self._layout, self._edges, self._topology))
        sys.stderr.flush()
        while True:
            await asyncio.sleep(LOOK_S)
            self._check_children()
            self._tell_changes(await self._read())
            await self._follow_layout()

    # Shards that come and go -----------------------------------------------------------------

    async def _follow_layout(self) -> None:
        """Start servers of shards that were added to the layout, end those of shards that left."""
        retired = self._topology.intents.retired if self._topology else ()
        if gone := [name for name in self._layout.shards if name in retired]:
            places = [place for place in self._layout.servers() if place.shard in gone]
            await self._apply(self._layout.without_shards(gone))
            await asyncio.gather(
                *(self._servers.pop(one.address).stop(SERVER_PATIENCE_S) for one in places)
            )
            logger.info("shard ended", extra={"shard": ", ".join(gone)})
        found = Layout.read(self._layout.directory)
        if found is not None and found.shards != self._layout.shards:
            await self._apply(found)

    async def _apply(self, layout: Layout) -> None:
        self._layout = layout
        self._write_configs()
        for place in layout.servers():
            if place.address not in self._servers:
                self._servers[place.address] = server = self._server(place)
                await server.start()
                logger.info("server added", extra={"server": place.name})
        # What is started again finds the cluster by the servers that are there then.
        self._controller.change(self._controller_command())
        for number, (port, edge) in enumerate(self._edge_children.items(), 1):
            edge.change(*self._edge_command(number, port))
        for archiver in self._archivers:
            archiver.change(*self._archiver_command())

    def _check_ports(self) -> None:
        host, taken = self._edges.host, []
        for port in self._edges.ports:
            why = obstacle(host, port)
            if why is not None and why.errno != errno.EADDRINUSE:
                raise BadCluster(f"cannot listen on {host}:{port}: {why.strerror}") from why
            taken += [str(port)] if why else []
        if taken:
            raise BadCluster(
                f"port {', '.join(taken)} of {host} is taken by another program: "
                "choose the first edge's by --port"
            )
        busy = [place for place in self._layout.servers() if not is_free(HOST, place.address.port)]
        if busy:
            names = ", ".join(f"{place.address.port} ({place.name})" for place in busy)
            raise BadCluster(
                f"another program has ports of this cluster's shards: {names}. A cluster keeps "
                "its ports: end that program, or begin another cluster by --state-dir"
            )

    def _server(self, place: ServerPlace) -> Child:
        config = place.directory / "redis.conf"
        return Child(place.name, [self._program, str(config)], self._log(place.name))

    def _write_configs(self) -> None:
        for place in self._layout.servers():
            directory = place.directory.resolve()
            directory.mkdir(parents=True, exist_ok=True)
            options = ServerOptions(place.address, HOST, str(directory))
            (place.directory / "redis.conf").write_text(
                render_config(build_server_options(options))
            )

    def _controller_command(self) -> list[str]:
        layout = self._layout
        command = [sys.executable, "-m", "roomful.cli", "controller", "--acks", str(layout.acks)]
        command += ["--fsynced"] if layout.is_fsynced else []
        for name, addresses in layout.shards.items():
            command += ["--shard", f"{name}={','.join(map(str, addresses))}"]
        return command

    def _edge(self, number: int, port: int) -> Child:
        command, environment = self._edge_command(number, port)
        name = self._edges.name(number)
        return Child(name, command, self._log(name), environment)

    def _edge_command(self, number: int, port: int) -> tuple[list[str], dict[str, str]]:
        name = self._edges.name(number)
        command = [sys.executable, "-m", "roomful.cli", "serve", *self._edges.arguments]
        command += ["--host", self._edges.host, "--port", str(port)]
        state = self._layout.directory / "edges" / name
        return command, {"ROOMFUL_SHARDS": self._addresses(), "ROOMFUL_STATE_DIR": str(state)}

    def _archiver(self, number: int) -> Child:
        command, environment = self._archiver_command()
        name = f"archiver-{number}"
        return Child(name, command, self._log(name), environment)

    def _archiver_command(self) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-m", "roomful.cli", "archive", "--migrate"]
        command += self._edges.archive_arguments
        # Without a port of metrics, which all of them would want.
        return command, {"ROOMFUL_SHARDS": self._addresses(), "ROOMFUL_ARCHIVE_PORT": "0"}

    def _addresses(self) -> str:
        return ",".join(f"redis://{place.address}" for place in self._layout.servers())

    def _log(self, name: str) -> Path:
        return self._layout.logs / f"{name}.log"

    async def _until_serving(self) -> None:
        reading = Reading(None)
        try:
            async with asyncio.timeout(START_S):
                while not self._is_serving(reading := await self._read()):
                    self._check_children()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            reasons = [f"{shard.name}: {shard.phase} {shard.reason}" for shard in reading.shards()]
            reasons += [f"{address}: {why}" for address, why in reading.unreachable.items()]
            raise BadCluster(
                f"the shards did not come up in {START_S:g} s:\n  "
                + "\n  ".join(reasons or ["no topology"])
                + f"\nthe controller said:\n{self._controller.last_words()}"
            ) from None
        self._tell_changes(reading)

    def _is_serving(self, reading: Reading) -> bool:
        if reading.topology is None:
            return False
        known = {*reading.topology.shards, *reading.topology.intents.retired}
        return known >= self._layout.shards.keys() and all(
            shard.phase is Phase.SERVING for shard in reading.shards()
        )

    async def _until_ready(self, port: int) -> None:
        child = self._edge_children[port]
        try:
            async with asyncio.timeout(START_S):
                while not await _answers(self._edges.host, port):
                    self._check_children()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise BadCluster(
                f"{child.name} was not ready in {START_S:g} s; it said:\n{child.last_words()}"
            ) from None

    # Running --------------------------------------------------------------------------------

    async def _read(self) -> Reading:
        return await read_cluster(self._servers)

    def _check_children(self) -> None:
        """Raise what keeps a process from being kept running."""
        beside = (self._controller, *self._edge_children.values(), *self._archivers)
        for child in (*self._servers.values(), *beside):
            if child.fault is not None:
                raise child.fault

    def _tell_changes(self, reading: Reading) -> None:
        self._topology = reading.topology or self._topology
        names = {place.address: place.name for place in self._layout.servers()}
        for shard in reading.shards():
            if self._phases.get(shard.name) == shard.phase:
                continue
            self._phases[shard.name] = shard.phase
            extra = {"shard": shard.name, "state": shard.phase.value}
            if shard.primary is not None:
                extra |= {"primary": names.get(shard.primary, str(shard.primary))}
            extra |= {"term": str(shard.term)} | ({"why": shard.reason} if shard.reason else {})
            level = logging.INFO if shard.phase is Phase.SERVING else logging.WARNING
            logger.log(level, "shard", extra=extra)

    def _is_primary(self, address: Address) -> bool:
        shards = self._topology.shards.values() if self._topology else ()
        return any(record.primary == address for record in shards)

    # Stopping -------------------------------------------------------------------------------

    async def _stop(self) -> None:
        logger.info("stops: a second signal closes connections at once")
        hurry = asyncio.create_task(self._hurry())
        patience_s = self._edges.drain_s + 15.0
        await asyncio.gather(*(edge.stop(patience_s) for edge in self._edge_children.values()))
        hurry.cancel()
        await asyncio.wait([hurry])
        await asyncio.gather(*(one.stop(ARCHIVER_PATIENCE_S) for one in self._archivers))
        await self._controller.stop(5.0)
        ordered = sorted(self._servers, key=lambda address: not self._is_primary(address))
        primaries = [address for address in ordered if self._is_primary(address)]
        for some in (primaries, ordered[len(primaries) :]):
            await asyncio.gather(*(self._servers[one].stop(SERVER_PATIENCE_S) for one in some))
        logger.info("stopped")

    async def _hurry(self) -> None:
        while True:
            await self._signals.get()
            for edge in self._edge_children.values():
                edge.terminate()


async def _answers(host: str, port: int) -> bool:
    """Whether the edge at *port* says that it is ready."""
    target = HOST if host == "0.0.0.0" else "::1" if host == "::" else host  # noqa: S104
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(target, port)
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.transport.abort()
    except OSError:
        return False
