"""
The members of a room on this edge: what they are to the fan-out, and how they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

from roomful.cluster.cursor import ShardName
from roomful.edge.encoding import Wire
from roomful.shard.message import Entry, RoomId, UserId

__all__ = ["Carrier", "Listener", "Outbox", "Room", "Waiting"]

WAITING_BYTES = 1 << 20
"""What a resuming connection collects in one room; beyond, it is read again."""


class Carrier(IntEnum):
    """How packets reach a connection."""

    SOCKET = 0
    """As WebSocket frames, written at once."""
    POLL = 1
    """As packets that wait for the next poll."""


class Outbox(Protocol):
    """A WebSocket, as the fan-out sees it: what a batch has for it goes out in one write."""

    out: bytes | None
    """Frames of this batch so far; None outside of one."""

    def flush(self) -> None:
        """Write what *out* has."""


class Listener(Protocol):
    """A connection, as the fan-out sees it."""

    @property
    def user(self) -> UserId:
        """Whose connection it is."""

    @property
    def wire(self) -> Wire:
        """What it wants to hear."""

    @property
    def carrier(self) -> Carrier:
        """How it hears it."""

    @property
    def outbox(self) -> Outbox | None:
        """Where ready frames go (Carrier.SOCKET)."""

    def queue(self, packets: Sequence[bytes]) -> None:
        """Hand over packets (any carrier)."""

    @property
    def is_congested(self) -> bool:
        """Whether what is volatile should be dropped for it."""

    def interrupt(self, *, can_resume: bool) -> None:
        """Close it, because what it heard is not what was sent; it is told when it comes back."""


class Waiting:
    """A resuming connection in one room: what came while its replay is under way."""

    __slots__ = ("_size", "entries", "has_overflowed")

    def __init__(self) -> None:
        self.entries: list[tuple[ShardName, Entry]] = []
        """With the shard that each was heard on, which has stored it."""
        self.has_overflowed = False
        self._size = 0

    def add(self, shard: ShardName, entries: Sequence[Entry]) -> None:
        """Collect *entries*, up to WAITING_BYTES: beyond, they have to be read again."""
        self._size += sum(entry.envelope.size for entry in entries)
        if self._size > WAITING_BYTES:
            self.has_overflowed = True
            self.entries.clear()
        else:
            self.entries += [(shard, entry) for entry in entries]

    def overflow(self) -> None:
        """Something is missing from what came: it has to be read again."""
        self._size = WAITING_BYTES
        self.has_overflowed = True
        self.entries.clear()

    def clear(self) -> None:
        """What came so far will come with the next read."""
        self.entries.clear()
        self.has_overflowed = False
        self._size = 0


Group = dict[Listener, Outbox | None]


class Room:
    """The members of one room on this edge."""

    __slots__ = ("entering", "groups", "id", "waiting")

    def __init__(self, room: RoomId) -> None:
        self.id = room
        # (wire, carrier) -> members; no dict, because nearly all rooms have one or two. A new tuple
        # for each change: a member that is sent to may leave, and take its group with it.
        self.groups: tuple[tuple[Wire, Carrier, Group], ...] = ()
        self.waiting: dict[Listener, Waiting] | None = None
        # How many are on their way in: while one is, the room stays.
        self.entering = 0

    def __repr__(self) -> str:
        return f"<Room {self.id!r} with {sum(1 for _ in self.members())} members>"

    def group(self, wire: Wire, carrier: Carrier) -> Group:
        """Give the group of *wire* and *carrier*, made if need be."""
        for one_wire, one_carrier, group in self.groups:
            if one_wire is wire and one_carrier is carrier:
                return group
        new: Group = {}
        self.groups = (*self.groups, (wire, carrier, new))
        return new

    def members(self) -> Iterator[Listener]:
        """Give all members that hear the live stream."""
        for _, _, group in self.groups:
            yield from group

    def discard(self, listener: Listener) -> None:
        """Take *listener* out, wherever it is."""
        for one in self.groups:
            group = one[2]
            if listener in group:
                del group[listener]
                if not group:
                    self.groups = tuple(other for other in self.groups if other is not one)
                break
        if self.waiting is not None:
            self.waiting.pop(listener, None)
            self.waiting = self.waiting or None

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in it."""
        return not (self.groups or self.waiting or self.entering)
