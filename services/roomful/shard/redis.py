"""
One shard on Redis, as an edge uses it: two connections that commit, one that listens, and one for
everything that is asked.

While Redis stores a batch the edge has nothing to do for it, and while the edge sends out what it
stored Redis has not. So there are two *lanes*, each with the batches of half of the buckets
(docs/adr/0027-two-lanes.md).

What is asked goes over one pipelined connection too, and not over a pool of redis-py's: ten
thousand clients that join at once would need as many connections, or wait for each other.

The edge has a *lease* on the shard, which covers its members in presence: it is renewed three
times in its life, and when the edge dies its members leave by themselves. One that lapsed never
comes back: the edge takes another name and joins everything again (on_swept).

A call about a bucket that is not here, or in another term, raises Elsewhere: routing.py knows
what to do.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.lineage import Segment
from roomful.cluster.placement import bucket_of
from roomful.cluster.topology import ShardRecord
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import (
    PAGE_BYTES,
    Archived,
    Entry,
    Erasure,
    Joined,
    Member,
    Members,
    Moved,
    Page,
    Replay,
    RoomId,
    SessionRecord,
    Sink,
    UserId,
    user_room,
)
from roomful.shard.commit import (
    Commit,
    CommitLimits,
    CommitStatistics,
    Durability,
    PublishRules,
)
from roomful.shard.link import Link
from roomful.shard.presence import PresenceLimits
from roomful.shard.publication import decode_read
from roomful.shard.reader import Reader, ReaderLimits
from roomful.shard.resp import Login, LostConnection, ReplyError

__all__ = ["Elsewhere", "RedisShard", "ShardOptions", "unavailable"]

logger = logging.getLogger("roomful.shard")

LANES: Final = 2
SWEEP_S: Final = 1.0
SWEEP_STEPS: Final = 200
SCANNED: Final = 1_000
UNKNOWN: Final = "not_known"

# What a primary says when it is not, or cannot yet: the same call may do later, or elsewhere.
_NOT_NOW: Final = (
    *("LOADING", "READONLY", "BUSY", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "OOM"),
    "MISCONF",  # its disk is full
    *("NOAUTH", "NOPERM"),  # its users are being changed
)


class Elsewhere(Exception):
    """
    The shard does not take this now, and changed nothing.

    *words* say why: `MOVED 7 s2`, `FROZEN 120`, `VERSION 8`, `STALE_TERM 3`, or what Redis said.
    """

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


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
    """One shard. Implements Home, and what a Rooms needs of it for its own rooms."""

    # Mutable state: the term and address; the lease's name; and the tasks that keep it all up.
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
        self._edge = edge
        self._options = options
        self._term = 0
        self._lease_number = 0
        self._leased = asyncio.Event()
        self._renew = asyncio.Event()
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
        self._link = Link(
            f"roomful-calls-{edge}",
            timeout_s=options.call_timeout_s,
            login=options.login,
            on_up=self._connected,
        )

    def __repr__(self) -> str:
        return f"<RedisShard {self._name} term {self._term}, {self.lanes}>"

    # Life -----------------------------------------------------------------------------------

    def retarget(self, record: ShardRecord, durability: Durability) -> None:
        """Use the primary of *record* in its term, from now on."""
        is_new = record.term != self._term
        self._term = record.term
        for lane in self.lanes:
            lane.retarget(record.primary, record.term, durability)
        self.reader.retarget(record.primary, record.term)
        self._link.retarget(record.primary)
        if is_new:
            self._renew.set()

    def _connected(self) -> None:
        self._renew.set()
        self.on_up()

    def start(self) -> None:
        """Begin, in the running loop."""
        loop = asyncio.get_running_loop()
        lanes = (lane.run for lane in self.lanes)
        keep = (self._keep_lease, self._sweep, self.reader.run, self._link.run, *lanes)
        self._tasks = [loop.create_task(run(), name=f"{run.__name__} {self._name}") for run in keep]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def aclose(self) -> None:
        """Give the lease back and let go of everything; what waits has been settled before."""
        for task in self._tasks[:2]:
            task.cancel()
        if self._leased.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self._fcall("end_lease", (), self._term, self._lease)
            except (Elsewhere, LostConnection, Refused, TimeoutError) as exc:
                logger.warning("lease not given back", extra={"shard": self._name, "why": str(exc)})
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

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

    def unready(self) -> str | None:
        """Say why clients would miss something here that they would not miss elsewhere."""
        if self.is_up and self.reader.is_deaf:
            return f"shard {self._name} is not heard"
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
        names, term = list(rooms), self._term
        arguments = [after, limit_bytes, self._options.rules.age_ms, *rooms.values()]
        if upto is not None:
            arguments += [upto[room] for room in names]
        try:
            reply = await self._fcall(
                "read", [_log(room) for room in names], self._term, *arguments
            )
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
            if term != self._term:
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
            newest, oldest, age_ms, entries, size, missing = await self._fcall("outbox", ())
        except (Elsewhere, LostConnection) as exc:
            raise unavailable(self._name, exc) from exc
        return Archived(oldest - 1 if oldest else newest, missing, entries, size, age_ms)

    async def logs(self) -> Sequence[RoomId]:
        """
        Give the rooms that have a log here.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        rooms: set[RoomId] = set()
        cursor: bytes | int = 0
        try:
            while True:
                words = "SCAN", cursor, "MATCH", "{*}l:*", "COUNT", SCANNED
                cursor, keys = await self._link.call(*words)
                rooms.update(RoomId(key.split(b"}l:", 1)[1].decode()) for key in keys)
                if cursor == b"0":
                    return sorted(rooms)
        except (LostConnection, ReplyError) as exc:
            raise unavailable(self._name, exc) from exc

    # Rooms: these raise what _fcall() does ----------------------------------------

    async def join(
        self, version: int, room: RoomId, user: UserId, connection: str, status: str
    ) -> Joined:
        """Record *connection* of *user* in the room's presence."""
        await self._leased.wait()
        limit = self._options.presence.list_limit
        who = (self._lease, connection, user, status)
        try:
            newest, *listed = await self._fcall(
                "join", [_key("p", room)], self._term, version, *who, limit, limit
            )
        except Elsewhere as exc:
            if exc.words == "NO_LEASE":
                self._renew.set()
            raise
        return Joined(newest, _members(listed))

    async def leave(
        self, version: int, room: RoomId, user: UserId, connection: str, *, with_grace: bool
    ) -> None:
        """Take *connection* out of the room's presence."""
        presence = self._options.presence
        grace_ms = int(presence.grace_s * 1000) if with_grace else 0
        who = (self._lease, connection, user)
        await self._fcall(
            "leave", [_key("p", room)], self._term, version, *who, grace_ms, presence.list_limit
        )

    async def set_status(self, version: int, room: RoomId, user: UserId, status: str) -> None:
        """Change the user's status in the room's presence."""
        await self._fcall("set_status", [_key("p", room)], self._term, version, user, status)

    async def members(self, room: RoomId) -> Members:
        """Give who is in the room."""
        limit = self._options.presence.list_limit
        return _members(await self._fcall("members", [_key("p", room)], self._term, limit))

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of the room's log."""
        bounds = ["" if bound is None else bound for bound in (before, after)]
        age_ms = self._options.rules.age_ms
        following, packed = await self._fcall(
            "page", [_log(room)], self._term, *bounds, limit, PAGE_BYTES, age_ms
        )
        return Page(_entries(packed), following or None)

    async def lineage(self, bucket: int) -> Sequence[Segment]:
        """Give where what is in a bucket that is here was stored, oldest first."""
        _, packed = await self._fcall("lineage", [b"{%d}b" % bucket], self._term)
        return [
            Segment(shard, upto, [(kept, began) for began, kept in terms])
            for shard, upto, terms, _ in _lineage(packed)
        ]

    async def erase(self, version: int, room: RoomId, erasure: Erasure) -> int:
        """Let go of what *erasure* covers in the room's log."""
        offset = "" if erasure.offset is None else erasure.offset
        # All of a user's own room goes.
        user = "" if erasure.user is None or room == user_room(erasure.user) else erasure.user
        what = (erasure.at_ms, offset, user)
        return int(await self._fcall("erase", [_log(room)], self._term, version, *what))

    async def save_session(
        self, version: int, record: SessionRecord, ttl_s: float, *, is_taken: bool
    ) -> bool:
        """Keep *record*; False: somebody else has taken the session up."""
        packed = msgspec.msgpack.encode(record)
        what = (record.generation, packed, int(ttl_s * 1000), int(is_taken))
        key = _key("o", record.pid)
        return bool(await self._fcall("save_session", [key], self._term, version, *what))

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Give the record of *pid* if it is still kept."""
        packed = await self._fcall("load_session", [_key("o", pid)], self._term)
        return None if packed is None else _record(packed)

    async def drop_session(self, version: int, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        key = _key("o", record.pid)
        await self._fcall("drop_session", [key], self._term, version, record.generation)

    async def ask(self, function: str, *args: bytes | str | int) -> Any:
        """
        Call a function that is about the whole shard, in its term.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        try:
            return await self._fcall(function, (), self._term, *args)
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
            reply = await self._fcall("edges", ())
        except (Elsewhere, LostConnection) as exc:
            raise unavailable(self._name, exc) from exc
        return [about.decode() for about in reply[1::2]]

    async def _fcall(self, function: str, keys: Sequence[bytes], *args: bytes | str | int) -> Any:
        """
        Call a function.

        Raises:
            Elsewhere: it may do later, or on another server.
            LostConnection: no reply came.
            Refused: INTERNAL, it would fail again: a key is not what the library made it.
        """
        command = "FCALL_RO" if function in _READ_ONLY else "FCALL"
        try:
            return await self._link.call(command, f"roomful_v1_{function}", len(keys), *keys, *args)
        except ReplyError as exc:
            words = str(exc)
            if words.startswith("ROOMFUL "):
                raise Elsewhere(words.removeprefix("ROOMFUL ")) from exc
            if words.startswith(_NOT_NOW) or "unction not found" in words:
                raise Elsewhere(words) from exc
            logger.error(
                "call failed", extra={"shard": self._name, "function": function, "why": words}
            )
            why = f"shard {self._name} could not do this"
            raise Refused(RefusalCode.INTERNAL, why) from exc

    # Housekeeping ---------------------------------------------------------------------------

    @property
    def _lease(self) -> str:
        return f"{self._edge}.{self._lease_number}"

    async def _keep_lease(self) -> None:
        """Take the lease, and renew it three times in its life."""
        while True:
            self._renew.clear()
            wait_s = self._options.lease_s / 3
            if not await self._try_lease():
                wait_s = min(wait_s, 0.1 + 0.2 * random.random())  # noqa: S311 - no secret
            try:
                async with asyncio.timeout(wait_s):
                    await self._renew.wait()
            except TimeoutError:
                continue

    async def _try_lease(self) -> bool:
        is_new = not self._leased.is_set()
        ttl_ms, about = int(self._options.lease_s * 1000), self._options.about
        try:
            await self._fcall("lease", (), self._term, self._lease, int(is_new), ttl_ms, about)
        except Elsewhere as exc:
            # Taken is our own, when the reply to an earlier try was lost.
            if exc.words in ("NO_LEASE", "LEASE_TAKEN"):
                self._lease_number += 1
                if not is_new:
                    logger.warning("lease lost", extra={"shard": self._name})
                self._leased.clear()
            else:
                self.on_refused(exc.words)
            return False
        except (LostConnection, Refused):
            return False
        self._leased.set()
        if is_new and self._lease_number:
            self.on_swept()
        return True

    async def _sweep(self) -> None:
        """Do the shard's housekeeping; each edge does, so that any may be gone."""
        presence = self._options.presence
        limits = SWEEP_STEPS, int(presence.grace_s * 1000), presence.list_limit
        while True:
            has_more = 0
            try:
                has_more = await self._fcall("sweep", (), self._term, *limits)
            except Elsewhere as exc:
                self.on_refused(exc.words)
            except (LostConnection, Refused):
                pass  # the log says so
            await asyncio.sleep(SWEEP_S * (0.05 if has_more else 0.75 + random.random() / 2))  # noqa: S311


_READ_ONLY: Final = frozenset(
    {"edges", "lineage", "load_session", "members", "outbox", "page", "read", "revocations"}
)

_entries = msgspec.msgpack.Decoder(list[Entry]).decode
_lineage = msgspec.msgpack.Decoder(list[tuple[ShardName, int, list[tuple[int, int]], int]]).decode
_record = msgspec.msgpack.Decoder(SessionRecord).decode


def _key(kind: str, name: str) -> bytes:
    return b"{%d}%b:%b" % (bucket_of(name), kind.encode(), name.encode())


def _log(room: RoomId) -> bytes:
    return _key("l", room)


def _members(listed: list[Any]) -> Members:
    count, *pairs = listed
    words = [word.decode() for word in pairs]
    members = [
        Member(UserId(user), status) for user, status in zip(words[::2], words[1::2], strict=True)
    ]
    return Members(members, count)


def unavailable(shard: ShardName, why: object) -> Refused:
    """Give the refusal of what *shard* cannot do now."""
    return Refused(RefusalCode.SHARD_UNAVAILABLE, f"shard {shard} cannot be reached: {why}")


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()) is not None:
        logger.critical("task ended", extra={"task": task.get_name()}, exc_info=exc)


def _ignore(_words: str) -> None:
    """Nobody wants to know."""
