"""
The archiver: moves every message from the shards' outboxes into the archive, for ever.

One worker per shard fetches, makes sure that enough replicas have what it fetched, stores, and
only then settles. Whatever fails (the archive away, a connection lost, a failover) it begins again
after a pause; what it had fetched is still in the outbox, and the archive's key makes what was
stored already no second message. Archivers know nothing of each other: run as many as you like.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Final

from roomful.archive.base import Archive, ArchiveUnavailable
from roomful.archive.outbox import Batch, Fetched, Outbox, OutboxStatus, WrongShard
from roomful.archive.settings import ArchiveSettings
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.shard.resp import Backoff, Login, LostConnection, ReplyError, RespConnection, connect

__all__ = ["Archiver", "ArchiverStatistics", "Target"]

logger = logging.getLogger("roomful.archive")

FETCHED: Final = 1_000
"""Entries of one fetch."""
BLOCK_MS: Final = 1_000
REPLY_S: Final = 10.0
WAIT_MS: Final = 1_000
CLAIM_S: Final = 5.0
"""Seconds between two looks for what others have left."""
PAUSE_MS: Final = 20


@dataclass(frozen=True, slots=True)
class Target:
    """Where a shard is, and how many replicas have what was acknowledged."""

    primary: Address
    login: Login
    term: int
    replicas: int


@dataclass(slots=True)
class ArchiverStatistics:
    """Counts since the start."""

    stored: int = 0
    repeated: int = 0
    """Messages that were in the archive already."""
    letters: int = 0
    """What could not be read or stored, kept as dead letters."""
    batches: int = 0
    claimed: int = 0
    """Entries taken over from others."""
    failures: int = 0
    """Times that a shard or the archive did not do what was asked of it."""
    outboxes: dict[ShardName, OutboxStatus] = field(default_factory=dict)
    delay_s: dict[ShardName, float] = field(default_factory=dict)
    """Seconds between the oldest message of the last batch and its commit."""


class Archiver:
    """Works for one shard, until it is cancelled."""

    # Mutable state: where the shard is, whether it could be worked for, and when others' entries
    # were last looked for.
    def __init__(
        self,
        shard: ShardName,
        target: Target,
        archive: Archive,
        settings: ArchiveSettings,
        statistics: ArchiverStatistics,
    ) -> None:
        self.shard = shard
        self.target = target
        self.is_lost = False
        """Whether the shard did not do the last thing that was asked of it."""
        self._archive = archive
        self._settings = settings
        self._statistics = statistics
        self._claimed_at = 0.0
        # One name for the worker's life: on a new connection it finds what it had fetched.
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"
        self._backoff = Backoff(0.1, 5.0)

    def __repr__(self) -> str:
        return f"<Archiver of {self.shard} at {self.target.primary}>"

    async def run(self) -> None:
        """Work; to be cancelled."""
        while True:
            try:
                await self._work()
            except (LostConnection, ReplyError, WrongShard, ArchiveUnavailable) as exc:
                self.is_lost = not isinstance(exc, ArchiveUnavailable)
                self._statistics.failures += 1
                pause_s = self._backoff.next_s()
                logger.warning(
                    "archiving interrupted",
                    extra={"shard": self.shard, "why": str(exc), "pause_s": round(pause_s, 2)},
                )
                await asyncio.sleep(pause_s)

    async def _work(self) -> None:
        target = self.target
        connection = await connect(target.primary, timeout_s=REPLY_S, login=target.login)
        outbox = Outbox(connection, self.shard, self._consumer)
        try:
            await outbox.open()
            while found := await outbox.fetched(FETCHED):
                await self._archive_batch(outbox, target, _batch(self.shard, found))
            while self.target == target:
                await self._archive_batch(outbox, target, await self._gather(outbox))
                self._backoff.reset()
        except BaseException:
            # What is fetched and not settled is somebody else's, after a while.
            connection.abort()
            raise
        await self._leave(outbox, connection)

    async def _leave(self, outbox: Outbox, connection: RespConnection) -> None:
        try:
            await outbox.leave()
        except (LostConnection, ReplyError):
            pass  # It is forgotten later: forget_idle().
        connection.abort()

    async def _archive_batch(self, outbox: Outbox, target: Target, batch: Batch) -> None:
        if batch.ids:
            while not await outbox.wait(target.replicas, WAIT_MS):
                self._check(target)
                self._statistics.failures += 1
                logger.warning("too few replicas have it", extra={"shard": self.shard})
            await self._store(batch, target, outbox)
            await outbox.settle(batch)
        self._statistics.outboxes[self.shard] = await outbox.status()
        self.is_lost = False

    def _check(self, target: Target) -> None:
        if self.target != target:
            raise LostConnection("the shard is elsewhere")

    async def _gather(self, outbox: Outbox) -> Batch:
        """Fetch until there is a batch, by size or by age; empty when nothing came."""
        settings = self._settings
        batch, loop = Batch(self.shard), asyncio.get_running_loop()
        if loop.time() - self._claimed_at > CLAIM_S:
            claimed = await outbox.claim(FETCHED, int(settings.claim_after_s * 1000))
            self._statistics.claimed += len(claimed)
            _add(batch, claimed)
            if len(claimed) < FETCHED:
                self._claimed_at = loop.time()
                await outbox.forget_idle()
        due = 0.0 if not batch.ids else loop.time() + settings.batch_age_s
        while len(batch.entries) < settings.batch_messages and batch.size < settings.batch_bytes:
            left_ms = int((due - loop.time()) * 1000) if batch.ids else BLOCK_MS
            if left_ms <= 0:
                break
            found = await outbox.fetch(FETCHED, left_ms)
            if not found:
                break
            if not batch.ids:
                due = loop.time() + settings.batch_age_s
            _add(batch, found)
            if len(found) < FETCHED:
                # They come one at a time otherwise, each with a round trip of its own.
                await asyncio.sleep(min(PAUSE_MS, max(0, left_ms)) / 1000)
        return batch

    async def _store(self, batch: Batch, target: Target, outbox: Outbox) -> None:
        """Store *batch*, however long the archive is away."""
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                await self._archive.bury(batch.letters)
                done = await self._archive.store(self.shard, batch.entries)
                break
            except ArchiveUnavailable as exc:
                self._check(target)
                self._statistics.failures += 1
                pause_s = backoff.next_s()
                logger.warning("not stored", extra={"shard": self.shard, "why": str(exc)})
                self._statistics.outboxes[self.shard] = await outbox.status()
                await asyncio.sleep(pause_s)
        statistics = self._statistics
        statistics.batches += 1
        statistics.stored += done.new
        statistics.letters += done.letters + len(batch.letters)
        statistics.repeated += len(batch.entries) - done.new - done.letters
        if batch.entries:
            oldest_ms = min(entry.envelope.timestamp for entry in batch.entries)
            statistics.delay_s[self.shard] = max(0.0, time.time() - oldest_ms / 1000)


def _batch(shard: ShardName, found: Fetched) -> Batch:
    batch = Batch(shard)
    _add(batch, found)
    return batch


def _add(batch: Batch, found: Fetched) -> None:
    for number, fields in found:
        batch.add(number, fields)
