"""What someone wants to be gone, from the hot logs and from the archive."""

from __future__ import annotations

from dataclasses import dataclass

from roomful.shard.message import Entry, RoomId, UserId

__all__ = ["Erasure"]


@dataclass(frozen=True, slots=True)
class Erasure:
    """
    What someone wants to be gone: exactly one of a message, a room, or what a user sent.

    The archive remembers it, so that what comes later from an outbox is gone too.
    """

    at_ms: int
    """When it was asked for: messages with a later timestamp stay."""
    by: str
    """Who asked, for the audit."""
    room: RoomId | None = None
    offset: int | None = None
    """With a room: only the message at this offset."""
    user: UserId | None = None
    """Everything that the user sent, and the whole of the user's own room."""

    def __post_init__(self) -> None:
        if (self.room is None) == (self.user is None) or (
            self.offset is not None and self.room is None
        ):
            raise ValueError("an erasure names a room (and perhaps an offset in it), or a user")

    @property
    def kind(self) -> str:
        """`message`, `room` or `user`."""
        return "user" if self.user else "room" if self.offset is None else "message"

    def covers(self, entry: Entry) -> bool:
        """Whether *entry* is to be gone."""
        envelope = entry.envelope
        if envelope.timestamp > self.at_ms:
            return False
        if self.user is not None:
            return envelope.user == self.user or envelope.room == "user:" + self.user
        return envelope.room == self.room and self.offset in (None, entry.offset)
