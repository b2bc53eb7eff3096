"""
Taking a session up again: what was missed, once and in order, before anything new.

A message is owed if and only if its offset is above the cursor's for the shard that stored it and
above the room's offset at the join (design.md section 7). A room's messages may have been stored by
several shards, where its bucket was one after the other; each of those is a *part*, read where the
room is now. All parts together go out in order of their offsets, which is each room's order and
each shard's (docs/adr/0022-hearing-a-bucket-that-moves.md).

The replay is read in pages, at the pace of the client, from the archive as long as the hot log does
not reach back (history.py); meanwhile the rooms' live stream is collected instead of sent (the
barrier):

1. each room starts to collect; 2. of each part a page is read, and what nothing unread can come
before is sent; 3. if that was not all, wait until the client has read it, forget what was
collected (it comes with the next page), go on with 2; 4. when all parts are sent to their ends,
send what was collected since, and go live. Of one edge's connections no more than PAGES_AT_ONCE
are in step 2: when thousands come back to a room at once, the pages would be its memory.

Step 4 does not give up the loop, so nothing falls between. Each replayed entry carries the
cursor of exactly what was sent so far: a client that is cut in the middle takes up from there, and
so do we when a bucket moves in the middle.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from roomful.cluster.cursor import BadCursor, CursorVector, ShardName, decode_cursor
from roomful.cluster.lineage import Stretch, find_owed
from roomful.edge.encoding import encode_entry
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Home, Lineage, Moved
from roomful.shard.message import Entry, RoomId

if TYPE_CHECKING:
    from collections.abc import Callable

    from roomful.edge.connection import Connection
    from roomful.edge.edge import Edge
    from roomful.edge.room import Waiting

__all__ = ["Hole", "Resumption"]

Born = tuple[ShardName, Entry]
"""An entry with the shard that stored it."""

PAGE_BYTES: Final = 256 << 10
"""Of all parts together, read and not sent."""
LEAST_PAGE_BYTES: Final = 16 << 10
PAGES_AT_ONCE: Final = 64
"""On one edge; 16 MiB of the log."""
MOVES: Final = 50
"""So often buckets may have moved while they are read,"""
MOVE_S: Final = 0.1
"""and so long, in seconds, it takes until one is where it goes."""


class Hole(Exception):
    """Some of what was missed is gone; *rooms* have the holes."""

    def __init__(self, rooms: Sequence[RoomId]) -> None:
        super().__init__(rooms)
        self.rooms = rooms


@dataclass(eq=False, slots=True)
class _Part:
    """What some rooms got from one shard, and how far it was read."""

    home: Home
    """Where it is now."""
    stretch: Stretch
    """Of one of the rooms: all have the same origin, and the same cursor of it."""
    reached: int
    rooms: dict[RoomId, int] = field(default_factory=dict)
    """Owed is what is above these."""
    upto: dict[RoomId, int] = field(default_factory=dict)
    """And not above these; empty: the rooms are there, and more may come."""
    lineages: dict[RoomId, Lineage] = field(default_factory=dict)
    is_complete: bool = False
    entries: list[Entry] = field(default_factory=list)
    """Read and not sent: something unread may come before."""

    def takes(self, home: Home, room: RoomId, stretch: Stretch) -> bool:
        """Whether *stretch* of *room* can be read with it."""
        mine = self.stretch
        return (
            self.home is home
            and (mine.origin, mine.after) == (stretch.origin, stretch.after)
            and (mine.upto is None) == (stretch.upto is None)
            and room not in self.rooms
        )

    def add(self, room: RoomId, stretch: Stretch, lineage: Lineage) -> None:
        """Read *stretch* of *room* with it."""
        self.rooms[room] = stretch.low
        self.lineages[room] = lineage
        if stretch.upto is not None:
            self.upto[room] = stretch.upto


class Resumption:
    """One resume of one connection."""

    # Mutable state: the vector of what this client has been sent, what its rooms collect, and
    # what is to be read, and the rooms of which that cannot be said.
    def __init__(
        self,
        edge: Edge,
        connection: Connection,
        cursor: str,
        heard: Mapping[RoomId, range] | None = None,
    ) -> None:
        """
        Take up from *cursor*.

        Args:
            heard: per room the offsets that the client got live meanwhile.

        Raises:
            Hole: no edge ever gave out this cursor (no room is named).
        """
        self._edge = edge
        self._connection = connection
        self._heard = heard or {}
        try:
            self._vector = CursorVector(decode_cursor(cursor))
        except BadCursor as exc:
            raise Hole(()) from exc
        self._waiting: dict[RoomId, Waiting] = {}
        self._parts: list[_Part] = []
        self._unknown: list[RoomId] = []
        self._begin: Callable[[], None] | None = None

    async def run(self, rooms: Mapping[RoomId, int], begin: Callable[[], None]) -> None:
        """
        Join *rooms* (with their join offsets) and send what they got since the cursor.

        Args:
            begin: called once, when it is certain that nothing is missing so far and before
                anything is sent: says to the client that it is recovered.

        Raises:
            Hole: entries are missing; if begin() was called, the client must be closed.
            Refused: SHARD_UNAVAILABLE, or OVERLOADED when the client does not read.
        """
        self._begin = begin
        try:
            self._parts = await self._plan(rooms)
            for room in rooms:
                self._waiting[room] = await self._edge.fanout.wait(self._connection, room)
            await self._follow(rooms)
        except BaseException:
            for room in rooms:
                self._edge.fanout.leave(self._connection, room)
            raise
        self._send(self._late())
        for part in self._live():
            # The sink has heard the shard as far (Replay.reached): what goes out from now on must
            # not carry a cursor behind what this client has.
            self._edge.fanout.vector.advance(part.home.name, part.reached)
        for room in rooms:
            self._edge.fanout.go_live(self._connection, room)

    # What is to be read ---------------------------------------------------------------------

    async def _plan(self, rooms: Mapping[RoomId, int]) -> list[_Part]:
        """Say what is to be read from what was sent so far on."""
        parts: list[_Part] = []
        self._unknown.clear()
        sent = dict(self._vector.positions)
        for room, joined in rooms.items():
            lineage = await self._edge.shards.lineage(room)
            home = lineage.home
            owed = find_owed(lineage.segments, home.name, sent, joined)
            if owed is None:
                self._unknown.append(room)
                continue
            for stretch in owed:
                part = next((one for one in parts if one.takes(home, room, stretch)), None)
                if part is None:
                    part = _Part(home, stretch, stretch.after)
                    parts.append(part)
                part.add(room, stretch, lineage)
        return parts

    async def _follow(self, rooms: Mapping[RoomId, int]) -> None:
        """Replay, and again with another plan when a bucket has moved meanwhile."""
        for _ in range(MOVES):
            try:
                return await self._replay()
            except Moved:
                await asyncio.sleep(MOVE_S)
                self._parts = await self._plan(rooms)
        raise Refused(RefusalCode.SHARD_UNAVAILABLE, "rooms of this session move all the time")

    def _live(self) -> list[_Part]:
        return [part for part in self._parts if not part.upto]

    # Reading and sending --------------------------------------------------------------------

    async def _read_all(self) -> None:
        """Read a page of each part that has none."""
        holes = [*self._unknown]
        for part in self._parts:
            if not part.is_complete and not part.entries:
                holes += await self._read(part)
        if holes:
            raise Hole(list(dict.fromkeys(holes)))

    async def _read(self, part: _Part) -> Sequence[RoomId]:
        """Read the next page, with what the rooms collected before; or give those with a hole."""
        if not part.upto:
            for room in part.rooms:
                self._waiting[room].clear()
        replay = await self._edge.history.read(
            part.home,
            part.rooms,
            part.reached,
            max(LEAST_PAGE_BYTES, PAGE_BYTES // len(self._parts)),
            (part.stretch.origin, part.upto) if part.upto else None,
        )
        if replay.holes:
            return replay.holes
        if self._connection.is_closed:
            raise Refused(RefusalCode.OVERLOADED, "the client went away")
        # Also one that has come to a shard of others: its messages are between theirs.
        for live in self._live():
            for room, lineage in live.lineages.items():
                if await self._edge.shards.lineage(room) != lineage:
                    raise Moved(f"a bucket of {live.home.name}")
        part.entries += replay.entries
        part.reached, part.is_complete = replay.reached, replay.is_complete
        return ()

    async def _replay(self) -> None:
        """Send everything, at the pace of the client."""
        while self._begin or self._unknown or not self._is_sent():
            if not self._begin:
                await self._connection.transport.drained()
            async with self._edge.replaying:
                await self._read_all()
                # A hole on any shard had to be known before anything is said.
                if self._begin:
                    self._begin()
                    self._begin = None
                self._send_readable()

    def _is_sent(self) -> bool:
        """Whether all that is not collected is sent."""
        for part in self._live():
            # While another was read, a room may have got more than it can collect.
            if any(self._waiting[room].has_overflowed for room in part.rooms):
                part.is_complete = False
        return all(part.is_complete and not part.entries for part in self._parts)

    def _send_readable(self) -> None:
        """Send what nothing unread can come before."""
        open_parts = (part.reached for part in self._parts if not part.is_complete)
        horizon = min(open_parts, default=math.inf)
        found: list[Born] = []
        for part in self._parts:
            count = bisect_right(part.entries, horizon, key=lambda entry: entry.offset)
            found += [(part.stretch.origin, entry) for entry in part.entries[:count]]
            del part.entries[:count]
        self._send(found)

    def _late(self) -> list[Born]:
        """Give what came while the last page was on its way."""
        reached = {room: part.reached for part in self._live() for room in part.rooms}
        return [
            (shard, entry)
            for room, waiting in self._waiting.items()
            for shard, entry in waiting.entries
            if entry.offset > reached[room]
        ]

    def _send(self, found: list[Born]) -> None:
        packets: list[bytes] = []
        for shard, entry in sorted(found, key=lambda born: born[1].offset):
            cursor = self._vector.advance(shard, entry.offset)
            if entry.offset in self._heard.get(entry.envelope.room, ()):
                continue
            packets += encode_entry(self._connection.wire, entry, cursor)
        if packets:
            self._connection.queue(packets)
