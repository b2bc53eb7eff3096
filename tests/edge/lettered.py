"""Several shards that stay where they are: the first letter of a room says which. For tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from roomful.cluster.cursor import ShardName
from roomful.shard.base import (
    Cast,
    Envelope,
    Erasure,
    Joined,
    Members,
    Page,
    PublishStatistics,
    RoomId,
    SessionRecord,
    Settle,
    Sink,
    UserId,
)
from shard.delaying import DelayingShard

__all__ = ["LetteredShards"]


class LetteredShards:
    """Implements Shards: rooms by their first letter, sessions on the first shard."""

    is_immediate = False

    def __init__(self, shards: Mapping[str, DelayingShard]) -> None:
        self.by_letter = shards
        self.statistics = PublishStatistics()

    def attach(self, sink: Sink) -> None:
        """Give all the sink."""
        for shard in self.by_letter.values():
            shard.attach(sink)

    def shard_of(self, room: str) -> DelayingShard:
        """Give the shard by the room's first letter."""
        return self.by_letter.get(room[0], self.by_letter["a"])

    def positions(self) -> Mapping[ShardName, int]:
        """Give each one's."""
        return {shard.name: shard.position() for shard in self.by_letter.values()}

    async def start(self) -> None:
        """Nothing to do."""

    def unready(self) -> str | None:
        """All is well."""
        return None

    def publish(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """Store it there."""
        self.shard_of(envelope.room).publish(envelope, settle, is_named=is_named)

    def cast(self, cast: Cast) -> None:
        """Send it there."""
        self.shard_of(cast.room).cast(cast)

    async def erase(self, erasure: Erasure) -> int:
        """Erase on every shard."""
        return sum([await shard.erase(erasure) for shard in self.by_letter.values()])

    async def hold(self, room: RoomId) -> None:
        """Hear it there."""
        await self.shard_of(room).hold(room)

    def release(self, room: RoomId) -> None:
        """No longer hear it there."""
        self.shard_of(room).release(room)

    async def join(self, room: RoomId, user: UserId, connection: str, status: str) -> Joined:
        """Join there."""
        return await self.shard_of(room).join(room, user, connection, status)

    async def leave(self, room: RoomId, user: UserId, connection: str, *, with_grace: bool) -> None:
        """Leave there."""
        await self.shard_of(room).leave(room, user, connection, with_grace=with_grace)

    async def set_status(self, room: RoomId, user: UserId, status: str) -> None:
        """Set it there."""
        await self.shard_of(room).set_status(room, user, status)

    async def members(self, room: RoomId) -> Members:
        """Ask there."""
        return await self.shard_of(room).members(room)

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Ask there."""
        return await self.shard_of(room).page(room, before=before, after=after, limit=limit)

    async def save_session(
        self, record: SessionRecord, ttl_s: float, *, is_taken: bool = False
    ) -> bool:
        """Save it on the first."""
        return await self.by_letter["a"].save_session(record, ttl_s, is_taken=is_taken)

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Load it from the first."""
        return await self.by_letter["a"].load_session(pid)

    async def drop_session(self, record: SessionRecord) -> None:
        """Drop it on the first."""
        await self.by_letter["a"].drop_session(record)

    async def aclose(self) -> None:
        """Settle everything."""
        await asyncio.gather(*(shard.aclose() for shard in self.by_letter.values()))
