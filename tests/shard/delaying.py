"""
A shard that several edges share, seen from each through a line that delays: Implements Shard.

The storage is a MemoryShard, so its rules are the real ones. Between it and an edge everything
takes time, and the test says how much: each coroutine waits at gates, before and after it does
its work, and the live stream waits in a queue of which the test lets go one item at a time. What
Shard promises is kept: the stream is in order, `read` returns only when the sink has heard the
shard up to `reached`, and a publish settles when its entry has passed the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from roomful.cluster.cursor import ShardName
from roomful.cluster.lineage import Segment
from roomful.protocol.errors import Refused
from roomful.shard.base import (
    Archived,
    Joined,
    Members,
    Moved,
    Page,
    Replay,
    SessionRecord,
    Settle,
    Sink,
    Stored,
)
from roomful.shard.erasure import Erasure
from roomful.shard.memory import MemoryShard
from roomful.shard.message import Cast, Entry, Envelope, RoomId, UserId
from roomful.shard.post import tell

__all__ = ["Arrival", "DelayingShard", "Gate", "Gates", "Storage", "pass_freely"]

Gate = Callable[[], "asyncio.Future[None]"]
Publication = tuple[RoomId, Sequence[Entry]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A room came from another storage; everything stored here is above *since*."""

    room: RoomId
    version: int
    origin: str
    upto: int
    since: int
    is_broken: bool
    """Edges do not hear the other storage to its end: they close who is in the room."""


def pass_freely() -> asyncio.Future[None]:
    """Give a gate that opens by itself in the next turn of the loop."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    loop.call_soon(_resolve, opened)
    return opened


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Gates:
    """Gates that the test opens, one by one."""

    # Mutable state: those that wait, oldest first, and whether none is needed any more.
    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[asyncio.Future[None]] = []

    def __call__(self) -> asyncio.Future[None]:
        """Give a new gate."""
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.is_open:
            gate.set_result(None)
        else:
            self._waiting.append(gate)
        return gate

    def open_one(self, number: int) -> bool:
        """Open one of those that wait; False if there is none."""
        self._waiting = [gate for gate in self._waiting if not gate.done()]
        if not self._waiting:
            return False
        self._waiting.pop(number % len(self._waiting)).set_result(None)
        return True


class Storage:
    """What is stored, and the stream of it that all edges hear."""

    # Mutable state: all that was ever published, in order, and who listens.
    def __init__(self, memory: MemoryShard) -> None:
        self.memory = memory
        self.stream: list[Publication | Cast | Arrival] = []
        self.listeners: list[Callable[[], None]] = []
        self.gone: set[RoomId] = set()
        memory.attach(self)

    def check(self, room: str) -> None:
        """
        See that *room* is here.

        Raises:
            Moved: it is not.
        """
        if room in self.gone:
            raise Moved(room)

    def receive(self, room: RoomId, origin: Storage, version: int, *, is_broken: bool) -> Segment:
        """Take *room* over from *origin*, with everything; gives what came."""
        mine, theirs = self.memory, origin.memory
        floor = theirs.logs._floor(room)
        mine.logs._rooms.pop(room, None)
        if (log := theirs.logs._rooms.pop(room, None)) is not None:
            mine.logs._rooms[room] = log
            mine.logs._floors[room] = floor
        upto, since = theirs._offset, max(mine._offset, theirs._offset) + 1
        mine._offset = since
        origin.gone.add(room)
        self.gone.discard(room)
        self._add(Arrival(room, version, str(theirs.name), upto, since, is_broken))
        return Segment(theirs.name, since)

    def read(
        self,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        upto: Mapping[RoomId, int] | None,
    ) -> Replay:
        """Read what is stored, as Shard.read."""
        for room in rooms:
            self.check(room)
        logs, newest = self.memory.logs, self.memory.position()
        if upto is None and after > newest:
            return Replay((), after, is_complete=False, holes=list(rooms))
        replay = logs.read(rooms, after, newest, limit_bytes if upto is None else 1 << 60)
        if upto is None or replay.holes:
            return replay
        entries = [one for one in replay.entries if one.offset <= upto[one.envelope.room]]
        count = max(1, limit_bytes // 500)
        if count < len(entries):
            return Replay(entries[:count], entries[count - 1].offset, is_complete=False)
        return Replay(entries, newest, is_complete=True)

    def _add(self, item: Publication | Cast | Arrival) -> None:
        self.stream.append(item)
        for on_more in self.listeners:
            on_more()

    def deliver(self, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        """Add to the stream."""
        self._add((room, entries))

    def cast(self, cast: Cast) -> None:
        """Add to the stream."""
        self._add(cast)

    def flush(self) -> None:
        """Nothing: the stream is cut into batches by who lets it go."""

    def reach(self, shard: ShardName, offset: int) -> None:
        """Nothing: the shard below is in this process."""

    def lose(self, shard: ShardName, rooms: Sequence[RoomId], *, can_resume: bool) -> None:
        """It loses nothing."""

    def entries(self) -> list[Entry]:
        """All that was ever stored, in offset order."""
        return [entry for item in self.stream if isinstance(item, tuple) for entry in item[1]]


class DelayingShard:
    """One edge's view of a Storage."""

    # Mutable state: how much of the stream was let go; rooms with where in the stream their
    # subscription begins; and who waits for the stream to reach an offset.
    def __init__(
        self,
        storage: Storage,
        *,
        gate: Gate = pass_freely,
        is_prompt: bool = True,
        hears_all: bool = False,
        page_bytes: int = 1 << 30,
    ) -> None:
        """
        Look at *storage* from its present on.

        Args:
            is_prompt: the stream flows by itself; else the test calls deliver().
            hears_all: the sink hears rooms that it does not hold too, as from a MemoryShard.
            page_bytes: what a read gives at most, whatever it is asked for.
        """
        self.storage = storage
        self._memory = storage.memory
        self._gate = gate
        self._is_prompt = is_prompt
        self._hears_all = hears_all
        self._page_bytes = page_bytes
        self._next = len(storage.stream)
        self._heard = self._memory.position()
        self._held: dict[RoomId, int] = {}
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._sink: Sink | None = None
        self.on_arrival: Callable[[Arrival], bool] = lambda _arrival: True
        """Says whether the stream may go on behind it."""
        storage.listeners.append(self._on_more)

    @property
    def name(self) -> ShardName:
        """The storage's name."""
        return self._memory.name

    def attach(self, sink: Sink) -> None:
        """Give the sink."""
        self._sink = sink

    # The stream -----------------------------------------------------------------------------

    def _on_more(self) -> None:
        if self._is_prompt:
            asyncio.get_running_loop().call_soon(self.deliver, 1)

    def deliver(self, count: int) -> bool:
        """Let go of the next *count* items of the stream, as a batch; False if there is none."""
        before = self._next
        for _ in range(min(count, len(self.storage.stream) - before)):
            if not self._deliver_one():
                break
        assert self._sink is not None
        self._sink.flush()
        due = [call for offset, call in self._waiting if offset <= self._heard]
        self._waiting = [one for one in self._waiting if one[0] > self._heard]
        for call in due:
            call()
        return self._next > before

    def _deliver_one(self) -> bool:
        index, sink = self._next, self._sink
        assert sink is not None
        item = self.storage.stream[index]
        if isinstance(item, Arrival):
            if not self.on_arrival(item):
                return False
            self._next += 1
            self._heard = item.since
            sink.reach(self.name, item.since)
            return True
        self._next += 1
        room = item.room if isinstance(item, Cast) else item[0]
        is_heard = self._hears_all or self._held.get(room, index + 1) <= index
        if isinstance(item, Cast):
            if is_heard:
                sink.cast(item)
            return True
        if is_heard:
            sink.deliver(self.name, room, item[1])
        self._heard = item[1][-1].offset
        return True

    def take_over(self, room: RoomId) -> None:
        """Hear *room* from behind the arrival that is the next of the stream."""
        self._held[room] = self._next + 1

    def _when_heard(self, offset: int, call: Callable[[], None]) -> None:
        if offset <= self._heard:
            call()
        else:
            self._waiting.append((offset, call))

    async def _hear(self, offset: int) -> None:
        """Wait until the sink has heard the shard up to *offset*."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._when_heard(offset, lambda: _resolve(heard))
        await heard

    def publish(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """Store at once, settle when the stream has passed it."""

        def later(outcome: Stored | Refused) -> None:
            if isinstance(outcome, Refused):
                settle(outcome)
            else:
                self._when_heard(outcome.offset, lambda: tell(settle, outcome))

        self._memory.publish(envelope, later, is_named=is_named)

    def cast(self, cast: Cast) -> None:
        """Send by the stream."""
        self.storage.cast(cast)

    async def hold(self, room: RoomId) -> None:
        """Hear what is published from some moment before the return on."""
        await self._gate()
        self._held.setdefault(room, len(self.storage.stream))
        await self._gate()

    def release(self, room: RoomId) -> None:
        """No longer hear *room*."""
        self._held.pop(room, None)

    def position(self) -> int:
        """Give how far the stream was let go."""
        return self._heard

    # Reading --------------------------------------------------------------------------------

    async def read(
        self,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        upto: Mapping[RoomId, int] | None = None,
    ) -> Replay:
        """Read what is stored, and wait until the stream has caught up with it."""
        await self._gate()
        limit_bytes = min(limit_bytes, self._page_bytes)
        replay = self.storage.read(rooms, after, limit_bytes, upto)
        if not replay.holes and upto is None:
            await self._hear(replay.reached)
        await self._gate()
        return replay

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of what is stored."""
        await self._gate()
        return await self._memory.page(room, before=before, after=after, limit=limit)

    async def archived(self) -> Archived:
        """Give what the memory says."""
        return await self._memory.archived()

    async def erase(self, erasure: Erasure) -> int:
        """Erase what is stored."""
        return await self._memory.erase(erasure)

    # Presence and sessions ------------------------------------------------------------------

    async def join(self, room: RoomId, user: UserId, connection: str, status: str) -> Joined:
        """Join; the answer takes its time."""
        await self._gate()
        self.storage.check(room)
        joined = await self._memory.join(room, user, connection, status)
        await self._gate()
        return joined

    async def leave(self, room: RoomId, user: UserId, connection: str, *, with_grace: bool) -> None:
        """Leave."""
        await self._gate()
        self.storage.check(room)
        await self._memory.leave(room, user, connection, with_grace=with_grace)

    async def set_status(self, room: RoomId, user: UserId, status: str) -> None:
        """Change a status."""
        await self._gate()
        await self._memory.set_status(room, user, status)

    async def members(self, room: RoomId) -> Members:
        """Give who is in the room."""
        await self._gate()
        return await self._memory.members(room)

    async def save_session(
        self, record: SessionRecord, ttl_s: float, *, is_taken: bool = False
    ) -> bool:
        """Keep *record* as it is now; the answer takes its time."""
        is_kept = await self._memory.save_session(record, ttl_s, is_taken=is_taken)
        await self._gate()
        return is_kept

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Give a copy of the record."""
        await self._gate()
        return await self._memory.load_session(pid)

    async def drop_session(self, record: SessionRecord) -> None:
        """Forget the record."""
        await self._gate()
        await self._memory.drop_session(record)

    async def aclose(self) -> None:
        """Settle everything."""
        await self._memory.aclose()
        while self.deliver(1):
            pass
