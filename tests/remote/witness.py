"""Edges whose topology a test decides, and a witness of all that they hear while rooms move."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from functions.moving import Journey, Segment, lineage
from remote.cluster import Cluster
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.cluster.topology import Topology
from roomful.protocol.errors import Refused
from roomful.shard.base import Stored
from roomful.shard.batch import PublishRules
from roomful.shard.commit import CommitLimits
from roomful.shard.directory import Directory
from roomful.shard.message import Cast, Entry, RoomId
from roomful.shard.reader import ReaderLimits
from roomful.shard.redis import ShardOptions
from roomful.shard.redis_shards import RedisShards
from shard.recording import make_envelope
from support.deadline import DEADLINE_S, until
from support.proxy import Proxy
from support.users import EDGE

__all__ = [
    "OPTIONS",
    "Watch",
    "Witness",
    "build_shards",
    "check",
    "journey_of",
    "rooms_on",
    "watching",
]

OPTIONS = ShardOptions(
    commit=CommitLimits(batch_messages=16, wait_s=0.2, publish_timeout_s=DEADLINE_S),
    rules=PublishRules(),
    reader=ReaderLimits(canary_s=0.1, deaf_after_s=1.0, hold_s=1.0),
    call_timeout_s=DEADLINE_S,
)


@dataclass(slots=True)
class Step:
    """One thing that a sink was told."""

    shard: ShardName
    offset: int
    """The position of that shard from then on."""
    room: RoomId | None = None
    offsets: tuple[int, ...] = ()


@dataclass
class Witness:
    """Implements Sink: keeps everything, to compare it with what is stored in the end."""

    steps: list[Step | RoomId] = field(default_factory=list)
    """What was delivered and reached; a room alone: its members were closed."""
    begun: dict[RoomId, int] = field(default_factory=dict)
    """Per room the number of steps when it was held."""

    def deliver(self, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        """Keep it."""
        offsets = tuple(entry.offset for entry in entries)
        self.steps.append(Step(shard, offsets[-1], room, offsets))

    def reach(self, shard: ShardName, offset: int) -> None:
        """Keep it."""
        self.steps.append(Step(shard, offset))

    def lose(self, shard: ShardName, rooms: Sequence[RoomId], *, can_resume: bool) -> None:
        """Keep it."""
        self.steps += rooms

    def cast(self, cast: Cast) -> None:
        """It says nothing."""

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def lost(self) -> list[RoomId]:
        """Rooms whose members were closed."""
        return [step for step in self.steps if isinstance(step, str)]

    def heard(self, room: str) -> list[int]:
        """Give the offsets of what was delivered of a room."""
        steps = [one for one in self.steps if isinstance(one, Step) and one.room == room]
        return [offset for step in steps for offset in step.offsets]

    def check(
        self,
        stored: Mapping[str, Sequence[int]],
        segments: Mapping[str, Sequence[Segment]],
        homes: Mapping[str, ShardName],
    ) -> None:
        """
        Compare with what is *stored* by room.

        What each room's members heard between two closings is a piece of its log without a gap,
        and at no moment did a cursor of then say of something that it was heard, if it was not.
        """
        for room, log in stored.items():
            shard_of = {offset: _origin(offset, segments[room], homes[room]) for offset in log}
            self._check_room(RoomId(room), log, shard_of)

    def _check_room(
        self, room: RoomId, log: Sequence[int], shard_of: Mapping[int, ShardName]
    ) -> None:
        cursor: dict[ShardName, int] = {}
        heard: list[int] = []
        is_open = True
        for number, step in enumerate(self.steps):
            if isinstance(step, str):
                if step == room:
                    # Whoever resumes from here must be told, or find in the logs, what is missing.
                    is_open, heard = False, []
                continue
            cursor[step.shard] = max(cursor.get(step.shard, 0), step.offset)
            if number < self.begun[room]:
                continue
            if step.room == room:
                is_open = True
                heard += step.offsets
                at = log.index(heard[0])
                assert heard == list(log[at : at + len(heard)]), f"{room}: not a piece of its log"
            if is_open and heard:
                newest = heard[-1]
                hidden = [
                    offset
                    for offset in log
                    if offset > newest and offset <= cursor.get(shard_of[offset], 0)
                ]
                assert not hidden, f"{room}: {hidden} hidden by {cursor} at step {number}"


def _origin(offset: int, segments: Sequence[Segment], home: ShardName) -> ShardName:
    return next((ShardName(one.shard) for one in segments if offset <= one.upto), home)


class _FixedDirectory(Directory):
    """Knows one topology, and hears of no other."""

    def __init__(self, topology: Topology) -> None:
        super().__init__((), EDGE)
        self.topology = topology

    async def find(self) -> Topology:
        """Give it."""
        assert self.topology is not None
        return self.topology

    async def run(self) -> None:
        """Nothing changes."""
        await asyncio.Event().wait()


@dataclass
class Watch:
    """An edge that hears its shards through proxies, and a sender of its own."""

    name: str
    shards: RedisShards
    sink: Witness
    proxies: Mapping[ShardName, Proxy]
    stored: dict[str, dict[str, int]] = field(default_factory=dict)
    """What was acknowledged: per room the offsets by name."""
    pending: int = 0

    async def hold(self, *rooms: str) -> None:
        """Let somebody into each of *rooms*."""
        for room in rooms:
            await self.shards.hold(RoomId(room))
            self.sink.begun[RoomId(room)] = len(self.sink.steps)

    def send(self, *rooms: str) -> None:
        """Publish one message into each of *rooms*."""
        for room in rooms:
            names = self.stored.setdefault(room, {})
            name = f"{self.name}-{len(names)}"
            names[name] = 0
            self.pending += 1

            def settle(
                outcome: Stored | Refused, names: dict[str, int] = names, name: str = name
            ) -> None:
                assert isinstance(outcome, Stored), outcome
                names[name] = outcome.offset
                self.pending -= 1

            body = b'{"id":"%b","roomId":"%b"' % (name.encode(), room.encode())
            self.shards.publish(make_envelope(room, name, body=body), settle, is_named=True)

    async def settled(self) -> None:
        """Wait until everything is acknowledged."""
        await until(lambda: not self.pending)

    async def until_heard(self, room: str, offset: int) -> None:
        """Wait until an entry was delivered."""
        await until(lambda: offset in self.sink.heard(room), seconds=2 * DEADLINE_S)


async def build_shards(
    cluster: Cluster,
    stack: AsyncExitStack,
    *,
    topology: Topology | None = None,
    options: ShardOptions = OPTIONS,
) -> tuple[RedisShards, Mapping[ShardName, Proxy]]:
    """Make an edge's shards behind proxies, not started: in *topology*, or that of the cluster."""
    topology = topology or cluster.topology
    assert topology is not None
    proxies = {
        name: await stack.enter_async_context(Proxy.before(one.primary.port))
        for name, one in cluster.members.items()
    }
    records = {
        name: msgspec.structs.replace(
            record, primary=msgspec.structs.replace(record.primary, port=proxies[name].port)
        )
        for name, record in topology.shards.items()
    }
    directory = _FixedDirectory(msgspec.structs.replace(topology, shards=records))
    name = f"edge{random.randrange(1 << 40)}"  # noqa: S311
    return RedisShards(directory, name, options), proxies


@asynccontextmanager
async def watching(cluster: Cluster) -> AsyncIterator[Watch]:
    """Run an edge that hears rooms for a witness."""
    async with AsyncExitStack() as stack:
        shards, proxies = await build_shards(cluster, stack)
        sink = Witness()
        shards.attach(sink)
        await shards.start()
        try:
            yield Watch(shards._edge, shards, sink, proxies)
        finally:
            await shards.aclose()


def rooms_on(shards: RedisShards, shard: str, count: int) -> list[str]:
    """Give names of *count* rooms of one bucket on *shard*, never used before."""
    bucket = next(
        number
        for number in iter(lambda: random.randrange(1024), None)  # noqa: S311
        if shards.routes[number].shard.name == shard
    )
    names: list[str] = []
    while len(names) < count:
        name = f"room{random.randrange(1 << 48):x}"  # noqa: S311
        if bucket_of(name) == bucket:
            names.append(name)
    return names


def journey_of(cluster: Cluster, room: str, to: str) -> Journey:
    """Begin an attempt to move a room's bucket to the shard *to*, from wherever it is."""
    tag = f"{{{bucket_of(room)}}}"
    (source,) = [
        one for one in cluster.members.values() if one.calls.record(tag).startswith("OWNED")
    ]
    version = int(source.calls.record(tag).split()[1])
    target = cluster.members[ShardName(to)]
    migration = f"m{random.randrange(1 << 40)}"  # noqa: S311
    return Journey(source.calls, target.calls, tag, migration, version, origin=source.name, to=to)


def segments_of(cluster: Cluster, room: str) -> tuple[ShardName, list[Segment]]:
    """Give where a room is, and where what is in it was stored."""
    tag = f"{{{bucket_of(room)}}}"
    (home,) = [one for one in cluster.members.values() if one.calls.record(tag).startswith("OWNED")]
    return home.name, lineage(home.calls, tag)[1]


def check(cluster: Cluster, watch: Watch, *rooms: str) -> None:
    """Compare what *watch* heard of *rooms* with what is stored in the end."""
    homes, segments, stored = {}, {}, {}
    for room in rooms:
        homes[room], segments[room] = segments_of(cluster, room)
        calls = cluster.members[homes[room]].calls
        found = calls.command("XRANGE", f"{{{bucket_of(room)}}}l:{room}", "-", "+")
        stored[room] = [int(one[0].split(b"-")[0]) for one in found]
    watch.sink.check(stored, segments, homes)
