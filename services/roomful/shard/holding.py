"""
The rooms that an edge holds, each on the shard where it is heard, and their way to another one.

A bucket *arrives* at a shard: the shard says so in its own stream, before anything of the bucket
(docs/adr/0022-hearing-a-bucket-that-moves.md). From there on the stream waits until all that was
stored where the bucket was has been delivered, then it is heard here. So no cursor of this shard is
ever above an entry of the bucket that was not delivered. If the other shard cannot be heard to its
end in a bounded time, or was left while it was not heard, the members are closed: what they resume
from tells what they lack.

Where publishes go is another matter (routes.py): a refusal may tell it before the stream does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, bucket_of
from roomful.protocol.errors import Refused
from roomful.shard.base import Sink
from roomful.shard.message import RoomId
from roomful.shard.redis import RedisShard

__all__ = ["Arrival", "Holding", "HoldingStatistics", "Place"]

logger = logging.getLogger("roomful.shard")

STRANDED_S: Final = 5.0
"""So long rooms may be heard elsewhere than where their bucket is said to be, with no arrival."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a shard says of a bucket that came to it."""

    bucket: int
    version: int
    """The one in which it is there."""
    origin: ShardName
    """Where it was."""
    upto: int
    """Nothing of it was stored there above this."""
    since: int
    """What is stored here is above this."""

    @classmethod
    def parse(cls, words: bytes) -> Arrival:
        """Read `bucket version from upto since`, as it is published."""
        bucket, version, origin, upto, since = words.decode().split()
        return cls(int(bucket), int(version), ShardName(origin), int(upto), int(since))


@dataclass(slots=True)
class HoldingStatistics:
    """Counts since the start."""

    handed_over: int = 0
    """Rooms that are heard on another shard since, with nothing missing between."""
    broken_off: int = 0
    """Rooms for which that could not be: their members were closed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a room is heard."""

    shard: RedisShard
    version: int
    """Of its bucket there: what came to the same shard later, by way of another, is not heard."""


class Holding:
    """Where each room is heard."""

    # Mutable state: the rooms with their places, and by bucket; the version of each bucket in
    # which its rooms are heard; and the handovers that are under way.
    def __init__(
        self,
        shards: Mapping[ShardName, RedisShard],
        place_of: Callable[[RoomId], Place],
        sink: Callable[[], Sink],
    ) -> None:
        """Hold rooms on *shards*, a new one where *place_of* says that it is."""
        self._shards = shards
        self._place_of = place_of
        self._sink = sink
        self.statistics = HoldingStatistics()
        self.versions = [0] * BUCKETS
        self.on_arrival: Callable[[RedisShard, Arrival], None] = lambda _shard, _arrival: None
        """Called as soon as a shard says that a bucket is there, in a newer version."""
        self.on_moved: Callable[[RedisShard, int], None] = lambda _shard, _bucket: None
        """Called when the rooms of a bucket are heard on another shard."""
        self._held: dict[RoomId, Place] = {}
        self._by_bucket: dict[int, set[RoomId]] = {}
        self._is_ending = False
        self._under_way: dict[tuple[RedisShard, Arrival], asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Holding {len(self._held)} rooms, {len(self._under_way)} buckets on their way>"

    # Rooms ----------------------------------------------------------------------------------

    async def hold(self, room: RoomId) -> None:
        """
        Hear *room* from now on.

        Cancelled, it may stay held: others may wait for it, or be in it since a moment ago. Who
        knows that there are none releases it.

        Raises:
            Refused: SHARD_UNAVAILABLE; it is not held.
        """
        while True:
            # Where it is heard already, also if its bucket is said to be elsewhere.
            place = self._held.get(room) or self._place_of(room)
            self._held[room] = place
            self._by_bucket.setdefault(bucket_of(room), set()).add(room)
            try:
                await place.shard.reader.hold(room)
            except Refused:
                if self._held.get(room) is place:
                    self._take(room)
                    raise
            if self._held.get(room) is place:
                return
            # The bucket moved meanwhile, and what holds it there may not be ready.

    def heard(self, room: RoomId) -> int:
        """Give the offset up to which *room* was delivered; it is held, or would be."""
        return (self._held.get(room) or self._place_of(room)).shard.position()

    def release(self, room: RoomId) -> None:
        """No longer hear *room*."""
        place = self._take(room)
        if place is not None:
            place.shard.reader.release(room)

    def _take(self, room: RoomId) -> Place | None:
        place = self._held.pop(room, None)
        if place is not None:
            bucket = bucket_of(room)
            self._by_bucket[bucket].discard(room)
            if not self._by_bucket[bucket]:
                del self._by_bucket[bucket]
        return place

    def _behind(self, bucket: int, version: int) -> list[RoomId]:
        """Give the rooms of *bucket* that are heard in an earlier version."""
        rooms = self._by_bucket.get(bucket, ())
        return [room for room in rooms if self._held[room].version < version]

    # Arrivals -------------------------------------------------------------------------------

    def hear(self, shard: RedisShard, told: Sequence[bytes]) -> None:
        """Take what *shard* says of buckets that came to it, in the order of its stream."""
        try:
            arrivals = [Arrival.parse(words) for words in told]
        except ValueError:
            logger.error("arrival unreadable", extra={"shard": shard.name, "words": str(told)})
            return
        for arrival in arrivals:
            if arrival.version <= self.versions[arrival.bucket]:
                continue
            self.on_arrival(shard, arrival)
            if not self._behind(arrival.bucket, arrival.version):
                self.versions[arrival.bucket] = arrival.version
            elif (shard, arrival) not in self._under_way:
                shard.reader.stream.bar(arrival, arrival.since)
                task = asyncio.get_running_loop().create_task(self._bring(shard, arrival))
                self._under_way[shard, arrival] = task
                task.add_done_callback(_report)

    async def _bring(self, shard: RedisShard, arrival: Arrival) -> None:
        """Hear the bucket to its end where it was, and from its beginning at *shard*."""
        is_whole = False
        try:
            origin = self._shards.get(arrival.origin)
            if origin is not None and not origin.reader.is_deaf:
                try:
                    await origin.reader.heard(arrival.upto)
                    is_whole = True
                except Refused as refused:
                    why = {"bucket": arrival.bucket, "why": str(refused)}
                    logger.warning("bucket not heard to its end", extra=why)
            # From here on nothing else happens in between.
            if arrival.version > self.versions[arrival.bucket]:
                rooms = self._behind(arrival.bucket, arrival.version)
                whole = {room for room in rooms if is_whole and self._held[room].shard is origin}
                place = Place(shard, arrival.version)
                self._hand_over(place, whole, arrival.since)
                self._break_off(place, [room for room in rooms if room not in whole])
                self.versions[arrival.bucket] = arrival.version
        finally:
            del self._under_way[shard, arrival]
            shard.reader.stream.unbar(arrival)
            shard.reader.turn_soon()
        self.on_moved(shard, arrival.bucket)

    def _hand_over(self, place: Place, rooms: Collection[RoomId], since: int) -> None:
        self.statistics.handed_over += len(rooms)
        for room in rooms:
            is_heard = self._held[room].shard.reader.hand_over(room)
            self._held[room] = place
            place.shard.reader.stream.hold(room, since if is_heard else None)

    def _break_off(self, place: Place, rooms: Sequence[RoomId]) -> None:
        """Close who is in *rooms*: something of them may be missing."""
        if not rooms:
            return
        self.statistics.broken_off += len(rooms)
        self._sink().lose(place.shard.name, rooms, can_resume=True)
        # Who was closed may have released them.
        for room in [room for room in rooms if room in self._held]:
            self._held[room].shard.reader.hand_over(room)
            self._held[room] = place
            place.shard.reader.stream.renew(room)

    # When nothing arrives -------------------------------------------------------------------

    def expect(self, bucket: int, place: Place) -> None:
        """Know that *bucket* is said to be at *place*: its rooms must not be left behind."""
        if self._behind(bucket, place.version) and not self._is_ending:
            asyncio.get_running_loop().call_later(STRANDED_S, self._look_for, bucket, place)

    def _look_for(self, bucket: int, place: Place) -> None:
        rooms = [
            room
            for room in self._behind(bucket, place.version)
            if self._held[room].shard is not place.shard
        ]
        if not rooms or self._place_of(rooms[0]).shard is not place.shard:
            return
        is_coming = any(one.bucket == bucket for _, one in self._under_way)
        if place.shard.reader.is_deaf or is_coming:
            self.expect(bucket, place)
            return
        logger.warning("a bucket came without a word", extra={"bucket": bucket})
        self._break_off(place, rooms)
        place.shard.reader.turn_soon()
        self.on_moved(place.shard, bucket)

    async def aclose(self) -> None:
        """End what is under way."""
        self._is_ending = True
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()) is not None:
        logger.error("handover failed", exc_info=exc)
