"""
Where the suite gets its shards: one class for each implementation of Shard.

A test says what it needs (limits, the passing of time, a restart) to a Site and never to an
implementation, so that the same rules are asked of all of them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from roomful.shard.base import Shard, Sink
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits, MemoryShard
from roomful.shard.presence import PresenceLimits
from roomful.shard.snapshot import Snapshot
from shard.clock import ClockLoop

__all__ = ["MemorySite", "Site"]


class Site(Protocol):
    """Makes shards of one implementation, and moves the clock that they look at."""

    def __init__(self, directory: Path) -> None:
        """Begin, with *directory* for what has to be on disk."""

    async def make(
        self,
        sink: Sink,
        *,
        log: LogLimits | None = None,
        presence: PresenceLimits | None = None,
        limits: MemoryLimits | None = None,
    ) -> Shard:
        """Make an empty shard whose stream goes to *sink*."""

    def now(self) -> float:
        """Give the time of day, in seconds since the epoch."""

    async def pass_time(self, seconds: float) -> None:
        """Let *seconds* pass, and everything that is due by then happen."""

    async def restart(self, shard: Shard, sink: Sink, *, log: LogLimits | None = None) -> Shard:
        """Stop *shard* with grace and give the one that comes after it."""

    async def aclose(self) -> None:
        """Close all shards."""


class MemorySite:
    """The embedded shard, on a ClockLoop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._shards: list[MemoryShard] = []

    async def make(
        self,
        sink: Sink,
        *,
        log: LogLimits | None = None,
        presence: PresenceLimits | None = None,
        limits: MemoryLimits | None = None,
    ) -> MemoryShard:
        """Make an empty shard whose stream goes to *sink*."""
        shard = MemoryShard(
            log_limits=log, presence_limits=presence, limits=limits, now=self._loop().wall_time
        )
        shard.attach(sink)
        self._shards.append(shard)
        return shard

    def _loop(self) -> ClockLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockLoop)
        return loop

    def now(self) -> float:
        """Give the time of day of the loop's clock."""
        return self._loop().wall_time()

    async def pass_time(self, seconds: float) -> None:
        """Sleep: the clock jumps, with what is due on the way."""
        await asyncio.sleep(seconds)

    async def restart(
        self, shard: Shard, sink: Sink, *, log: LogLimits | None = None
    ) -> MemoryShard:
        """Hand over in a snapshot."""
        assert isinstance(shard, MemoryShard)
        await shard.aclose()
        snapshot = Snapshot(self._directory / "state" / "shard.msgpack")
        snapshot.write(shard)
        following = await self.make(sink, log=log)
        assert snapshot.restore(following)
        return following

    async def aclose(self) -> None:
        """Close all shards."""
        for shard in self._shards:
            await shard.aclose()
