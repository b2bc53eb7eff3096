"""
The embedded shard: rooms in this process, the default of `roomful serve`.

The same rules as a shard on Redis: group commit (what arrives in one turn of the loop is one
batch), grouped by room before offsets are given, ids kept for their window. With a journal a
batch is safe from the end of the process before anybody hears of it (docs/adr/0009), and so is a
session's record (0031); a graceful stop hands over all of it in a snapshot (snapshot.py).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import (
    Archived,
    Joined,
    Lineage,
    Members,
    Page,
    PublishStatistics,
    Replay,
    SessionRecord,
    Settle,
    Sink,
    Stored,
)
from roomful.shard.erasure import Erasure
from roomful.shard.log import LogLimits, RoomLogs
from roomful.shard.message import Cast, Entry, Envelope, RoomId, UserId
from roomful.shard.post import tell
from roomful.shard.presence import PresenceLimits, RoomPresence
from roomful.shard.sender_ids import IdKey, SenderIds
from roomful.shard.sessions import SessionJournal, SessionRecords

__all__ = ["Journal", "MemoryLimits", "MemoryShard", "MemoryState", "MemoryStatistics"]

SWEEP_S = 1.0


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """What one embedded shard may hold besides its logs."""

    pending_bytes: int = 32 << 20
    """Bytes of publishes in one batch; more are refused with OVERLOADED."""
    ids: int = 1_000_000
    """Senders' ids remembered; the oldest go first."""
    id_window_s: float = 300.0
    """Seconds in which a second publish with the same id is not stored again."""
    sessions: int = 500_000
    """Records of clients that may resume; the soonest to lapse go first."""
    session_bytes: int = 256 << 20
    """Bytes of those records, about; a client in many rooms has a large one."""

    def __post_init__(self) -> None:
        names = ("pending_bytes", "ids", "id_window_s", "sessions", "session_bytes")
        if bad := [name for name in names if not 0 < getattr(self, name) < math.inf]:
            raise ValueError(f"memory: {' and '.join(bad)} must be above 0")


@dataclass(slots=True)
class MemoryStatistics(PublishStatistics):
    """The same, and what only an embedded shard has."""

    ids_dropped: int = 0
    """Ids forgotten before their window ended, for want of room: should stay 0."""


_Post = tuple[Envelope, Settle, bool]


class MemoryState(msgspec.Struct):
    """What outlives a graceful stop."""

    name: ShardName
    offset: int
    forgotten: int
    floors: dict[RoomId, int]
    entries: list[Entry]
    ids: list[tuple[float, IdKey, Stored]]
    sessions: list[tuple[float, SessionRecord]]


class Journal(SessionJournal, Protocol):
    """Where batches are safe from the end of the process, and records of sessions are."""

    def write(self, entries: Sequence[Entry]) -> None:
        """
        Write *entries*, whose offsets grow: on return all are safe, raising none is.

        Raises:
            Refused: SHARD_UNAVAILABLE, OVERLOADED.
        """


class MemoryShard:
    """Implements Shard in the process."""

    # Mutable state: the counter of offsets; the logs; presence; the batch that is gathering;
    # senders' ids; session records.
    def __init__(
        self,
        *,
        log_limits: LogLimits | None = None,
        presence_limits: PresenceLimits | None = None,
        limits: MemoryLimits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name = ShardName("m" + secrets.token_hex(3))
        self._limits = limits or MemoryLimits()
        self._now = now
        self.statistics = MemoryStatistics()
        self.logs = RoomLogs(log_limits or LogLimits())
        self._presence = RoomPresence(presence_limits or PresenceLimits(), self.cast)
        self._offset = 0
        self._pending: list[_Post] = []
        self._pending_bytes = 0
        self._is_ending = False
        self._journal: Journal | None = None
        self._ids = SenderIds(self._limits.ids)
        self._sessions = SessionRecords(self._limits.sessions, self._limits.session_bytes, now)
        self._sink: Sink | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<MemoryShard {self._name} at {self._offset}, {len(self._pending)} pending>"

    @property
    def name(self) -> ShardName:
        """The name in cursors: a new one in each process that starts without a snapshot."""
        return self._name

    def attach(self, sink: Sink) -> None:
        """Give the shard the one sink its stream goes to."""
        self._sink = sink

    def write_to(self, journal: Journal) -> None:
        """From now on a batch is written to *journal* before anybody hears of it."""
        self._journal = journal
        self._sessions.write_to(journal)

    # One shard is all shards (Shards) -------------------------------------------------------

    def shard_of(self, _room: str) -> MemoryShard:
        """Give itself."""
        return self

    def heard(self, _room: RoomId) -> int:
        """Give the newest offset."""
        return self._offset

    def shard_named(self, name: ShardName) -> MemoryShard | None:
        """Give itself by its name."""
        return self if name == self._name else None

    async def lineage(self, _room: RoomId) -> Lineage:
        """Give itself: nothing ever was elsewhere."""
        return Lineage(self)

    def positions(self) -> Mapping[ShardName, int]:
        """Give the newest offset."""
        return {self._name: self._offset}

    async def start(self) -> None:
        """Nothing to do."""

    def unready(self) -> str | None:
        """Give None: it is always there."""
        return None

    # Publishing -----------------------------------------------------------------------------

    def publish(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """Add *envelope* to the batch that commits at the end of this turn of the loop."""
        if self._is_ending:
            self.statistics.refused += 1
            settle(Refused(RefusalCode.DRAINING, "this edge is going away"))
            return
        self._pending_bytes += envelope.size
        if self._pending_bytes > self._limits.pending_bytes:
            self._pending_bytes -= envelope.size
            self.statistics.refused += 1
            settle(Refused(RefusalCode.OVERLOADED, "the shard has too much waiting"))
            return
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._commit)
        self._pending.append((envelope, settle, is_named))

    def _commit(self) -> None:
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        if not batch:
            return
        now = self._now()
        # First, so that an id is free again when its window is over, however quiet the shard was.
        self.statistics.ids_dropped += self._ids.forget(now)
        settled: list[tuple[Settle, Stored]] = []
        keys: list[IdKey] = []
        before = self._offset
        grouped = self._give_offsets(batch, settled, keys)
        if self._journal is not None:
            try:
                self._journal.write([entry for _, entries in grouped for entry in entries])
            except Refused as refused:
                self._ids.forget_batch(keys)
                self._give_up(before, settled, refused)
                return
        self._ids.keep(keys, now + self._limits.id_window_s)
        append, sink = self.logs.append, self._sink
        for room, entries in grouped:
            for entry in entries:
                append(entry)
            if sink is not None:
                sink.deliver(self._name, room, entries)
        self.logs.trim(int(now * 1000))
        self.statistics.stored += self._offset - before
        self.statistics.batches += 1
        for settle, stored in settled:
            tell(settle, stored)
        if sink is not None:
            sink.flush()

    def _give_offsets(
        self, batch: list[_Post], settled: list[tuple[Settle, Stored]], keys: list[IdKey]
    ) -> list[tuple[RoomId, list[Entry]]]:
        """Give what is new its offset, room by room; the ids of it are added to *keys*."""
        by_room: dict[RoomId, list[_Post]] = {}
        for post in batch:
            room = post[0].room
            if room in by_room:
                by_room[room].append(post)
            else:
                by_room[room] = [post]
        grouped: list[tuple[RoomId, list[Entry]]] = []
        offset, first_answers = self._offset, self._ids.first
        for room, posts in by_room.items():
            entries: list[Entry] = []
            for envelope, settle, is_named in posts:
                if is_named:
                    key = (room, envelope.user, envelope.name)
                    first = first_answers.get(key)
                    if first is not None:
                        self.statistics.duplicates += 1
                        settled.append((settle, first))
                        continue
                offset += 1
                entries.append(Entry(offset, envelope))
                stored = Stored(offset, envelope.timestamp)
                settled.append((settle, stored))
                if is_named:
                    first_answers[key] = stored
                    keys.append(key)
            if entries:
                grouped.append((room, entries))
        self._offset = offset
        return grouped

    def _give_up(self, before: int, settled: list[tuple[Settle, Stored]], refused: Refused) -> None:
        """Refuse what is above *before* and could not be written; nobody heard its offsets."""
        self.statistics.refused += self._offset - before
        self._offset = before
        for settle, stored in settled:
            tell(settle, refused if stored.offset > before else stored)

    def cast(self, cast: Cast) -> None:
        """Send an event to the room now."""
        if self._sink is not None:
            self._sink.cast(cast)

    async def hold(self, room: RoomId) -> None:
        """Nothing to do: the sink hears every room, and ignores those it does not hold."""

    def release(self, room: RoomId) -> None:
        """Nothing to do."""

    def position(self) -> int:
        """Give the newest offset: the sink hears each entry in the turn it is stored."""
        return self._offset

    # Presence -------------------------------------------------------------------------------

    async def join(self, room: RoomId, user: UserId, connection: str, status: str) -> Joined:
        """Record *connection* of *user* in the room's presence."""
        members = self._presence.join(room, user, connection, status, self._now())
        self._schedule_sweep()
        return Joined(self._offset, members)

    async def leave(self, room: RoomId, user: UserId, connection: str, *, with_grace: bool) -> None:
        """Take *connection* out of the room's presence."""
        self._presence.leave(room, user, connection, self._now(), with_grace=with_grace)
        self._schedule_sweep()

    async def set_status(self, room: RoomId, user: UserId, status: str) -> None:
        """Change the user's status in the room's presence."""
        self._presence.set_status(room, user, status)

    async def members(self, room: RoomId) -> Members:
        """Give who is in the room."""
        return self._presence.members(room)

    def _schedule_sweep(self) -> None:
        if self._sweeper is None and self._presence.has_work:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        self._presence.sweep(self._now())
        self._schedule_sweep()

    # Reading --------------------------------------------------------------------------------

    async def read(
        self,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        upto: Mapping[RoomId, int] | None = None,
    ) -> Replay:
        """Give what *rooms* got after *after*, oldest first; nothing ever came from elsewhere."""
        if after > self._offset or upto is not None:
            return Replay((), after, is_complete=False, holes=list(rooms))
        return self.logs.read(rooms, after, self._offset, limit_bytes)

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of the room's log."""
        return self.logs.page(room, before=before, after=after, limit=limit)

    async def archived(self) -> Archived:
        """What is written to the journal is in the archive, as far as its readers can tell."""
        return Archived(0 if self._journal is None else self._offset)

    async def erase(self, erasure: Erasure) -> int:
        """Let go of what *erasure* covers; gives how many messages were."""
        return self.logs.erase(erasure.covers)

    # Sessions -------------------------------------------------------------------------------

    async def save_session(
        self, record: SessionRecord, ttl_s: float, *, is_taken: bool = False
    ) -> bool:
        """Keep *record* for *ttl_s* seconds from now."""
        return self._sessions.save(record, ttl_s, is_taken=is_taken)

    def keep_session(self, record: SessionRecord, ttl_s: float) -> None:
        """Keep *record*, of a session that has just begun, without a coroutine."""
        self._sessions.save(record, ttl_s, is_taken=False)

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Give a copy of the record of *pid* if it is still kept."""
        return self._sessions.load(pid)

    async def drop_session(self, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        self._sessions.drop(record)

    async def aclose(self) -> None:
        """Commit what is pending, and stop the sweeper."""
        self._is_ending = True
        self._commit()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # Hand-over ------------------------------------------------------------------------------

    def dump(self) -> MemoryState:
        """Give what the next process needs; presence is not in it, connections end with us."""
        return MemoryState(
            name=self._name,
            offset=self._offset,
            forgotten=self.logs.forgotten,
            floors=self.logs.floors(),
            entries=list(self.logs.entries()),
            ids=list(self._ids.dump()),
            sessions=self._sessions.dump(),
        )

    def restore(self, state: MemoryState) -> None:
        """Take over what an earlier process left; this one has stored nothing yet."""
        self._name = state.name
        self._offset = state.offset
        self.logs.restore(state.entries, state.floors, state.forgotten)
        self._ids.restore(state.ids)
        self._sessions.restore(state.sessions)
