"""
`roomful archive`: a worker for each shard of the topology, retention now and then, and probes.

The topology is asked of any server that is known, every second; a shard that fails over is
followed, and one that leaves the topology is worked for until its outbox is seen to be empty, or
its server has ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roomful.archive.archiver import Archiver, ArchiverStatistics, Target
from roomful.archive.base import ArchiveUnavailable
from roomful.archive.connections import Connections
from roomful.archive.migrate import check_schema, migrate
from roomful.archive.partitions import make_partitions
from roomful.archive.postgres import PostgresArchive
from roomful.archive.settings import ArchiveSettings
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address, BadTopology, Topology, decode_topology
from roomful.shard.resp import Backoff, Login, LostConnection, ReplyError, SignInRefused, connect
from roomful.telemetry.lasting import keep_going, task_failures
from roomful.telemetry.metrics import CONTENT_TYPE, Metrics, Sample

__all__ = ["ArchiveService"]

logger = logging.getLogger("roomful.archive")

LOOK_S: Final = 1.0
SAID_S: Final = 10.0
REPLY_S: Final = 3.0
DAY_MS: Final = 86_400_000


class ArchiveService:
    """One archiver process."""

    # Mutable state: the newest topology, the worker of each shard with its task, and when it was
    # last said that no server tells of a topology.
    def __init__(self, settings: ArchiveSettings, servers: Sequence[Address], login: Login) -> None:
        """Begin with *servers*, of which any that answers tells of all others."""
        self._settings = settings
        self._servers = servers
        self._login = login
        self._archive = PostgresArchive(
            settings.url, connections=settings.connections, timeout_s=settings.timeout_s
        )
        self.statistics = ArchiverStatistics()
        self._topology: Topology | None = None
        self._workers: dict[ShardName, tuple[Archiver, asyncio.Task[None]]] = {}
        self._said_at = -SAID_S

    async def run(self, *, migrates: bool = False) -> None:
        """
        Work until SIGTERM or SIGINT.

        Args:
            migrates: bring the schema to this version's first.

        Raises:
            ArchiveUnavailable: waiting does not help: the schema is not this version's, the port is
                taken, or no server lets this program in.
        """
        listener = _listen(self._settings.port) if self._settings.port else None
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        stop = asyncio.ensure_future(stopped.wait())
        # It is alive while it waits for the database, and says so.
        tasks = [asyncio.ensure_future(self._serve(listener))] if listener is not None else []
        try:
            await self._until_ready(stopped, migrate if migrates else check_schema)
            follow = keep_going("topology", self._follow, ends_with=(ArchiveUnavailable,))
            lasting = (follow, keep_going("retention", self._maintain))
            tasks += [asyncio.ensure_future(one) for one in lasting]
            await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in [*tasks, stop, *(task for _, task in self._workers.values())]:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._archive.aclose()
        logger.info("archiver stopped", extra={"stored": self.statistics.stored})

    async def _until_ready(
        self, stopped: asyncio.Event, prepare: Callable[[Connections], Awaitable[object]]
    ) -> None:
        backoff = Backoff(0.5, 10.0)
        while not stopped.is_set():
            try:
                await prepare(self._archive.connections)
                return
            except ArchiveUnavailable as exc:
                if not exc.temporary:
                    raise
                logger.warning("waiting for the database", extra={"why": exc.sentence})
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), backoff.next_s())

    # Shards ---------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            found = await self._look()
            if found is not None and found.newer_than(self._topology):
                self._topology = found
                logger.info("topology", extra={"generation": found.generation})
            if self._topology is not None:
                self._assign(self._topology)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> Topology | None:
        """
        Ask for the topology; None if nobody answers with one, which is said now and then.

        Raises:
            ArchiveUnavailable: at the start no server lets this program in.
        """
        known = list(self._known())
        refusals: list[str] = []
        reasons: list[str] = []
        for address in known:
            try:
                if (found := await self._ask(address)) is not None:
                    return found
                reasons.append(f"{address} has none yet")
            except SignInRefused as exc:
                refusals.append(str(exc))
            except (LostConnection, ReplyError, BadTopology) as exc:
                reasons.append(f"{address}: {str(exc).removeprefix(f'{address}: ')}")
        if self._topology is None and len(refusals) == len(known):
            said = f"no server lets this program in: {'; '.join(sorted(refusals))}"
            raise ArchiveUnavailable(said, temporary=False)
        if time.monotonic() > self._said_at + SAID_S:
            self._said_at = time.monotonic()
            why = "; ".join(sorted(reasons + refusals))
            logger.warning("no server tells where shards are", extra={"why": why})
        return None

    def _known(self) -> Iterable[Address]:
        known = dict.fromkeys(self._servers)
        for record in self._topology.shards.values() if self._topology else ():
            known |= dict.fromkeys((record.primary, *record.replicas))
        # Not always the same one, which may be the one that is cut off from all others.
        return random.sample(list(known), len(known))

    async def _ask(self, address: Address) -> Topology | None:
        connection = await connect(address, timeout_s=REPLY_S, login=self._login)
        try:
            _, document = await connection.call("FCALL_RO", "roomful_v1_topology", 0)
        finally:
            connection.abort()
        return None if document is None else decode_topology(document)

    def _assign(self, topology: Topology) -> None:
        for name, record in topology.shards.items():
            target = Target(record.primary, self._login, record.term, topology.acks)
            if name in self._workers:
                self._workers[name][0].target = target
                continue
            worker = Archiver(name, target, self._archive, self._settings, self.statistics)
            lasting = keep_going(f"archiver of {name}", worker.run)
            self._workers[name] = worker, asyncio.ensure_future(lasting)
        for name in set(self._workers) - set(topology.shards):
            # It left with an empty outbox, so what has ended since left nothing behind. Another
            # archiver may have settled the last of it, and this one never saw it empty.
            status = self.statistics.outboxes.get(name)
            is_empty = status is not None and status.entries == 0
            if is_empty or self._workers[name][0].is_lost:
                self._workers.pop(name)[1].cancel()
                self.statistics.outboxes.pop(name, None)
                logger.info("shard is gone", extra={"shard": name})

    # Now and then ---------------------------------------------------------------------------

    async def _maintain(self) -> None:
        """Make partitions, let go of what is old, and finish erasures; several may at once."""
        settings = self._settings
        while True:
            now_ms = time.time_ns() // 1_000_000
            try:
                size_ms = settings.partition_days * DAY_MS
                await make_partitions(self._archive.connections, now_ms, size_ms)
                await self._archive.finish_erasures()
                gone = await self._archive.retain(settings.rules, now_ms)
                logger.info("retention done", extra={"messages": gone})
            except ArchiveUnavailable as exc:
                self.statistics.failures += 1
                logger.warning("retention interrupted", extra={"why": exc.sentence})
                await asyncio.sleep(5.0)
                continue
            # Not in step with the other archivers.
            await asyncio.sleep(settings.retention_every_s * (0.75 + 0.5 * random.random()))  # noqa: S311

    # Probes ---------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket) -> None:
        metrics = Metrics(self.samples)

        async def answer_metrics(_request: Request) -> Response:
            return Response(metrics.render(), media_type=CONTENT_TYPE)

        async def answer_probe(_request: Request) -> Response:
            return Response(b"ok\n", media_type="text/plain")

        routes = [Route("/metrics", answer_metrics)]
        routes += [Route(path, answer_probe) for path in ("/livez", "/readyz")]
        config = uvicorn.Config(
            Starlette(routes=routes),
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        server = uvicorn.Server(config)
        # Signals are ours.
        await server._serve([listener])

    def samples(self) -> Sequence[Sample]:
        """Give the metrics."""
        own = self.statistics
        boxes = own.outboxes

        def gauge(name: str, words: str, values: Mapping[ShardName, float]) -> Sample:
            named: dict[str, float] = {str(shard): value for shard, value in values.items()}
            return Sample(name, words, named, is_counter=False, label="shard")

        return (
            Sample("archive_stored", "Messages stored in the archive.", own.stored),
            Sample("archive_repeated", "Messages that were there already.", own.repeated),
            Sample("archive_dead_letters", "Messages kept as dead letters.", own.letters),
            Sample("archive_batches", "Transactions.", own.batches),
            Sample("archive_claimed", "Entries taken over from other archivers.", own.claimed),
            Sample("archive_failures", "Times that work was interrupted.", own.failures),
            gauge(
                "archive_lag_entries",
                "Outbox entries that are not archived.",
                {name: one.entries for name, one in boxes.items()},
            ),
            gauge(
                "archive_lag_bytes",
                "Bytes of them.",
                {name: one.bytes for name, one in boxes.items()},
            ),
            gauge(
                "archive_lag_seconds",
                "Age of the oldest of them.",
                {name: one.age_ms / 1000 for name, one in boxes.items()},
            ),
            gauge("archive_delay_seconds", "From sent to archived, last batch.", own.delay_s),
            task_failures(),
        )


def _listen(port: int) -> socket.socket:
    try:
        # On all addresses: probes come from outside the container.
        return socket.create_server(("", port))
    except OSError as exc:
        # create_server() adds what it tried to the words of the system.
        words = (exc.strerror or str(exc)).partition(" (while")[0]
        raise ArchiveUnavailable(
            f"no metrics at port {port}: {words}; another archiver may have it: choose another by "
            "ROOMFUL_ARCHIVE_PORT, 0 for none",
            temporary=False,
        ) from exc
