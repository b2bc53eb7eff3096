"""
How far the archive is behind on every shard, for the edge's metrics: it is asked now and then.

Edges say it because they are there when no archiver is, and before publishes are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from roomful.archive.settings import ArchiveSettings
from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import Refused
from roomful.shard.base import Archived
from roomful.shard.redis_shards import RedisShards
from roomful.telemetry.lasting import keep_going
from roomful.telemetry.metrics import Sample

__all__ = ["Outboxes"]

LOOK_S: Final = 5.0


class Outboxes:
    """Looks at the outboxes of all shards."""

    # Mutable state: what was last seen of each shard, and the task that looks.
    def __init__(self, shards: RedisShards, settings: ArchiveSettings) -> None:
        self._shards = shards
        self._settings = settings
        self.seen: dict[ShardName, Archived] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(keep_going("outboxes", self._run))

    async def aclose(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            for name, shard in tuple(self._shards.shards.items()):
                try:
                    self.seen[name] = await shard.archived()
                except Refused:
                    # It is away, which other metrics say; what waits is what waited.
                    continue
            for name in self.seen.keys() - self._shards.shards.keys():
                del self.seen[name]
            await asyncio.sleep(LOOK_S)

    def samples(self) -> Sequence[Sample]:
        """Give the metrics."""
        settings, seen = self._settings, self.seen.items()
        used = {
            str(name): max(one.entries / settings.outbox_entries, one.bytes / settings.outbox_bytes)
            for name, one in seen
        }
        entries = {str(name): float(one.entries) for name, one in seen}
        ages = {str(name): one.age_ms / 1000 for name, one in seen}
        return (
            Sample("outbox_entries", "Not archived yet.", entries, is_counter=False, label="shard"),
            Sample("outbox_age_seconds", "The oldest.", ages, is_counter=False, label="shard"),
            Sample(
                "outbox_used_ratio",
                "Of what the outbox may hold; at 1 required rooms are refused.",
                used,
                is_counter=False,
                label="shard",
            ),
        )
