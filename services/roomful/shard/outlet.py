"""What the sink was given of a shard, and told of what it was not given."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from roomful.cluster.cursor import ShardName
from roomful.shard.base import Sink
from roomful.shard.held import Held, StreamStatistics
from roomful.shard.message import Cast, Entry
from roomful.shard.publication import CastMessage

__all__ = ["Outlet"]

logger = logging.getLogger("roomful.shard")


class Outlet:
    """The way from one shard's stream to the sink."""

    # Mutable state: how far the sink has heard the shard, and whether it has something to send.
    __slots__ = ("_has_delivered", "_shard", "_sink", "_statistics", "position")

    def __init__(self, shard: ShardName, sink: Sink, statistics: StreamStatistics) -> None:
        self._shard = shard
        self._sink = sink
        self._statistics = statistics
        self._has_delivered = False
        self.position = 0
        """The offset up to which the sink has heard the shard."""

    def deliver(self, held: Held, entries: Sequence[Entry]) -> None:
        """Hand over new *entries* of a room."""
        self._statistics.entries += len(entries)
        held.last = offset = entries[-1].offset
        if offset > self.position:
            self.position = offset
        self._has_delivered = True
        self._sink.deliver(self._shard, held.room, entries)

    def cast(self, held: Held, message: CastMessage) -> None:
        """Hand over an event that is not stored."""
        self._has_delivered = True
        self._sink.cast(
            Cast(held.room, message.event, message.body, message.except_user, message.is_volatile)
        )

    def reach(self, offset: int) -> None:
        """Say that everything up to *offset* was handed over."""
        if offset > self.position:
            self.position = offset
            self._sink.reach(self._shard, offset)

    def end_burst(self) -> None:
        """Let the sink send what it was given."""
        if self._has_delivered:
            self._has_delivered = False
            self._sink.flush()

    def tell_lost(self, rooms: Sequence[Held]) -> None:
        """Say that entries of *rooms* are gone before they could be delivered."""
        if rooms:
            self._statistics.lost_rooms += len(rooms)
            why = {"shard": self._shard, "rooms": len(rooms), "first": rooms[0].room}
            logger.warning("messages gone before they were heard", extra=why)
            self._sink.lose(self._shard, [held.room for held in rooms], can_resume=True)

    def tell_rewound(self, rooms: Sequence[Held]) -> None:
        """Say that entries of *rooms* were delivered that the shard does not have."""
        if rooms:
            self._statistics.rewound_rooms += len(rooms)
            self._sink.lose(self._shard, [held.room for held in rooms], can_resume=False)
