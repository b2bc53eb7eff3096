"""
From a shard's stream to the connections of this edge: encoded once per room, batch and wire.

The bytes that go out depend only on the wire (with cursor, without, plain JSON) and on the
carrier (WebSocket frames, polling packets), so each pair is built once and the same object is
written to every member, by a plain call: no await, no task, nothing per member.

A connection that resumes must not hear the live stream before its replay has caught up: until
then it is *waiting* in its rooms, and what comes is kept for it (resume.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from roomful.cluster.cursor import CursorVector, ShardName
from roomful.edge.encoding import Wire, encode_cast, encode_entry
from roomful.edge.room import Carrier, Listener, Outbox, Room, Waiting
from roomful.protocol.frames import frame, frames
from roomful.shard.message import Cast, Entry, RoomId

if TYPE_CHECKING:
    from roomful.edge.tracing import Tracing

__all__ = ["Fanout", "FanoutStatistics", "Holder"]


TURN_WRITES = 64
"""Sockets written to before the loop may do something else: some 200 µs."""

STAGED_BYTES = 4 << 20
"""Bytes for all sockets together that may wait for their turn; beyond, all are written to."""


_SOCKET = Carrier.SOCKET


class Holder(Protocol):
    """What lets this edge hear rooms."""

    async def hold(self, room: RoomId) -> None:
        """Hear *room* from now on; raising, it may be held, and release() is due."""

    def release(self, room: RoomId) -> None:
        """No longer hear *room*; nothing happens if it is not held."""


@dataclass(slots=True)
class FanoutStatistics:
    """Counts since the start."""

    entries: int = 0
    """Stored entries that came for rooms held here."""
    deliveries: int = 0
    """Entries times members."""
    casts: int = 0
    dropped_casts: int = 0
    """Volatile events not sent to slow clients."""
    interrupted: int = 0
    """Connections closed because of what a shard no longer has."""


class Fanout:
    """Implements Sink: the rooms that this edge holds."""

    # Mutable state: the rooms by name, how far each shard has been heard, and the sockets that
    # have something to be written, in turn, with its bytes and whether the next turn will come.
    def __init__(self, shards: Holder, tracing: Tracing | None = None) -> None:
        self._shards = shards
        self._tracing = tracing
        self.rooms: dict[RoomId, Room] = {}
        self.vector = CursorVector()
        self._touched: deque[Outbox] = deque()
        self._staged_bytes = 0
        self._is_going_on = False
        self.statistics = FanoutStatistics()

    def __repr__(self) -> str:
        return f"<Fanout {len(self.rooms)} rooms, {self.vector}>"

    # Membership -----------------------------------------------------------------------------

    async def _hold(self, room: RoomId) -> Room:
        held = self.rooms.get(room)
        if held is None:
            held = self.rooms[room] = Room(room)
        if not held.is_empty and not held.entering:
            return held
        held.entering += 1
        try:
            await self._shards.hold(room)
        except BaseException:
            # Only here it is known whether somebody else is in it, or about to be.
            held.entering -= 1
            self._drop_if_empty(held)
            raise
        held.entering -= 1
        return held

    async def enter(self, listener: Listener, room: RoomId) -> None:
        """Let *listener* hear *room* live, from now on."""
        held = await self._hold(room)
        held.group(listener.wire, listener.carrier)[listener] = listener.outbox

    def enter_at_once(self, listener: Listener, room: RoomId) -> None:
        """Let *listener* hear *room* live, where no shard has to be asked to be heard."""
        held = self.rooms.get(room)
        if held is None:
            held = self.rooms[room] = Room(room)
        held.group(listener.wire, listener.carrier)[listener] = listener.outbox

    async def wait(self, listener: Listener, room: RoomId) -> Waiting:
        """Collect what *room* gets for *listener* instead of sending it."""
        held = await self._hold(room)
        waiting = Waiting()
        if held.waiting is None:
            held.waiting = {}
        held.waiting[listener] = waiting
        return waiting

    def go_live(self, listener: Listener, room: RoomId) -> None:
        """End the waiting of *listener* in *room*: it hears what comes from now on."""
        if held := self.rooms.get(room):
            held.discard(listener)
            held.group(listener.wire, listener.carrier)[listener] = listener.outbox

    def move(self, listener: Listener, room: RoomId) -> None:
        """Let *listener* hear *room* over the carrier it has now, if it hears it live."""
        held = self.rooms.get(room)
        if held is not None and listener in held.members():
            held.discard(listener)
            held.group(listener.wire, listener.carrier)[listener] = listener.outbox

    def leave(self, listener: Listener, room: RoomId) -> None:
        """Let *listener* no longer hear *room*."""
        held = self.rooms.get(room)
        if held is None:
            return
        held.discard(listener)
        self._drop_if_empty(held)

    def _drop_if_empty(self, held: Room) -> None:
        if held.is_empty:
            del self.rooms[held.id]
            self._shards.release(held.id)

    def listeners(self, room: RoomId) -> list[Listener]:
        """Give the members of *room* on this edge."""
        held = self.rooms.get(room)
        return list(held.members()) if held else []

    # The stream -----------------------------------------------------------------------------

    def deliver(self, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        """Send new *entries* to the members of *room*."""
        advance = self.vector.advance
        held = self.rooms.get(room)
        if held is None:
            advance(shard, entries[-1].offset)
            return
        # Nearly always it is one entry. No comprehension here: it would cost a call, and cells.
        cursor: bytes | None = None
        cursors: Sequence[bytes] = ()
        if len(entries) == 1:
            cursor = advance(shard, entries[0].offset)
        else:
            cursors = self._advance_all(shard, entries)
        statistics = self.statistics
        statistics.entries += len(entries)
        spans: Outbox | None = None
        if self._tracing is not None:
            for entry in entries:
                if entry.envelope.trace is not None:
                    spans = self._tracing.deliver(shard, held, entries)
                    break
        if held.waiting is not None:
            for waiting in held.waiting.values():
                waiting.add(shard, entries)
        for wire, carrier, group in held.groups:
            statistics.deliveries += len(group) * len(entries)
            if cursor is not None:
                packets = encode_entry(wire, entries[0], cursor)
            else:
                packets = _encode_entries(wire, entries, cursors)
            if carrier is _SOCKET:
                joined = frame(packets[0]) if len(packets) == 1 else frames(packets)
                self._staged_bytes += len(joined) * len(group)
                touch = self._touched.append
                for outbox in group.values():
                    if outbox is None:
                        continue
                    if outbox.out is None:
                        outbox.out = joined
                        touch(outbox)
                    else:
                        outbox.out += joined
            else:
                # A copy: what is too much closes a slow member, which leaves the group.
                for listener in tuple(group):
                    listener.queue(packets)
        if spans is not None:
            # They end when all before them is written.
            self._touched.append(spans)

    def _advance_all(self, shard: ShardName, entries: Sequence[Entry]) -> Sequence[bytes]:
        return [self.vector.advance(shard, entry.offset) for entry in entries]

    def flush(self) -> None:
        """
        The batch is over: write to each socket what it has for it, so many in a turn of the loop.

        In between it reads: acks do not wait for the last member of a large room, and what comes
        for a socket that still waits, an ack or the next batch, goes out in the same write.
        """
        if not self._is_going_on or self._staged_bytes > STAGED_BYTES:
            self._write()

    def _write(self) -> None:
        touched = self._touched
        is_too_much = self._staged_bytes > STAGED_BYTES
        count = len(touched) if is_too_much else min(TURN_WRITES, len(touched))
        for _ in range(count):
            outbox = touched.popleft()
            self._staged_bytes -= len(outbox.out or b"")
            outbox.flush()
        if not touched:
            # Acks and what a closing socket wrote by itself were not counted alike.
            self._staged_bytes = 0
        elif not self._is_going_on:
            self._is_going_on = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_going_on = False
        self._write()

    def reach(self, shard: ShardName, offset: int) -> None:
        """Give out cursors from *offset* on."""
        self.vector.advance(shard, offset)

    def lose(self, shard: ShardName, rooms: Sequence[RoomId], *, can_resume: bool) -> None:
        """Close the members of *rooms*; let those who resume read again."""
        for room in rooms:
            if (held := self.rooms.get(room)) is None:
                continue
            for waiting in (held.waiting or {}).values():
                waiting.overflow()
            for listener in tuple(held.members()):
                self.statistics.interrupted += 1
                listener.interrupt(can_resume=can_resume)

    def cast(self, cast: Cast) -> None:
        """Send an event that is not stored to the members of its room."""
        held = self.rooms.get(cast.room)
        if held is None:
            return
        self.statistics.casts += 1
        for wire, _, group in held.groups:
            packets = (encode_cast(wire, cast),)
            for listener in tuple(group):
                if cast.except_user is not None and listener.user == cast.except_user:
                    continue
                if cast.is_volatile and listener.is_congested:
                    self.statistics.dropped_casts += 1
                    continue
                listener.queue(packets)


def _encode_entries(
    wire: Wire, entries: Sequence[Entry], cursors: Sequence[bytes]
) -> Sequence[bytes]:
    packets: list[bytes] = []
    for entry, cursor in zip(entries, cursors, strict=True):
        packets += encode_entry(wire, entry, cursor)
    return packets
