"""
Messages, as edges make them and shards keep and send them; and the rooms and users they name.

An Envelope is one before it has an offset, an Entry one that is stored; a Cast is never stored.
"""

from __future__ import annotations

from typing import Final, NewType

import msgspec

from roomful.cluster.cursor import ShardName

__all__ = ["OPEN_EVENTS", "Cast", "Entry", "Envelope", "RoomId", "UserId", "user_room"]

RoomId = NewType("RoomId", str)
UserId = NewType("UserId", str)


def user_room(user: UserId) -> RoomId:
    """Give the room that every connection of *user* is in, and that no one joins by hand."""
    return RoomId("user:" + user)


OPEN_EVENTS: Final = frozenset({"message", "direct-message"})
"""Events whose body is a JSON object without its closing brace: an edge appends the offset."""


class _Direct(msgspec.Struct, gc=False):
    to: str


class Envelope(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """
    A message as its edge made it, ready to be stored and sent.

    In MessagePack, as shards on Redis keep it, an array: fields may only be added at the end, with
    a default.
    """

    room: RoomId
    event: str
    """The event's name as members hear it."""
    id: str
    user: UserId
    timestamp: int
    """Milliseconds since the epoch, by the clock of the edge that took it."""
    body: bytes
    """
    For `message` and `direct-message` the JSON object without its closing brace (an edge appends
    the offset); for an app's own event its data, whole.
    """
    attachments: tuple[bytes, ...] = ()
    trace: bytes | None = None
    """
    The span that published it, of a message that is traced: 16 bytes trace id, 8 bytes span id.

    Kept wherever an envelope is kept whole, which PostgreSQL does not: who hears it live goes on
    with the trace, and nobody later (docs/adr/0025-traces.md).
    """

    @property
    def name(self) -> str:
        """
        What no second message of its user in its room may be called: the sender's id.

        In the room of its own sender a direct message is called after its receiver, too: the
        same id may have been given to what went to somebody else.
        """
        if self.event == "direct-message" and self.room == user_room(self.user):
            to = msgspec.json.decode(self.body + b"}", type=_Direct).to
            if to != self.user:
                return f"\0{to}\0{self.id}"
        # Such names begin with \0 and a receiver's, which is never empty and has no \0: no id does.
        return "\0" + self.id if self.id.startswith("\0") else self.id

    @property
    def size(self) -> int:
        """Bytes it takes in a log, about: with what Python needs around it."""
        size = 400 + len(self.body)
        return size + sum(map(len, self.attachments)) if self.attachments else size


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A stored message: an envelope and the offset its shard gave it."""

    offset: int
    envelope: Envelope
    origin: ShardName | None = None
    """
    The shard that gave the offset, when the room's bucket has moved since: a cursor counts the
    entry there. None: the shard that it comes from.
    """


class Cast(msgspec.Struct, frozen=True, gc=False):
    """An event for those who are there now: never stored, lost to who is away."""

    room: RoomId
    event: str
    body: bytes
    """A JSON object, whole."""
    except_user: UserId | None = None
    """Not for this user's connections."""
    is_volatile: bool = False
    """May be dropped for a slow client."""
