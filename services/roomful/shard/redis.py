"""
One shard on Redis, as an edge uses it: two connections that commit, one that listens, and one for
everything that is asked.

While Redis stores a batch the edge has nothing to do for it, and while the edge sends out what it
stored Redis has not. So there are two *lanes*, each with the batches of half of the buckets
(docs/adr/0027-two-lanes.md).

What is asked about a room, a bucket or a session is in room_calls.py; redis_shards.py is all
shards of a cluster.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import ShardRecord
from roomful.protocol.errors import Refused
from roomful.shard.base import Archived, Moved, Replay, Sink
from roomful.shard.batch import PublishRules
from roomful.shard.calls import Calls
from roomful.shard.commit import Commit, CommitLimits, CommitStatistics
from roomful.shard.durability import Durability
from roomful.shard.keys import LOGS, log_key, room_of
from roomful.shard.lease import Lease
from roomful.shard.message import Entry, RoomId
from roomful.shard.presence import PresenceLimits
from roomful.shard.publication import decode_read
from roomful.shard.reader import Reader, ReaderLimits
from roomful.shard.refusals import Elsewhere, unavailable
from roomful.shard.resp import Login, LostConnection
from roomful.shard.room_calls import RoomCalls
from roomful.telemetry.lasting import keep_going

__all__ = ["RedisShard", "ShardOptions"]

logger = logging.getLogger("roomful.shard")

LANES: Final = 2
SWEEP_S: Final = 1.0
SWEEP_STEPS: Final = 200
SCANNED: Final = 1_000
END_LEASE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """How an edge uses its shards."""

    login: Login = Login()
    rules: PublishRules = PublishRules()
    commit: CommitLimits = CommitLimits()
    reader: ReaderLimits = ReaderLimits()
    presence: PresenceLimits = field(default_factory=PresenceLimits)
    pending_bytes: int = 32 << 20
    """Bytes of publishes that may wait for one shard; more are refused with OVERLOADED."""
    call_timeout_s: float = 5.0
    """For everything that is asked, over all tries."""
    lease_s: float = 15.0
    """After so long without a word of an edge its members leave."""
    about: str = ""
    """What the edge says about itself under its lease, such as its address."""


class RedisShard:
    """One shard. Implements Home; what is asked about its rooms is *rooms*."""

    # Mutable state: the bytes that wait, and the tasks that keep it all up.
    def __init__(
        self,
        name: ShardName,
        edge: str,
        sink: Sink,
        options: ShardOptions,
        statistics: CommitStatistics,
    ) -> None:
        """
        Use the shard *name* for the edge *edge* (no other may have this name), once it is started
        and was told where it is.
        """
        self._name = name
        self._options = options
        self._tasks: list[asyncio.Task[None]] = []
        self.on_refused: Callable[[str], None] = _ignore
        """Hears why the shard refused a call of ours that is about no bucket."""
        self.on_up: Callable[[], None] = lambda: None
        """Called when there is a new connection."""
        self.on_swept: Callable[[], None] = lambda: None
        """Called when all of this edge's members left, and may join again."""
        self.lanes = [
            Commit(
                name,
                f"{edge}-{lane}",
                options.rules,
                limits=options.commit,
                statistics=statistics,
                login=options.login,
            )
            for lane in range(LANES)
        ]
        self.waiting_bytes = 0
        """Of all posts that were given to this shard's buckets and are not settled."""
        self.reader = Reader(name, edge, sink, login=options.login, limits=options.reader)
        self._calls = Calls(
            name, edge, timeout_s=options.call_timeout_s, login=options.login, on_up=self._connected
        )
        self._lease = Lease(
            name,
            edge,
            self._calls,
            life_s=options.lease_s,
            about=options.about,
            on_refused=lambda words: self.on_refused(words),
            on_swept=lambda: self.on_swept(),
        )
        self.rooms = RoomCalls(
            self._calls, self._lease, presence=options.presence, age_ms=options.rules.age_ms
        )

    def __repr__(self) -> str:
        return f"<RedisShard {self._name} term {self._calls.term}, {self.lanes}>"

    # Life -----------------------------------------------------------------------------------

    def retarget(self, record: ShardRecord, durability: Durability) -> None:
        """Use the primary of *record* in its term, from now on."""
        is_new = record.term != self._calls.term
        for lane in self.lanes:
            lane.retarget(record.primary, record.term, durability)
        self.reader.retarget(record.primary, record.term)
        self._calls.retarget(record.primary, record.term)
        if is_new:
            self._lease.renew_soon()

    def _connected(self) -> None:
        self._lease.renew_soon()
        self.on_up()

    def start(self) -> None:
        """Begin, in the running loop."""
        # In the order in which they end.
        self._spawn("lease", self._lease.run)
        self._spawn("sweep", self._sweep)
        self._spawn("reader", self.reader.run)
        for number, lane in enumerate(self.lanes):
            self._spawn(f"lane {number}", lane.run)
        self._spawn("calls", self._calls.run)

    def _spawn(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        lasting = keep_going(f"{what} of {self._name}", work)
        self._tasks.append(asyncio.get_running_loop().create_task(lasting))

    async def aclose(self) -> None:
        """Give the lease back and let go of everything; what waits has been settled before."""
        for task in self._tasks[:2]:
            task.cancel()
        await self._lease.end(END_LEASE_S)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    async def _sweep(self) -> None:
        """Do the shard's housekeeping; each edge does, so that any may be gone."""
        presence = self._options.presence
        limits = SWEEP_STEPS, int(presence.grace_s * 1000), presence.list_limit
        while True:
            has_more = 0
            try:
                has_more = await self._calls.call("sweep", (), *limits)
            except Elsewhere as exc:
                self.on_refused(exc.words)
            except (LostConnection, Refused):
                pass  # the log says so
            await asyncio.sleep(SWEEP_S * (0.05 if has_more else 0.75 + random.random() / 2))  # noqa: S311

    @property
    def is_up(self) -> bool:
        """Whether the shard takes messages from this edge, as far as is known."""
        return all(lane.is_up for lane in self.lanes)

    @property
    def is_idle(self) -> bool:
        """Whether no message waits for the shard or is under way to it."""
        return all(lane.is_idle for lane in self.lanes)

    def lane(self, bucket: int) -> Commit:
        """Give the lane of *bucket*: at most one batch with something of it is under way."""
        return self.lanes[bucket % LANES]

    @property
    def away_since(self) -> float:
        """Since when this edge has no connection to the shard, by the loop's time; inf: it has."""
        return math.inf if self._calls.is_up else self._calls.since

    def unready(self) -> str | None:
        """
        Say why clients would miss something here that they would not miss elsewhere.

        A shard that hangs is heard nowhere. One that did what it was asked, over a connection that
        was there all the time, after the reader had heard nothing for long, is not heard here.
        """
        silent_since = max(self.reader.proven_at, self._calls.since)
        if self._calls.is_up and self._calls.answered_at - silent_since > self.reader.silence_s:
            return f"shard {self._name} answers, and is not heard"
        return None

    # Home -----------------------------------------------------------------------------------

    @property
    def name(self) -> ShardName:
        """The logical name: it stays over failovers."""
        return self._name

    def position(self) -> int:
        """Give the offset up to which the sink has heard this shard."""
        return self.reader.position()

    async def read(
        self,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        upto: Mapping[RoomId, int] | None = None,
    ) -> Replay:
        """
        Give what *rooms* got after *after*.

        Raises:
            Refused: SHARD_UNAVAILABLE.
            Moved: a room is not here.
        """
        names, term = list(rooms), self._calls.term
        arguments = [after, limit_bytes, self._options.rules.age_ms, *rooms.values()]
        if upto is not None:
            arguments += [upto[room] for room in names]
        try:
            reply = await self._calls.call("read", [log_key(room) for room in names], *arguments)
        except (Elsewhere, LostConnection) as exc:
            if isinstance(exc, Elsewhere):
                self.on_refused(exc.words)
                if exc.words.startswith(("MOVED ", "FROZEN ")):
                    raise Moved(exc.words) from exc
            raise unavailable(self._name, exc) from exc
        reached, is_complete, packed, holes = reply
        if holes:
            return Replay((), after, is_complete=False, holes=[names[index] for index in holes])
        found, unreadable = decode_read(packed)
        if unreadable:
            logger.error("entries unreadable", extra={"shard": self._name, "count": unreadable})
        entries = [Entry(one.offset, one.envelope) for one in found]
        if upto is None:
            for one in found:
                self.reader.stream.note(names[one.place], one.offset)
            await self.reader.heard(reached)
            if term != self._calls.term:
                # What was read may be what the next primary does not have.
                raise Moved(f"{self._name} to another primary")
        return Replay(entries, reached, is_complete=bool(is_complete))

    async def archived(self) -> Archived:
        """
        Give how far the archive has what this shard stored.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        try:
            reply = await self._calls.call_in_any_term("outbox")
        except (Elsewhere, LostConnection) as exc:
            raise unavailable(self._name, exc) from exc
        newest, oldest, age_ms, entries, size, missing = reply
        return Archived(oldest - 1 if oldest else newest, missing, entries, size, age_ms)

    # The whole shard ------------------------------------------------------------------------

    async def logs(self) -> Sequence[RoomId]:
        """
        Give the rooms that have a log here.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        rooms: set[RoomId] = set()
        cursor: bytes | int = 0
        try:
            while cursor != b"0":
                cursor, keys = await self._calls.scan(cursor, LOGS, SCANNED)
                rooms.update(map(room_of, keys))
        except (Elsewhere, LostConnection) as exc:
            raise unavailable(self._name, exc) from exc
        return sorted(rooms)

    async def ask(self, function: str, *args: bytes | str | int) -> Any:
        """
        Call a function that is about the whole shard, in its term.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        try:
            return await self._calls.call(function, (), *args)
        except (Elsewhere, LostConnection) as exc:
            if isinstance(exc, Elsewhere):
                self.on_refused(exc.words)
            raise unavailable(self._name, exc) from exc

    async def edges(self) -> list[str]:
        """
        Give what the edges with a lease here say about themselves.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        try:
            reply = await self._calls.call_in_any_term("edges")
        except (Elsewhere, LostConnection) as exc:
            raise unavailable(self._name, exc) from exc
        return [about.decode(errors="replace") for about in reply[1::2]]


def _ignore(_words: str) -> None:
    """Nobody wants to know."""
