"""The rooms of a shard's stream; and the limits and counts of the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from roomful.shard.message import RoomId
from roomful.shard.terms import Terms

__all__ = ["Held", "HeldRooms", "StreamLimits", "StreamStatistics", "channel_of"]


def channel_of(room: RoomId) -> bytes:
    """Give the channel that *room* is published on."""
    return b"r:" + room.encode()


def _nobody() -> None:
    """Nobody waits."""


class Held:
    """A room that is held, and how far it was heard."""

    __slots__ = ("channel", "heard", "is_ready", "is_subscribed", "last", "on_ready", "room")

    def __init__(self, room: RoomId, heard: int | None) -> None:
        self.room = room
        self.channel = channel_of(room)
        self.heard = heard
        """All of it up to this was delivered, or was read and will be; None: not known yet."""
        self.last = 0
        """The newest entry that was delivered."""
        self.is_subscribed = False
        self.is_ready = False
        """Whether nothing later is missed, whatever happens to connections."""
        self.on_ready: Callable[[], None] = _nobody
        """Called when it is."""

    def __repr__(self) -> str:
        return f"<Held {self.room!r} heard {self.heard}>"

    def hear(self, offset: int) -> None:
        """Know that there is nothing more of the room up to *offset*."""
        if self.heard is None or self.heard < offset:
            self.heard = offset


class HeldRooms:
    """The rooms that are held, and what the server has to be told of it."""

    # Mutable state: the rooms by channel; those that came and went since take_changes(); and how
    # many confirmations are due by channel.
    __slots__ = ("_due", "_joining", "_leaving", "has_changes", "held")

    def __init__(self) -> None:
        self.held: dict[bytes, Held] = {}
        self.has_changes = False
        """Whether take_changes() may have something to give."""
        self._joining: dict[bytes, Held] = {}
        self._leaving: dict[bytes, Held] = {}
        self._due: dict[bytes, int] = {}

    def hold(
        self, room: RoomId, after: int | None, *, is_connected: bool, is_new: bool = False
    ) -> Held:
        """Give *room*, held from now on if it was not; *is_new*: with nothing of before."""
        channel = channel_of(room)
        held = self.held.get(channel)
        if held is not None:
            return held
        # Released a moment ago: nothing was said to the server yet.
        held = self._leaving.pop(channel, None)
        if held is None or is_new or (after is not None and held.heard != after):
            held = Held(room, after)
            if is_connected:
                self._joining[channel] = held
                self.has_changes = True
        self.held[channel] = held
        return held

    def release(self, room: RoomId, *, is_connected: bool) -> Held | None:
        """Give *room*, not held any more; None if it was not."""
        channel = channel_of(room)
        held = self.held.pop(channel, None)
        if held is not None and self._joining.pop(channel, None) is None and is_connected:
            self._leaving[channel] = held
            self.has_changes = True
        return held

    def take_changes(self) -> tuple[Sequence[bytes], list[Held]]:
        """Give the channels to unsubscribe from and the rooms to subscribe to."""
        leaving, joining = list(self._leaving), list(self._joining.values())
        self.has_changes = False
        self._leaving.clear()
        self._joining.clear()
        return leaving, joining

    def expect(self, channels: Iterable[bytes]) -> None:
        """Wait for a confirmation of each of *channels*."""
        for channel in channels:
            self._due[channel] = self._due.get(channel, 0) + 1

    def confirm(self, channels: Iterable[bytes]) -> None:
        """Take the confirmations of *channels*."""
        for channel in channels:
            due = self._due.pop(channel, 0) - 1
            if due > 0:
                # An earlier one, of a room released since: what follows may end once more.
                self._due[channel] = due
            elif (held := self.held.get(channel)) is not None:
                held.is_subscribed = True

    def rewind(self, terms: Terms) -> list[Held]:
        """Forget what was heard and lost at a failover since; gives the rooms it was heard in."""
        rewound = []
        for held in self.held.values():
            kept = terms.lost_above(held.last)
            if kept is not None and held.last > kept:
                rewound.append(held)
                held.last = held.heard = kept
        return rewound

    def go_back(self, seq: int) -> list[Held]:
        """Forget what was heard above *seq*; gives the rooms in which entries were."""
        rewound = [held for held in self.held.values() if held.last > seq]
        for held in self.held.values():
            held.last = min(held.last, seq)
            held.heard = None if held.heard is None else min(held.heard, seq)
        return rewound

    def disconnect(self) -> None:
        """Nothing is subscribed to any more, and nothing was said."""
        self.has_changes = False
        self._due.clear()
        self._joining.clear()
        self._leaving.clear()
        for held in self.held.values():
            held.is_subscribed = False


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What a round may hold in memory."""

    waiting_bytes: int = 16 << 20
    """Of the live stream while a round is under way."""
    fill_bytes: int = 4 << 20
    """
    Of logs that were read and not delivered, over all shares. A reply may be as large, and has to
    fit into what the server buffers for a subscriber (client-output-buffer-limit pubsub).
    """
    page_bytes: int = 16 << 10
    """A share's page is never smaller."""
    share_rooms: int = 256
    """Rooms read together."""


@dataclass(slots=True)
class StreamStatistics:
    """Counts since the start."""

    entries: int = 0
    duplicates: int = 0
    """Entries that had been delivered before: not delivered again."""
    rounds: int = 0
    """How often the live stream waited for logs."""
    gaps: int = 0
    """Publications that were lost while the connection stood: should stay 0."""
    filled: int = 0
    """Entries that came from logs."""
    overflows: int = 0
    """Rounds in which more waited than is allowed."""
    lost_rooms: int = 0
    """Rooms whose log no longer reached back: their members were closed."""
    rewound_rooms: int = 0
    """Rooms of which entries were heard that the shard lost in a failover."""
    unreadable: int = 0
    """Entries and messages that cannot be decoded: should stay 0."""
    strays: int = 0
    """Publications of rooms that are not held (any more)."""
