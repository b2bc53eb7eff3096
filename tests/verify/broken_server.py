"""`roomful serve` with a guard taken out on purpose: `broken_server.py GUARD serve …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import count

from roomful.cli import main
from roomful.cluster.cursor import ShardName
from roomful.edge.fanout import Fanout
from roomful.shard.base import Settle, Stored
from roomful.shard.memory import MemoryShard
from roomful.shard.message import Entry, Envelope, RoomId

__all__ = ["GUARDS"]

EVERY = 50


def forget_ids() -> None:
    """Store a message again when it is sent again."""
    publish = MemoryShard.publish

    def as_new(self: MemoryShard, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        publish(self, envelope, settle, is_named=False)

    MemoryShard.publish = as_new  # type: ignore[method-assign]  # that is the point


def deliver_less() -> None:
    """Let one delivery in EVERY fall out."""
    deliver, deliveries = Fanout.deliver, count(1)

    def leaky(self: Fanout, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        if next(deliveries) % EVERY:
            deliver(self, shard, room, entries)

    Fanout.deliver = leaky  # type: ignore[method-assign]


def acknowledge_less() -> None:
    """Acknowledge one message in EVERY and store it nowhere."""
    publish, publishes = MemoryShard.publish, count(1)

    def hasty(self: MemoryShard, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        if next(publishes) % EVERY or envelope.event != "message":
            publish(self, envelope, settle, is_named=is_named)
        else:
            settle(Stored(self.position() + 1, envelope.timestamp))

    MemoryShard.publish = hasty  # type: ignore[method-assign]


def deliver_backwards() -> None:
    """Deliver one message in EVERY after the next one of its room."""
    deliver, deliveries = Fanout.deliver, count(1)
    held: dict[RoomId, Sequence[Entry]] = {}

    def late(self: Fanout, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        if next(deliveries) % EVERY == 0 and room not in held:
            held[room] = entries
            return
        deliver(self, shard, room, entries)
        if room in held:
            deliver(self, shard, room, held.pop(room))

    Fanout.deliver = late  # type: ignore[method-assign]


GUARDS: dict[str, Callable[[], None]] = {
    "ids": forget_ids,
    "deliveries": deliver_less,
    "acks": acknowledge_less,
    "order": deliver_backwards,
}
"""What can be taken out."""


if __name__ == "__main__":
    GUARDS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
