"""
Where the suite gets its shards: one class for each implementation of Shard.

A test says what it needs (limits, the passing of time, a restart) to a Site and never to an
implementation, so that the same rules are asked of all of them. The few that not every
implementation can show need a Capability; the one on Redis is in redis_site.py.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Protocol

import pytest

from roomful.archive.embedded import EmbeddedArchive
from roomful.shard.base import Shard, Sink
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits, MemoryShard
from roomful.shard.presence import PresenceLimits
from roomful.shard.snapshot import Snapshot
from shard.clock import ClockLoop, settle
from shard.delaying import DelayingShard, Storage

__all__ = ["Capability", "DelayingSite", "JournaledSite", "KilledSite", "MemorySite", "Site"]


class Capability(Enum):
    """A rule that not every implementation has; the value says it."""

    BOUNDED_LOGS = "all logs together are bounded in bytes"
    BOUNDED_SESSIONS = "session records are bounded in number and bytes"
    ERASED_WITHOUT_TRACE = "what was erased is no hole"
    HEARD_BEFORE_SETTLED = "an entry was delivered when its publish settles"


class Site(Protocol):
    """Makes shards of one implementation, and moves the clock that they look at."""

    lacks: Mapping[Capability, str]
    """What no test may ask of these shards, each with the reason."""

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

    async def catch_up(self) -> None:
        """Wait until the sink has heard all that was stored and cast until now."""

    async def restart(self, shard: Shard, sink: Sink, *, log: LogLimits | None = None) -> Shard:
        """Stop *shard* with grace and give the one that comes after it."""

    async def aclose(self) -> None:
        """Close all shards."""


class MemorySite:
    """The embedded shard, on a ClockLoop."""

    lacks: Mapping[Capability, str] = {}

    # Mutable state: the shards made so far, to be closed.
    def __init__(self, directory: Path) -> None:
        self._snapshot = Snapshot(directory / "state" / "shard.msgpack")
        self._shards: list[MemoryShard] = []

    async def make(
        self,
        sink: Sink,
        *,
        log: LogLimits | None = None,
        presence: PresenceLimits | None = None,
        limits: MemoryLimits | None = None,
    ) -> Shard:
        """Make an empty shard whose stream goes to *sink*."""
        return self._attached(self._make(log, presence, limits), sink)

    def _make(
        self, log: LogLimits | None, presence: PresenceLimits | None, limits: MemoryLimits | None
    ) -> MemoryShard:
        shard = MemoryShard(
            log_limits=log, presence_limits=presence, limits=limits, now=self._loop().wall_time
        )
        self._shards.append(shard)
        return shard

    def _attached(self, memory: MemoryShard, sink: Sink) -> Shard:
        memory.attach(sink)
        return memory

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

    async def catch_up(self) -> None:
        """Let everything run that can."""
        await settle()

    async def restart(self, shard: Shard, sink: Sink, *, log: LogLimits | None = None) -> Shard:
        """Hand over in a snapshot."""
        await shard.aclose()
        self._snapshot.write(self._shards[-1])
        following = self._make(log, None, None)
        assert self._snapshot.restore(following)
        return self._attached(following, sink)

    async def aclose(self) -> None:
        """Close all shards."""
        for shard in self._shards:
            await shard.aclose()


class JournaledSite(MemorySite):
    """The embedded shard as `roomful serve` has it: with a journal, and rows in SQLite."""

    # Mutable state: the databases made so far.
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._directory = directory
        self._archives: list[EmbeddedArchive] = []

    def _attached(self, memory: MemoryShard, sink: Sink) -> Shard:
        archive = EmbeddedArchive(self._directory, len(self._archives))
        archive.take_over(memory, None, LogLimits(), MemoryLimits())
        self._archives.append(archive)
        return super()._attached(memory, sink)

    async def aclose(self) -> None:
        """Close all shards, then their journals."""
        await super().aclose()
        for archive in self._archives:
            archive.close_journal()
            archive.close()


class KilledSite(MemorySite):
    """The same, where a process has no time to stop: the next one has what was on the disk."""

    # Mutable state: the database of each process, and what holds their threads back: what is in
    # SQLite and what is in a file is for restart() to say, and not for how fast the machine is.
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._directory = directory
        self._archives: list[EmbeddedArchive] = []
        self._slowly = pytest.MonkeyPatch()
        for name in ("MOVE_S", "NOTED_S"):
            self._slowly.setattr(f"roomful.archive.journal.{name}", 3600.0)

    def _attached(self, memory: MemoryShard, sink: Sink) -> Shard:
        directory = self._directory / f"process-{len(self._archives)}"
        archive = EmbeddedArchive(directory, 1, now=self._loop().wall_time)
        archive.take_over(memory, None, LogLimits(), MemoryLimits())
        self._archives.append(archive)
        return super()._attached(memory, sink)

    async def restart(self, shard: Shard, sink: Sink, *, log: LogLimits | None = None) -> Shard:
        """Begin with the files of *shard*'s process, as they are in the middle of its life."""
        count = len(self._archives)
        last = self._directory / f"process-{count - 1}"
        shutil.copytree(last, self._directory / f"process-{count}")
        return self._attached(self._make(log, None, None), sink)

    async def aclose(self) -> None:
        """Close all shards, then their journals."""
        await super().aclose()
        for archive in self._archives:
            archive.close_journal()
            archive.close()
        self._slowly.undo()


class DelayingSite(MemorySite):
    """The shard that the tests of resuming use, held to the same rules."""

    def _attached(self, memory: MemoryShard, sink: Sink) -> Shard:
        shard = DelayingShard(Storage(memory))
        shard.attach(sink)
        return shard
