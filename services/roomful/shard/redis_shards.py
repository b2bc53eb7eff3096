"""
All shards of a cluster, as one place where rooms are: each room's bucket says its shard.

The topology says which shard owns a bucket, and the shards know better: their refusals (`MOVED`,
`FROZEN`, `VERSION`, `STALE_TERM`) are believed at once, and a newer topology is asked for.

Where each bucket is and the order of its messages are in routes.py, where it was before in
lineages.py, where rooms are heard in holding.py. What waits is bounded in bytes and time like all
publishes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.cluster.topology import Topology
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Joined, Lineage, Members, Page, SessionRecord, Settle, Sink
from roomful.shard.commit import CommitStatistics
from roomful.shard.directory import Directory
from roomful.shard.durability import Durability
from roomful.shard.erasure import Erasure
from roomful.shard.fsync import check_fsync
from roomful.shard.holding import Holding, Place
from roomful.shard.keys import log_place
from roomful.shard.lineages import Lineages
from roomful.shard.message import Cast, Envelope, RoomId, UserId
from roomful.shard.post import Post
from roomful.shard.redis import RedisShard, ShardOptions
from roomful.shard.refusals import Elsewhere, unavailable
from roomful.shard.resp import LostConnection, pack
from roomful.shard.routes import RETRY_S, Route, Routes
from roomful.telemetry.lasting import keep_going

__all__ = ["RedisShards"]

logger = logging.getLogger("roomful.shard")

TICK_S: Final = 0.25
"""How often it is looked for messages that are over their time."""
CLOSE_S: Final = 5.0
"""How long messages may take that are under way when the edge ends."""

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


class RedisShards:
    """Implements Shards over Redis."""

    # Mutable state: the topology; the shards by name; each bucket's route; the rooms held, with
    # the shard that each is heard on.
    def __init__(self, directory: Directory, edge: str, options: ShardOptions) -> None:
        """
        Use the cluster that *directory* finds.

        Args:
            edge: a name that no other edge ever has.
        """
        self._directory = directory
        self._edge = edge
        self._options = options
        self.statistics = CommitStatistics()
        self.topology: Topology | None = None
        self.shards: dict[ShardName, RedisShard] = {}
        self.on_swept: Callable[[ShardName], None] = lambda _shard: None
        """Called when all members of this edge left a shard's rooms, and may join again."""
        self.on_moved: Callable[[ShardName, int], None] = lambda _shard, _bucket: None
        """Called when a bucket's rooms are heard on another shard: members join again there."""
        self.on_up: Callable[[ShardName], None] = lambda _shard: None
        """Called when there is a new connection to a shard."""
        self.channels: dict[bytes, Callable[[bytes], None]] = {}
        """What else is heard on every shard, by channel; to be filled before start()."""
        self._lineages = Lineages()
        self.holding = Holding(self.shards, self._place_of, self._get_sink)
        self.holding.on_moved = lambda shard, bucket: self.on_moved(shard.name, bucket)
        self.routes = Routes(self.shards, ask_soon=directory.ask_soon, expect=self.holding.expect)
        self.holding.on_arrival = self.routes.take_arrival
        self._sink: Sink | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._timeout_s = options.commit.publish_timeout_s

    def __repr__(self) -> str:
        generation = self.topology.generation if self.topology else 0
        return f"<RedisShards generation {generation}, {len(self.routes.closed)} buckets closed>"

    # Life -----------------------------------------------------------------------------------

    def attach(self, sink: Sink) -> None:
        """Give the sink; before start()."""
        self._sink = sink

    def _get_sink(self) -> Sink:
        assert self._sink is not None, "attach a sink first"
        return self._sink

    async def start(self) -> None:
        """
        Find the topology, and hear every shard that is there.

        Raises:
            NoTopology: nobody knows it, saying who was asked.
            CannotFsync: a server is too old for the durability that the cluster says.
        """
        self._directory.on_topology = self.apply
        topology = await self._directory.find()
        await check_fsync(topology, self._options.login)
        self.apply(topology)
        self._spawn(keep_going("topology", self._directory.run))
        self._spawn(keep_going("expiry", self._tick))
        loop = asyncio.get_running_loop()
        # Cursors should name every shard from the first client on; one that is away must not
        # keep the others' clients out.
        end = loop.time() + self._options.call_timeout_s
        while loop.time() < end and not self._is_heard():  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(0.01)

    def _is_heard(self) -> bool:
        return all(shard.position() for shard in self.shards.values())

    async def aclose(self) -> None:
        """Settle what is under way, bounded in time, and let go of everything."""
        self._is_ending = True
        loop = asyncio.get_running_loop()
        end = loop.time() + CLOSE_S
        while loop.time() < end and not self._is_idle():  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.005)
        refused = Refused(RefusalCode.DRAINING, "this edge is going away")
        for shard in self.shards.values():
            for lane in shard.lanes:
                lane.refuse_all(refused)
        self.routes.refuse_all(refused)
        await self.holding.aclose()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(shard.aclose() for shard in self.shards.values()))

    def _is_idle(self) -> bool:
        return not self.routes.closed and all(one.is_idle for one in self.shards.values())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("task failed", exc_info=exc)

    async def _tick(self) -> None:
        """Refuse what could not be stored in time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for shard in self.shards.values():
                for lane in shard.lanes:
                    lane.expire(now)
            for route, post in self.routes.late(now):
                self.statistics.expired += 1
                post.end(unavailable(route.shard.name, "nothing was stored in time"))

    def unready(self) -> str | None:
        """
        Say why no client should come here now, and rather to another edge.

        What is wrong with a shard is wrong for all edges, and is no reason. One that has reached no
        shard for as long as its leases live is not an edge of the cluster any more.
        """
        lapsed_at = asyncio.get_running_loop().time() - self._options.lease_s
        if all(one.away_since < lapsed_at for one in self.shards.values()):
            return f"no shard was reached for {self._options.lease_s:g} s"
        return next((why for one in self.shards.values() if (why := one.unready())), None)

    @property
    def closed_buckets(self) -> int:
        """How many buckets have messages that wait for their shard to take them."""
        return len(self.routes.closed)

    # Routes ---------------------------------------------------------------------------------

    def shard_of(self, room: str) -> RedisShard:
        """Give the shard that has *room* now."""
        return self.routes[bucket_of(room)].shard

    def _place_of(self, room: RoomId) -> Place:
        route = self.routes[bucket_of(room)]
        return Place(route.shard, route.version)

    def heard(self, room: RoomId) -> int:
        """Give up to where *room* was heard, on the shard where it is heard now."""
        return self.holding.heard(room)

    def shard_named(self, name: ShardName) -> RedisShard | None:
        """Give a shard by its name."""
        return self.shards.get(name)

    async def lineage(self, room: RoomId) -> Lineage:
        """Give where *room* is and was; asked once for each version of its bucket."""
        known = self._lineages.find(self.routes[bucket_of(room)])
        if known is not None:
            return known
        return await self._ask(room, self._lineages.ask)

    def positions(self) -> Mapping[ShardName, int]:
        """Give how far the sink has heard each shard."""
        return {name: shard.position() for name, shard in self.shards.items()}

    def apply(self, topology: Topology) -> None:
        """Use *topology* from now on, if it is newer."""
        if not topology.newer_than(self.topology):
            return
        is_first = self.topology is None
        self.topology = topology
        durability = Durability(topology.acks, topology.is_fsynced)
        for name, record in topology.shards.items():
            if name not in self.shards:
                self._add_shard(name)
            self.shards[name].retarget(record, durability)
        if is_first:
            self.routes.begin(topology)
            self.holding.versions[:] = topology.versions
            return
        self.routes.follow(topology)
        for name in [name for name in self.shards if name not in topology.shards]:
            self._remove_shard(self.shards.pop(name))

    def _add_shard(self, name: ShardName) -> None:
        shard = RedisShard(name, self._edge, self._get_sink(), self._options, self.statistics)
        self.shards[name] = shard
        shard.on_refused = shard.reader.on_refused = self.routes.hear_refusal
        shard.on_swept = lambda: self.on_swept(name)
        shard.on_up = lambda: self.on_up(name)
        shard.reader.channels.update(self.channels)
        shard.reader.channels[b"roomful:topology"] = self._directory.hear
        shard.reader.channels[b"roomful:arrivals"] = lambda words: self.holding.hear(shard, [words])
        shard.reader.on_arrivals = lambda table: self.holding.hear(
            shard, [b" ".join(pair) for pair in zip(table[::2], table[1::2], strict=True)]
        )
        for lane in shard.lanes:
            lane.on_refused = self.routes.hear_refusal
            lane.on_closed = self.routes.take_back
        shard.start()

    def _remove_shard(self, shard: RedisShard) -> None:
        """It owns nothing any more: let it end what it has."""

        async def end() -> None:
            while not shard.is_idle:  # noqa: ASYNC110 - rare
                await asyncio.sleep(TICK_S)
            await shard.aclose()

        self._spawn(end())

    # Rooms ----------------------------------------------------------------------------------

    def publish(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """Store *envelope* on its room's shard; *settle* hears when it is safe."""
        bucket, key = log_place(envelope.room)
        route = self.routes[bucket]
        shard = route.shard
        size = envelope.size
        if self._is_ending or shard.waiting_bytes + size > self._options.pending_bytes:
            self.statistics.refused += 1
            settle(
                Refused(RefusalCode.DRAINING, "this edge is going away")
                if self._is_ending
                else Refused(RefusalCode.OVERLOADED, "the shard has too much waiting")
            )
            return
        user = envelope.user
        # A user's own ids cannot be taken for an edge's: they begin with a digit.
        identity = f"{len(user.encode())}:{user}{envelope.name}" if is_named else "~" + envelope.id
        due = asyncio.get_running_loop().time() + self._timeout_s
        post = Post(
            shard, route, key, identity, envelope.timestamp, _encode(envelope), settle, size, due
        )
        if route.waiting is None:
            shard.lane(bucket).add(post)
        else:
            route.waiting.append(post)

    def cast(self, cast: Cast) -> None:
        """Send an event to the room now, or never."""
        body = _encode((1, cast.event, cast.body, cast.except_user, cast.is_volatile))
        bucket = bucket_of(cast.room)
        lane = self.routes[bucket].shard.lane(bucket)
        lane.cast(pack("PUBLISH", "r:" + cast.room, body))

    async def hold(self, room: RoomId) -> None:
        """Hear *room* from now on."""
        await self.holding.hold(room)

    def release(self, room: RoomId) -> None:
        """No longer hear *room*."""
        self.holding.release(room)

    async def join(self, room: RoomId, user: UserId, connection: str, status: str) -> Joined:
        """Record *connection* of *user* in the room's presence."""
        return await self._ask(
            room, lambda to: to.shard.rooms.join(to.version, room, user, connection, status)
        )

    async def leave(self, room: RoomId, user: UserId, connection: str, *, with_grace: bool) -> None:
        """Take *connection* out of the room's presence."""
        await self._ask(
            room,
            lambda to: to.shard.rooms.leave(
                to.version, room, user, connection, with_grace=with_grace
            ),
        )

    async def set_status(self, room: RoomId, user: UserId, status: str) -> None:
        """Change the user's status in the room's presence."""
        await self._ask(room, lambda to: to.shard.rooms.set_status(to.version, room, user, status))

    async def members(self, room: RoomId) -> Members:
        """Give who is in the room."""
        return await self._ask(room, lambda to: to.shard.rooms.members(room))

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of the room's log."""
        return await self._ask(
            room, lambda to: to.shard.rooms.page(room, before=before, after=after, limit=limit)
        )

    async def erase(self, erasure: Erasure) -> int:
        """Let go of what *erasure* covers in the hot logs, room by room."""
        rooms = [erasure.room] if erasure.room is not None else await self._all_rooms()
        return sum([await self._erase(room, erasure) for room in rooms])

    async def _all_rooms(self) -> Sequence[RoomId]:
        # Twice: a bucket may go to a shard that was asked from one that was not. And copies, since
        # shards come and go while one of them answers.
        found: dict[RoomId, None] = {}
        for _ in range(2):
            for shard in tuple(self.shards.values()):
                found |= dict.fromkeys(await shard.logs())
        return tuple(found)

    async def _erase(self, room: RoomId, erasure: Erasure) -> int:
        return await self._ask(room, lambda to: to.shard.rooms.erase(to.version, room, erasure))

    async def save_session(
        self, record: SessionRecord, ttl_s: float, *, is_taken: bool = False
    ) -> bool:
        """Keep *record*; False: somebody else has taken the session up."""
        return await self._ask(
            record.pid,
            lambda to: to.shard.rooms.save_session(to.version, record, ttl_s, is_taken=is_taken),
        )

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Give the record of *pid* if it is still kept."""
        return await self._ask(pid, lambda to: to.shard.rooms.load_session(pid))

    async def drop_session(self, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        await self._ask(record.pid, lambda to: to.shard.rooms.drop_session(to.version, record))

    async def _ask(self, name: str, ask: Callable[[Route], Awaitable[T]]) -> T:
        """
        Ask where *name* is, and again where it is then, for a bounded time.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        route = self.routes[bucket_of(name)]
        why: object = "no answer"
        try:
            async with asyncio.timeout(self._options.call_timeout_s):
                while True:
                    try:
                        return await ask(route)
                    except Elsewhere as exc:
                        why = exc
                        delay_s = self.routes.learn(route, exc.words)
                    except LostConnection as exc:
                        why, delay_s = exc, RETRY_S
                    await asyncio.sleep(delay_s * (0.75 + random.random() / 2))  # noqa: S311
        except TimeoutError:
            raise unavailable(route.shard.name, why) from None
