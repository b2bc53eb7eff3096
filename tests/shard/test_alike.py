"""The embedded shard and one on Redis, asked the same: whatever is done, they answer alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from functions.server import PRODUCTS, RunningServer
from roomful.shard.base import SessionRecord, Shard, Stored
from roomful.shard.erasure import Erasure
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits, MemoryShard
from roomful.shard.message import Cast, Entry, RoomId, UserId
from roomful.shard.presence import PresenceLimits
from shard.recording import RecordingSink, make_envelope, publish
from shard.redis_site import RedisSite

ROOMS = [RoomId(name) for name in ("a", "b", "user:u", "c c")]
USERS = [UserId(name) for name in "uvwx"]
LOG = LogLimits(messages_per_room=4)
PRESENCE = PresenceLimits(grace_s=5, list_limit=2)
LIMITS = MemoryLimits(id_window_s=60)
STEPS_S = (0.701, 3.103, 7.307, 26.903)
"""Sums of these are no bound of ours: at the very millisecond either answer is right."""

T = TypeVar("T")


class Pair:
    """Both shards; what is asked is chosen by *chance*."""

    # Mutable state: per message its offset on either, and whether something was erased.
    def __init__(self, server: RunningServer, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)  # noqa: S311
        self.site = RedisSite(server)
        self.sinks = RecordingSink(), RecordingSink()
        self.memory = MemoryShard(
            log_limits=LOG, presence_limits=PRESENCE, limits=LIMITS, now=self.site.now
        )
        self.memory.attach(self.sinks[0])
        self.shards: tuple[Shard, Shard]
        self.offsets: list[tuple[int, int]] = []
        self.count = 0
        self.is_erased = False

    async def begin(self) -> None:
        """Hear all rooms."""
        redis = await self.site.make(self.sinks[1], log=LOG, presence=PRESENCE, limits=LIMITS)
        for room in ROOMS:
            await redis.hold(room)
        self.shards = self.memory, redis

    async def ask(self, ask: Callable[[int, Shard], Awaitable[T]]) -> tuple[T, T]:
        """Ask each, with its place in pairs."""
        memory, redis = self.shards
        return await ask(0, memory), await ask(1, redis)

    def one(self, options: Sequence[T]) -> T:
        """Choose."""
        return self.chance.choice(options)

    def place(self) -> tuple[int, int]:
        """Choose the offset of a message, or the beginning."""
        return self.one([(0, 0), *self.offsets])

    def known(self, which: int, offset: int) -> int:
        """Say how many messages there are up to *offset*: the same on both."""
        return sum(pair[which] <= offset for pair in self.offsets)

    # What is done ---------------------------------------------------------------------------

    async def publish(self) -> None:
        """A batch of one room; some with ids that may have been there."""
        room, batch = self.one(ROOMS), []
        for _ in range(self.chance.randrange(1, 6)):
            self.count += 1
            name, user = self.one(["i", "j", "k", ""]), self.one(USERS)
            body = b'{"n":%d' % self.count
            envelope = make_envelope(
                room, name or f"own{self.count}", user=user, body=body, at_s=self.site.now()
            )
            batch.append((envelope, bool(name)))

        async def ask(_which: int, shard: Shard) -> list[Any]:
            return await asyncio.gather(
                *(publish(shard, envelope, is_named=is_named) for envelope, is_named in batch)
            )

        for pair in zip(*await self.ask(ask), strict=True):
            one, other = pair
            assert isinstance(one, Stored)
            assert isinstance(other, Stored)
            assert one.timestamp == other.timestamp
            if (offsets := (one.offset, other.offset)) not in self.offsets:
                self.offsets.append(offsets)
        assert [other for _, other in self.offsets] == sorted({at for _, at in self.offsets})

    async def presence(self) -> None:
        """Somebody comes, goes, or says how they are."""
        room, user, connection = self.one(ROOMS), self.one(USERS), self.one("12")
        status, with_grace = self.one(["online", "busy"]), self.one([True, False])
        match self.chance.randrange(4):
            case 0 | 1:
                joined = await self.ask(lambda _, to: to.join(room, user, connection, status))
                assert len({self.known(*one) for one in enumerate(j.offset for j in joined)}) == 1
            case 2:
                await self.ask(
                    lambda _, to: to.leave(room, user, connection, with_grace=with_grace)
                )
            case 3:
                await self.ask(lambda _, to: to.set_status(room, user, status))
        members = await self.ask(lambda _, to: to.members(room))
        assert len({(tuple(one.members), one.count) for one in members}) == 1

    async def page(self) -> None:
        """A page from anywhere."""
        room, limit, off = self.one(ROOMS), self.one([1, 2, 3, 10]), self.one([0, 1])
        before, after = (self.one([None, self.place()]) for _ in range(2))
        one, other = await self.ask(
            lambda which, to: to.page(
                room,
                before=before and before[which] + off,
                after=after and after[which],
                limit=limit,
            )
        )
        assert bodies(one.entries) == bodies(other.entries)
        assert (one.next is None) == (other.next is None)
        assert self.known(0, one.next or 0) == self.known(1, other.next or 0)

    async def read(self) -> None:
        """A resume from anywhere, of one message or all."""
        rooms, limit, after = self.chance.sample(ROOMS, 2), self.one([1, 1 << 30]), self.place()
        joined = [self.one([(0, 0), self.place()]) for _ in rooms]
        one, other = await self.ask(
            lambda which, to: to.read(
                {room: at[which] for room, at in zip(rooms, joined, strict=True)},
                after[which],
                limit,
            )
        )
        if self.is_erased and one.holes != other.holes:
            # Allowed where something is gone: each has its own way of being careful.
            return
        assert one.holes == other.holes
        assert bodies(one.entries) == bodies(other.entries)
        assert self.known(0, one.reached) == self.known(1, other.reached)
        assert one.is_complete == other.is_complete

    async def session(self) -> None:
        """A record is written, or dropped, by whoever."""
        rooms = {self.one(ROOMS): self.count}
        record = SessionRecord(self.one("pq"), "s", self.one(USERS), rooms, self.one([1, 2, 3]))
        if self.one([True, True, False]):
            is_taken = self.one([True, False])
            one, other = await self.ask(
                lambda _, to: to.save_session(record, 20.0, is_taken=is_taken)
            )
            assert one == other
        else:
            await self.ask(lambda _, to: to.drop_session(record))
        loaded = await self.ask(lambda _, to: to.load_session(record.pid))
        assert loaded[0] == loaded[1]

    async def erase(self) -> None:
        """Rarely, or nothing would be left."""
        if self.chance.random() < 0.7:
            return
        at_ms = int(self.site.now() * 1000) - self.one([0, 10_000])
        room, user, offset, kind = self.one(ROOMS), self.one(USERS), self.place(), self.one("mru")

        def build(which: int) -> Erasure:
            if kind == "u":
                return Erasure(at_ms, "x", user=user)
            return Erasure(at_ms, "x", room=room, offset=offset[which] if kind == "m" else None)

        one, other = await self.ask(lambda which, to: to.erase(build(which)))
        assert one == other
        self.is_erased = True

    async def cast(self) -> None:
        """An event that is not stored."""
        for shard in self.shards:
            shard.cast(Cast(ROOMS[0], "typing", b'{"a":1}', None, is_volatile=True))

    async def pass_time(self) -> None:
        """On both, and what is due happens."""
        await self.site.pass_time(self.one(STEPS_S))
        self.memory._presence.sweep(self.site.now())

    # What was heard -------------------------------------------------------------------------

    async def check_heard(self) -> None:
        """Entries in the same order; of casts each room's, but for counts, which are sampled."""
        await self.site.catch_up()
        one, other = self.sinks
        assert bodies(one.entries) == bodies(other.entries)
        assert told(one) == told(other)


def bodies(entries: Sequence[Entry]) -> list[bytes]:
    """Give what tells messages apart."""
    return [entry.envelope.body for entry in entries]


def told(sink: RecordingSink) -> list[tuple[str, str, str, str | None]]:
    """Give what was cast, sorted: who leaves in one sweep has no order."""
    found = []
    for cast in sink.casts:
        body = msgspec.json.decode(cast.body, type=dict[str, Any])
        body.pop("timestamp", None)
        if cast.event != "presence-count":
            found.append((cast.room, cast.event, str(sorted(body.items())), cast.except_user))
    sink.casts.clear()
    return sorted(found, key=str)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("seed", range(6))
async def test_both_answer_alike(
    shard_servers: Callable[[str], RunningServer], product: str, seed: int
) -> None:
    """Offsets are compared by which messages they are of."""
    pair = Pair(shard_servers(product), seed)
    await pair.begin()
    try:
        for _ in range(100):
            do = pair.one(
                [
                    *(pair.publish, pair.publish, pair.presence, pair.presence, pair.page),
                    *(pair.read, pair.read, pair.session, pair.erase, pair.cast, pair.pass_time),
                ]
            )
            await do()
            await pair.check_heard()
    finally:
        await pair.site.aclose()
        await pair.memory.aclose()
