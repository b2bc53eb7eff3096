"""A fan-out with members that note what they hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge.transport import split_frames
from roomful.cluster.cursor import ShardName
from roomful.edge.encoding import Wire
from roomful.edge.fanout import Fanout
from roomful.edge.room import Carrier
from roomful.protocol.errors import Refused
from roomful.shard.memory import MemoryShard
from roomful.shard.message import Entry, RoomId, UserId
from shard.recording import make_envelope

SHARD = ShardName("m")
ROOM = RoomId("r")


class HoldingShard(MemoryShard):
    """A shard of which it is seen what is held, and whose holding can be made to wait or fail."""

    # Mutable state: the rooms held, in the end and on the way.
    def __init__(self) -> None:
        super().__init__()
        self.held: list[RoomId] = []
        self.gate: asyncio.Event | None = None
        self.fault: Refused | None = None

    async def hold(self, room: RoomId) -> None:
        """Hold *room* once the gate is open."""
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if room not in self.held:
            self.held.append(room)

    def release(self, room: RoomId) -> None:
        """No longer hold *room*."""
        if room in self.held:
            self.held.remove(room)


@dataclass(eq=False, slots=True)
class Member:
    """Implements Listener and Outbox: keeps what it hears."""

    user: UserId = UserId("alice")
    wire: Wire = Wire.CURSOR
    carrier: Carrier = Carrier.SOCKET
    is_congested: bool = False
    heard: list[bytes] = field(default_factory=list)
    out: bytes | None = None
    writes: int = 0
    on_queue: Callable[[], None] = lambda: None
    interrupted: list[bool] = field(default_factory=list)

    @property
    def outbox(self) -> Member | None:
        """Where frames go."""
        return self if self.carrier is Carrier.SOCKET else None

    def interrupt(self, *, can_resume: bool) -> None:
        """Remember it."""
        self.interrupted.append(can_resume)

    def flush(self) -> None:
        """Hear the frames of the batch."""
        out, self.out = self.out, None
        if out is not None:
            self.writes += 1
            self.heard += split_frames(out)

    def queue(self, packets: Sequence[bytes]) -> None:
        """Hear packets."""
        self.flush()
        self.heard += packets
        self.on_queue()


class Hall:
    """A fan-out on one shard."""

    def __init__(self) -> None:
        self.shard = HoldingShard()
        self.fanout = Fanout(self.shard)
        self.offset = 0

    async def add(self, member: Member, room: str = "r") -> Member:
        """Let *member* into *room*."""
        await self.fanout.enter(member, RoomId(room))
        return member

    def deliver(self, *rooms: str) -> list[int]:
        """Deliver a batch: an entry for each of *rooms*, grouped by room."""
        offsets = []
        for room in dict.fromkeys(rooms):
            entries = []
            for _ in range(rooms.count(room)):
                self.offset += 1
                offsets.append(self.offset)
                envelope = make_envelope(room, str(self.offset), body=b'{"n":%d' % self.offset)
                entries.append(Entry(self.offset, envelope))
            self.fanout.deliver(SHARD, RoomId(room), entries)
        self.fanout.flush()
        return offsets


def heard_offsets(member: Member) -> list[int]:
    """Give the offsets that *member* heard, by the cursor or the field of each packet."""
    return [
        int(packet.split(b'"offset":')[1].split(b"}")[0].split(b",")[0]) for packet in member.heard
    ]


async def turns(count: int) -> None:
    """Let the loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)
