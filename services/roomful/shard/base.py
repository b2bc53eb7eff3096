"""
What an edge asks of its shards, and what they give back: the one interface of both
implementations (memory.py in the process; redis_shards.py over the network).

Publishing is the hot path, so it is a plain call with a callback: no task, no future. All else
is a coroutine, and may raise Refused (SHARD_UNAVAILABLE, OVERLOADED: retryable, nothing happened
or, for a publish, the same id may be sent again).

Order: an edge hears each shard's entries in offset order, over all rooms it holds. A batch is
grouped by room before offsets are given, so that a room's entries leave in one piece and still
in offset order (design.md section 7, rule a).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.lineage import Segment
from roomful.protocol.errors import Refused
from roomful.shard.erasure import Erasure
from roomful.shard.message import Cast, Entry, Envelope, RoomId, UserId

__all__ = [
    "PAGE_BYTES",
    "Archived",
    "Home",
    "Joined",
    "Lineage",
    "Member",
    "Members",
    "Moved",
    "Page",
    "PublishStatistics",
    "Replay",
    "Rooms",
    "SessionRecord",
    "Settle",
    "Shard",
    "Shards",
    "Sink",
    "Stored",
]

PAGE_BYTES: Final = 256 << 10
"""A page holds no more, whatever was asked for: it has to fit into a client's send buffer."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A publish was stored, now or (same room, user and id) before."""

    offset: int
    timestamp: int


Settle = Callable[[Stored | Refused], None]
"""
Called exactly once for a publish, when it is safe or refused.

An embedded shard has handed the entry to the sink by then; over a network the acknowledgement
and the stream come by different ways, and either may be first.
"""


class Member(msgspec.Struct, frozen=True):
    """A user in a room, however many connections."""

    user_id: UserId = msgspec.field(name="userId")
    status: str = "online"


class Members(msgspec.Struct, frozen=True):
    """Who is in a room; above the list limit nobody is named, only counted."""

    members: Sequence[Member]
    count: int


class Joined(msgspec.Struct, frozen=True):
    """A join was recorded."""

    offset: int
    """The shard's newest offset at that moment: later ones are owed, earlier ones are not."""
    members: Members


class Replay(msgspec.Struct, frozen=True):
    """Some of what was missed."""

    entries: Sequence[Entry]
    """In offset order."""
    reached: int
    """
    Every entry of the asked rooms up to this offset is here or was asked for before, and the
    sink has heard the shard up to it: nothing at or below it comes on the live stream any more.
    """
    is_complete: bool
    """Whether *reached* was the shard's newest offset at the time of the read."""
    holes: Sequence[RoomId] = ()
    """Rooms whose log no longer reaches back; then there are no entries."""


class Page(msgspec.Struct, frozen=True):
    """A page of one room's log, oldest first."""

    entries: Sequence[Entry]
    next: int | None
    """The `before` (or `after`) of the next page in the same direction; None at the end."""


class Moved(Exception):
    """A bucket is not (any more, or yet) on the shard that was asked: ask for its lineage again."""


class Archived(msgspec.Struct, frozen=True):
    """How far the archive has what a shard stored."""

    reached: int
    """Everything up to this offset is in the archive, but for *missing* and rooms that are off."""
    missing: int = 0
    """Of best effort rooms not everything up to this offset is: the outbox was full."""
    entries: int = 0
    """What waits in the outbox."""
    bytes: int = 0
    age_ms: int = 0
    """Of the oldest that waits."""


class SessionRecord(msgspec.Struct):
    """
    What a client needs to resume anywhere, kept on the shard of hash(pid).

    It is the session's, not a connection's: who takes the session up writes the record with the
    next generation, and from then on nobody can write or drop it with an older one.
    """

    pid: str
    sid: str
    user: UserId
    rooms: dict[RoomId, int]
    """Each joined room and the shard's newest offset at the join (design.md section 7, rule d)."""
    generation: int = 1
    """How often the session was taken up."""


class Sink(Protocol):
    """The edge, as a shard's stream sees it. No call may raise or block."""

    def deliver(self, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        """Take new *entries* of a room that the edge holds; shard-wide in offset order."""

    def cast(self, cast: Cast) -> None:
        """Take an event that is not stored."""

    def flush(self) -> None:
        """The batch is over: send what was delivered. Until then deliveries may be held back."""

    def reach(self, shard: ShardName, offset: int) -> None:
        """Know that all up to *offset*, of the rooms that the edge holds, was delivered."""

    def lose(self, shard: ShardName, rooms: Sequence[RoomId], *, can_resume: bool) -> None:
        """
        Know that what members of *rooms* heard is not what the shard has.

        Args:
            can_resume: entries are gone before they could be delivered; who resumes from what it
                has is told so. Else entries were delivered that the shard lost in a failover.
        """


@dataclass(slots=True)
class PublishStatistics:
    """Counts since the start."""

    stored: int = 0
    duplicates: int = 0
    """Publishes that were stored before, by their sender's id."""
    batches: int = 0
    refused: int = 0
    """Publishes refused at once: too much was waiting, or there was no room."""


class Rooms(Protocol):
    """What can be done with a room or a session, whichever shard it is on."""

    def publish(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """
        Store *envelope* and send it to the room; *settle* hears when it is safe.

        Publishes into a room are stored in the order of these calls.

        Args:
            is_named: the sender chose the id, so a second one with it is not stored again. Else
                it is the edge's own, and comes but once.
        """

    def cast(self, cast: Cast) -> None:
        """Send an event to the room now, or never."""

    async def hold(self, room: RoomId) -> None:
        """Hear *room* from now on; on return nothing later is missed. Raising, it is not held."""

    def release(self, room: RoomId) -> None:
        """No longer hear *room*."""

    async def join(self, room: RoomId, user: UserId, connection: str, status: str) -> Joined:
        """Record *connection* of *user* in the room's presence; repeating it changes nothing."""

    async def leave(self, room: RoomId, user: UserId, connection: str, *, with_grace: bool) -> None:
        """
        Take *connection* out of the room's presence.

        Args:
            with_grace: the user may be back in a moment: the others hear `user-left` only if not.
        """

    async def set_status(self, room: RoomId, user: UserId, status: str) -> None:
        """Change the user's status in the room's presence."""

    async def members(self, room: RoomId) -> Members:
        """Give who is in the room."""

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """
        Give the newest page, or the one just before or just after an offset.

        It has at most *limit* entries and PAGE_BYTES; at least one entry if any.
        """

    async def save_session(
        self, record: SessionRecord, ttl_s: float, *, is_taken: bool = False
    ) -> bool:
        """
        Keep *record* for *ttl_s* seconds from now; a millisecond or more.

        Args:
            is_taken: the session is taken up with a generation that nobody may have used yet.

        Returns:
            False: somebody else has taken the session up; nothing was changed.
        """

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Give a copy of the record of *pid* if it is still kept."""

    async def drop_session(self, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere: the client left for good."""

    async def erase(self, erasure: Erasure) -> int:
        """
        Let go of what *erasure* covers in the hot logs; gives how many messages were.

        Who resumes from before it may be told of a hole, and is never given what is gone.
        """

    async def aclose(self) -> None:
        """Settle what is under way and let go of everything; what comes later is DRAINING."""


class Home(Protocol):
    """The shard of some rooms: where their offsets are from."""

    @property
    def name(self) -> ShardName:
        """The name in cursors; another one whenever offsets begin anew."""

    def position(self) -> int:
        """Give the offset up to which the sink has heard this shard."""

    async def read(
        self,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        upto: Mapping[RoomId, int] | None = None,
    ) -> Replay:
        """
        Give what *rooms* (at least one, with its join offset) got after *after*, oldest first.

        Stops when the entries together are above *limit_bytes*; there is at least one if any.

        Args:
            upto: a last offset for each room: what another shard has stored, whose offset *after*
                is. The sink need not have heard that.

        Raises:
            Refused: SHARD_UNAVAILABLE.
            Moved: some room is not here.
        """

    async def archived(self) -> Archived:
        """Give how far the archive has what this shard stored."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a room is, and where what is in it was stored before it came there."""

    home: Home
    segments: Sequence[Segment] = ()
    """Oldest first."""


class Shard(Rooms, Home, Protocol):
    """One shard with all its rooms."""

    def attach(self, sink: Sink) -> None:
        """Give the shard the one sink its stream goes to."""


class Shards(Rooms, Protocol):
    """
    All shards, as an edge uses them: a room is found wherever it is, also while it moves.

    A MemoryShard is all the shards of an embedded server.
    """

    def attach(self, sink: Sink) -> None:
        """Give the one sink that the streams of all shards go to."""

    @property
    def statistics(self) -> PublishStatistics:
        """What became of publishes."""

    def shard_of(self, room: str, /) -> Home:
        """Give the shard that has *room* now."""

    def heard(self, room: RoomId) -> int:
        """Give the offset up to which the sink has heard *room*, wherever that was stored."""

    def shard_named(self, name: ShardName, /) -> Home | None:
        """Give a shard by its name; None if it is none of ours, or not any more."""

    async def lineage(self, room: RoomId) -> Lineage:
        """
        Give where *room* is and was.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """

    def positions(self) -> Mapping[ShardName, int]:
        """Give how far the sink has heard each shard."""

    async def start(self) -> None:
        """
        Begin, in the running loop.

        Raises:
            RoomfulError: no shard can be used, saying why.
        """

    def unready(self) -> str | None:
        """Say why no client should come here now; None: all is well."""
