"""Several shards for tests: the first letter of a room says on which one it is, until it moves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from roomful.cluster.cursor import ShardName
from roomful.cluster.lineage import Segment
from roomful.shard.base import (
    Joined,
    Lineage,
    Members,
    Moved,
    Page,
    PublishStatistics,
    SessionRecord,
    Settle,
    Sink,
)
from roomful.shard.erasure import Erasure
from roomful.shard.message import Cast, Envelope, RoomId, UserId
from shard.delaying import Arrival, DelayingShard, Storage

__all__ = ["LetteredShards", "Map"]


class Map:
    """Where each room is and was, for all edges."""

    # Mutable state: each room's version, home and lineage.
    def __init__(self, storages: Mapping[str, Storage]) -> None:
        self.storages = storages
        self._moved: dict[str, tuple[int, str, tuple[Segment, ...]]] = {}

    def letter_of(self, room: str) -> str:
        """Give the name of the shard that has *room*."""
        return self.at(room)[1]

    def at(self, room: str) -> tuple[int, str, tuple[Segment, ...]]:
        """Give version, shard and lineage of *room*; the same object until it moves."""
        found = self._moved.get(room)
        if found is None:
            letter = room[0] if room[0] in self.storages else "a"
            found = self._moved[room] = 1, letter, ()
        return found

    def move(self, room: RoomId, *, is_broken: bool) -> None:
        """Let *room* be on the other shard."""
        version, letter, segments = self.at(room)
        (other,) = self.storages.keys() - {letter}
        segment = self.storages[other].receive(
            room, self.storages[letter], version + 1, is_broken=is_broken
        )
        self._moved[room] = version + 1, other, (*segments, segment)

    def origin_of(self, room: str, offset: int) -> ShardName:
        """Give the shard that has stored a message."""
        _, letter, segments = self.at(room)
        return next((one.shard for one in segments if offset <= one.upto), ShardName(letter))


class LetteredShards:
    """Implements Shards: rooms by their first letter, sessions on the first shard."""

    # Mutable state: the rooms held, each with the version of its place and the shard; and what
    # was found of lineages.
    def __init__(self, shards: Mapping[str, DelayingShard], rooms: Map) -> None:
        self.by_letter = shards
        self.statistics = PublishStatistics()
        self._map = rooms
        self._held: dict[RoomId, tuple[int, str]] = {}
        self._lineages: dict[str, tuple[object, Lineage]] = {}
        self._sink: Sink | None = None
        for letter, shard in shards.items():
            shard.on_arrival = lambda arrival, letter=letter: self._arrive(letter, arrival)  # type: ignore[misc]

    def _arrive(self, letter: str, arrival: Arrival) -> bool:
        """Hear a room here when the other shard was heard to its end; False: not yet."""
        room, place = arrival.room, self._held.get(arrival.room)
        if place is None or place[0] >= arrival.version:
            return True
        origin, line = self.by_letter[arrival.origin], self.by_letter[letter]
        is_whole = place[1] == arrival.origin and not arrival.is_broken
        if is_whole and origin.position() < arrival.upto:
            return False
        if not is_whole:
            assert self._sink is not None
            self._sink.lose(line.name, [room], can_resume=True)
            if room not in self._held:
                return True
        self.by_letter[place[1]].release(room)
        self._held[room] = arrival.version, letter
        line.take_over(room)
        return True

    def attach(self, sink: Sink) -> None:
        """Give all the sink."""
        self._sink = sink
        for shard in self.by_letter.values():
            shard.attach(sink)

    def shard_of(self, room: str) -> DelayingShard:
        """Give the shard that has the room, which this edge always knows."""
        return self.by_letter[self._map.letter_of(room)]

    def heard(self, room: RoomId) -> int:
        """Give it of the shard where it is heard."""
        place = self._held.get(room)
        return (self.by_letter[place[1]] if place else self.shard_of(room)).position()

    def shard_named(self, name: ShardName) -> DelayingShard | None:
        """Give a shard by its letter."""
        return self.by_letter.get(name)

    async def lineage(self, room: RoomId) -> Lineage:
        """Give where it is and was."""
        now = self._map.at(room)
        known = self._lineages.get(room)
        if known is None or known[0] is not now:
            lineage = Lineage(self.shard_of(room), now[2])
            self._lineages[room] = known = now, lineage
        return known[1]

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
        while True:
            place = self._held.get(room)
            if place is None:
                version, letter, _ = self._map.at(room)
                place = self._held[room] = version, letter
            await self.by_letter[place[1]].hold(room)
            if self._held.get(room) is place:
                return
            if self._held.get(room, ("", ""))[1] != place[1]:
                self.by_letter[place[1]].release(room)

    def release(self, room: RoomId) -> None:
        """No longer hear it there."""
        place = self._held.pop(room, None)
        if place is not None:
            self.by_letter[place[1]].release(room)

    async def join(self, room: RoomId, user: UserId, connection: str, status: str) -> Joined:
        """Join there."""
        while True:
            with suppress(Moved):
                return await self.shard_of(room).join(room, user, connection, status)

    async def leave(self, room: RoomId, user: UserId, connection: str, *, with_grace: bool) -> None:
        """Leave there."""
        with suppress(Moved):
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
