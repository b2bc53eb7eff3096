"""A shard as its stream shows it to an edge, and what one edge hears of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from roomful.shard.asking import Read, Request, Subscribe, Tails, Unsubscribe
from roomful.shard.held import Held, channel_of
from roomful.shard.message import Entry, RoomId
from roomful.shard.publication import CastMessage, Found, Publication
from roomful.shard.stream import ShardStream
from shard.recording import make_envelope

__all__ = ["BIG", "ROOMS", "Hearing", "Server"]

ROOMS = [RoomId(name) for name in "abcde"]
BIG = b"x" * 300
_encode = msgspec.msgpack.encode


@dataclass(eq=False)
class Hearing:
    """One time of holding a room, and what was heard meanwhile."""

    held: Held
    since: int | None = None
    """Entries above are owed."""
    heard: list[int] = field(default_factory=list)
    lost: bool = False
    """The sink was told of a loss: nothing is complete any more, but still in order."""
    is_brought: bool = False
    """It came from another shard, whose stream went before."""
    may_lack: bool = False
    """A publication was lost on a standing connection: found late, and not in the shard's order."""


class Server:
    """What is stored, who is subscribed, and what is on the wire."""

    def __init__(self) -> None:
        self.term = 1
        self.seq = 1 << 40
        self.logs: dict[RoomId, list[Entry]] = {room: [] for room in ROOMS}
        self.floors: dict[RoomId, int] = dict.fromkeys(ROOMS, 0)
        self.failovers: list[tuple[int, int]] = []
        self.subscribed: set[bytes] = set()
        self.wire: deque[Callable[[ShardStream], None]] = deque()
        self.inbox: deque[Request] = deque()
        self.dropped: set[RoomId] = set()
        self.drops_next = False

    def publish(self, room: RoomId, count: int, *, is_big: bool) -> None:
        """Store *count* messages in one batch."""
        before = self.tail(room)
        entries = []
        for _ in range(count):
            self.seq += 1
            body = BIG if is_big else b"{"
            entries.append(Entry(self.seq, make_envelope(room, str(self.seq), body=body)))
        self.logs[room] += entries
        channel = channel_of(room)
        if channel in self.subscribed:
            if self.drops_next:
                self.drops_next = False
                self.dropped.add(room)
                return
            data = _encode(Publication(before, entries))
            self.wire.append(lambda stream: stream.on_message(channel, data))

    def cast(self, room: RoomId) -> None:
        """Send an event that is not stored."""
        channel = channel_of(room)
        if channel in self.subscribed:
            data = _encode(CastMessage("typing", b"{}", None, is_volatile=True))
            self.wire.append(lambda stream: stream.on_message(channel, data))

    def tail(self, room: RoomId) -> int:
        """Give a room's newest offset, stored or lost."""
        log = self.logs[room]
        return log[-1].offset if log else self.floors[room]

    def trim(self, room: RoomId, count: int) -> None:
        """Lose the oldest entries of a room."""
        for entry in self.logs[room][:count]:
            self.floors[room] = entry.offset
        del self.logs[room][:count]

    def fail_over(self, back: int) -> None:
        """Let a replica that lacks the newest *back* offsets be promoted."""
        kept = max(self.seq - back, self.failovers[-1][1] if self.failovers else 0)
        kept = max([kept, self.term << 40, *self.floors.values()])
        for log in self.logs.values():
            log[:] = [entry for entry in log if entry.offset <= kept]
        self.term += 1
        self.seq = self.term << 40
        self.failovers.append((self.seq, kept))

    def canary(self) -> None:
        """Say how far the stream is."""
        seq = self.seq
        self.wire.append(lambda stream: stream.on_position(seq))

    def step(self) -> None:
        """Do the next request."""
        request = self.inbox.popleft()
        match request:
            case Subscribe(channels):
                self.subscribed.update(channels)
                self.wire.append(lambda stream: stream.on_subscribed(channels))
            case Unsubscribe(channels):
                self.subscribed.difference_update(channels)
            case Tails(held):
                seq, tails = self.seq, [self.tail(one.room) for one in held]
                self.wire.append(lambda stream: stream.on_tails(request, seq, tails))
            case Read():
                self._read(request)

    def _read(self, request: Read) -> None:
        holes, found, size = [], [], 0
        for place, (held, heard) in enumerate(zip(request.rooms, request.heard, strict=True)):
            after = max(heard, request.after)
            if self.floors[held.room] > after:
                holes.append(place)
            found += [
                Found(one.offset, place, one.envelope)
                for one in self.logs[held.room]
                if one.offset > after
            ]
        if holes:
            self.wire.append(lambda stream: stream.on_missing(request, holes))
            return
        found.sort(key=lambda one: one.offset)
        seq, page, is_complete = self.seq, found, True
        for index, one in enumerate(found):
            size += one.envelope.size
            if size > request.limit_bytes and index:
                page, is_complete = found[:index], False
                seq = page[-1].offset
                break
        self.wire.append(lambda stream: stream.on_read(request, seq, page, is_complete=is_complete))
