"""Sinks and settles that write down what they hear."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import Refused
from roomful.shard.base import Shard, Stored
from roomful.shard.message import Cast, Entry, Envelope, RoomId, UserId
from shard.clock import EPOCH_S

__all__ = ["Heard", "RecordingSink", "make_envelope", "publish", "store"]


@dataclass(frozen=True, slots=True)
class Heard:
    """One call of Sink.deliver."""

    shard: ShardName
    room: RoomId
    entries: tuple[Entry, ...]

    @property
    def ids(self) -> list[str]:
        """The ids of the entries' envelopes."""
        return [entry.envelope.id for entry in self.entries]


@dataclass(slots=True)
class RecordingSink:
    """Implements Sink: keeps every call."""

    delivered: list[Heard] = field(default_factory=list)
    casts: list[Cast] = field(default_factory=list)
    positions: dict[ShardName, int] = field(default_factory=dict)
    lost: list[tuple[RoomId, bool]] = field(default_factory=list)
    """Rooms, and whether who is in them may resume."""

    def deliver(self, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        """Keep the call."""
        self.delivered.append(Heard(shard, room, tuple(entries)))

    def cast(self, cast: Cast) -> None:
        """Keep the call."""
        self.casts.append(cast)

    def flush(self) -> None:
        """Nothing is held back."""

    def reach(self, shard: ShardName, offset: int) -> None:
        """Keep the offset, which never falls."""
        assert offset >= self.positions.get(shard, 0)
        self.positions[shard] = offset

    def lose(self, shard: ShardName, rooms: Sequence[RoomId], *, can_resume: bool) -> None:
        """Keep the call."""
        self.lost += [(room, can_resume) for room in rooms]

    @property
    def entries(self) -> list[Entry]:
        """All entries in the order they came."""
        return [entry for heard in self.delivered for entry in heard.entries]

    def told(self, room: str) -> list[tuple[str, dict[str, Any]]]:
        """What was cast to *room*: names and bodies without the time; forgotten by asking."""
        mine = [cast for cast in self.casts if cast.room == room]
        self.casts = [cast for cast in self.casts if cast.room != room]
        told = []
        for cast in mine:
            body = msgspec.json.decode(cast.body, type=dict[str, Any])
            body.pop("timestamp", None)
            told.append((cast.event, body))
        return told


def make_envelope(
    room: str,
    name: str,
    *,
    user: str = "alice",
    body: bytes = b'{"x":1',
    at_s: float = EPOCH_S,
    attachments: tuple[bytes, ...] = (),
) -> Envelope:
    """Make the envelope of a `message` with the id *name*."""
    return Envelope(
        RoomId(room), "message", name, UserId(user), int(at_s * 1000), body, attachments
    )


def publish(
    shard: Shard, envelope: Envelope, *, is_named: bool = False
) -> asyncio.Future[Stored | Refused]:
    """Publish *envelope*; gives what becomes of it, and fails if that comes twice."""
    outcome: asyncio.Future[Stored | Refused] = asyncio.get_running_loop().create_future()
    shard.publish(envelope, outcome.set_result, is_named=is_named)
    return outcome


async def store(shard: Shard, *envelopes: Envelope, is_named: bool = False) -> list[Stored]:
    """Publish *envelopes* in one batch, and give where they are once they are stored."""
    outcomes = [publish(shard, envelope, is_named=is_named) for envelope in envelopes]
    stored = []
    for outcome in await asyncio.gather(*outcomes):
        assert isinstance(outcome, Stored), outcome
        stored.append(outcome)
    return stored
