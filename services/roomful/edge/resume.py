"""
Taking a session up again: what was missed, once and in order, before anything new.

A message is owed if and only if its offset is above the cursor's for its shard and above the
room's offset at the join (design.md section 7). The replay is read in pages, at the pace of the
client, from the archive as long as the hot log does not reach back (history.py); meanwhile the
rooms' live stream is collected instead of sent (the barrier):

1. each room starts to collect; 2. a page is read and sent; 3. if it was not the last, wait until
the client has read it, forget what was collected (it comes with the next page), go on with 2;
4. when every shard's last page is sent, send what was collected since, and go live.

Step 4 does not give up the loop, so nothing falls between. Each replayed entry carries the
cursor of exactly what was sent so far: a client that is cut in the middle takes up from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from roomful.cluster.cursor import BadCursor, CursorVector, ShardName, decode_cursor
from roomful.edge.encoding import encode_entry
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Entry, Home, Replay, RoomId

if TYPE_CHECKING:
    from collections.abc import Callable

    from roomful.edge.connection import Connection
    from roomful.edge.edge import Edge
    from roomful.edge.fanout import Waiting

__all__ = ["Hole", "Resumption"]

PAGE_BYTES = 256 << 10


class Hole(Exception):
    """Some of what was missed is gone; *rooms* have the holes."""

    def __init__(self, rooms: Sequence[RoomId]) -> None:
        super().__init__(rooms)
        self.rooms = rooms


@dataclass(slots=True)
class _Share:
    """The session's rooms on one shard, and how far the client has been sent of it."""

    shard: Home
    reached: int
    rooms: dict[RoomId, int] = field(default_factory=dict)
    waiting: dict[RoomId, Waiting] = field(default_factory=dict)

    @property
    def has_overflowed(self) -> bool:
        return any(waiting.has_overflowed for waiting in self.waiting.values())

    def late(self) -> list[Entry]:
        """Give what came while the last page was on its way, in offset order."""
        entries = [entry for waiting in self.waiting.values() for entry in waiting.entries]
        return sorted(
            (entry for entry in entries if entry.offset > self.reached),
            key=lambda entry: entry.offset,
        )


class Resumption:
    """One resume of one connection."""

    # Mutable state: the vector of what this client has been sent, and its rooms by shard.
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
            self._after: Mapping[ShardName, int] = decode_cursor(cursor)
        except BadCursor as exc:
            raise Hole(()) from exc
        self._vector = CursorVector(self._after)
        self._shares: list[_Share] = []

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
        try:
            await self._collect(rooms)
            # A hole on any shard has to be known before anything is said.
            first = [(share, await self._read(share)) for share in self._shares]
            begin()
            for share, replay in first:
                await self._replay(share, replay)
            # While one shard was replayed, another may have gone too far ahead to collect.
            while behind := [share for share in self._shares if share.has_overflowed]:
                for share in behind:
                    await self._replay(share, await self._read(share))
        except BaseException:
            for room in rooms:
                self._edge.fanout.leave(self._connection, room)
            raise
        for share in self._shares:
            self._send(share.shard.name, share.late())
            # The sink has heard the shard as far (Replay.reached): what goes out from now on must
            # not carry a cursor behind what this client has.
            self._edge.fanout.vector.advance(share.shard.name, share.reached)
        for room in rooms:
            self._edge.fanout.go_live(self._connection, room)

    async def _collect(self, rooms: Mapping[RoomId, int]) -> None:
        by_shard: dict[ShardName, _Share] = {}
        for room, joined in rooms.items():
            shard = self._edge.shards.shard_of(room)
            if shard.name not in self._after:
                raise Hole([room])
            share = by_shard.get(shard.name)
            if share is None:
                share = by_shard[shard.name] = _Share(shard, self._after[shard.name])
            share.rooms[room] = joined
            share.waiting[room] = await self._edge.fanout.wait(self._connection, room)
        self._shares = list(by_shard.values())

    async def _read(self, share: _Share) -> Replay:
        """Read the next page; what the rooms collected before comes with it."""
        for waiting in share.waiting.values():
            waiting.clear()
        replay = await self._edge.history.read(share.shard, share.rooms, share.reached, PAGE_BYTES)
        if replay.holes:
            raise Hole(replay.holes)
        if self._connection.is_closed:
            raise Refused(RefusalCode.OVERLOADED, "the client went away")
        return replay

    async def _replay(self, share: _Share, replay: Replay) -> None:
        """Send *replay*, and all pages after it at the pace of the client."""
        while True:
            self._send(share.shard.name, replay.entries)
            share.reached = replay.reached
            if replay.is_complete:
                return
            await self._connection.transport.drained()
            replay = await self._read(share)

    def _send(self, shard: ShardName, entries: Sequence[Entry]) -> None:
        packets: list[bytes] = []
        for entry in entries:
            cursor = self._vector.advance(shard, entry.offset)
            if entry.offset in self._heard.get(entry.envelope.room, ()):
                continue
            packets += encode_entry(self._connection.wire, entry, cursor)
        if packets:
            self._connection.queue(packets)
