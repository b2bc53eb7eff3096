"""
Session records, embedded: kept for their time, bounded in number and bytes.

Above a bound those go that were left behind the longest: their clients may not resume any more,
all others still can.

With a journal the next process has them too, however this one ends. It must never have an older
one with other rooms: its client would be told that nothing is missing. So what a record says is
in the journal when save() and drop() return; only what may be forgotten is noted for later: a
session that has joined nothing, and that a record is kept for longer (docs/adr/0031).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from roomful.protocol.errors import Refused
from roomful.shard.base import SessionRecord
from roomful.shard.message import user_room

__all__ = ["SessionChange", "SessionJournal", "SessionRecords", "pack_record", "unpack_record"]

_RECORD_BYTES = 500
_ROOM_BYTES = 150

pack_record: Final = msgspec.msgpack.Encoder().encode
unpack_record: Final = msgspec.msgpack.Decoder(SessionRecord).decode


class SessionChange(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What becomes of the record of one session."""

    pid: str
    lapses_at: float
    """Seconds since the epoch."""
    packed: bytes
    """The record; empty: it is gone."""


class SessionJournal(Protocol):
    """Where records outlive the process."""

    def write_session(self, change: SessionChange) -> None:
        """
        Write *change*: on return it is safe from the end of the process.

        Raises:
            Refused: it is not; SHARD_UNAVAILABLE, OVERLOADED.
        """

    def note_session(self, change: SessionChange) -> None:
        """Write *change* some seconds later, behind all before it; until then it may be lost."""


class _Kept(msgspec.Struct, frozen=True, gc=False):
    lapses_at: float
    generation: int
    size: int
    """Bytes, about; more than *packed* alone."""
    packed: bytes
    """The record: a copy that costs half of what the object does, and no collection looks at."""
    is_written: bool
    """Whether the journal may have a record of this session that is not to be lost."""


_NONE: Final = _Kept(0.0, 0, 0, b"", is_written=False)


class SessionRecords:
    """The records of one embedded shard."""

    # Mutable state: the records by pid, the last renewed at the end; the bytes of all; and the
    # journal, if there is one.
    __slots__ = ("_bytes", "_journal", "_limit", "_limit_bytes", "_now", "_records")

    def __init__(self, limit: int, limit_bytes: int, now: Callable[[], float]) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._now = now
        # A dict would look for its first record past all the holes that renewals leave.
        self._records: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._journal: SessionJournal | None = None

    def write_to(self, journal: SessionJournal) -> None:
        """From now on *journal* has what the records say; it has what restore() was given."""
        self._journal = journal

    def save(self, record: SessionRecord, ttl_s: float, *, is_taken: bool) -> bool:
        """
        Keep a copy of *record*; False: somebody else has taken the session up.

        Raises:
            Refused: the journal cannot take it, and nothing was changed.
        """
        now = self._now()
        kept = self._records.get(record.pid, _NONE)
        if kept.lapses_at > now and kept.generation >= record.generation + (not is_taken):
            return False
        packed, lapses_at, is_written = pack_record(record), now + ttl_s, False
        if self._journal is not None:
            change = SessionChange(record.pid, lapses_at, packed)
            is_written = kept.is_written or _has_joined(record)
            if is_written and packed != kept.packed:
                self._journal.write_session(change)
            else:
                self._journal.note_session(change)
        self._keep(record, lapses_at, packed, is_written=is_written)
        self._trim(now)
        return True

    def load(self, pid: str) -> SessionRecord | None:
        """Give a copy of the record of *pid* if it is still kept."""
        kept = self._records.get(pid, _NONE)
        return unpack_record(kept.packed) if kept.lapses_at > self._now() else None

    def drop(self, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        kept = self._records.get(record.pid, _NONE)
        if kept.lapses_at > self._now() and kept.generation <= record.generation:
            self._let_go(record.pid)

    def dump(self) -> list[tuple[float, SessionRecord]]:
        """Give all records with when they lapse, in the order of restore()."""
        return [(kept.lapses_at, unpack_record(kept.packed)) for kept in self._records.values()]

    def restore(self, records: Iterable[tuple[float, SessionRecord]]) -> None:
        """Take over what an earlier process left, what lapses last at the end."""
        for lapses_at, record in records:
            self._keep(record, lapses_at, pack_record(record), is_written=True)
        self._trim(self._now())

    def _keep(
        self, record: SessionRecord, lapses_at: float, packed: bytes, *, is_written: bool
    ) -> None:
        self._forget(record.pid)
        size = _RECORD_BYTES
        for room in record.rooms:
            size += _ROOM_BYTES + len(room)
        self._records[record.pid] = _Kept(
            lapses_at, record.generation, size, packed, is_written=is_written
        )
        self._bytes += size

    def _trim(self, now: float) -> None:
        # Renewed records move to the end, so those at the front are the ones left behind.
        while self._records:
            pid, kept = next(iter(self._records.items()))
            if kept.lapses_at <= now:
                # It has lapsed wherever else it is, too.
                self._forget(pid)
            elif len(self._records) > self._limit or self._bytes > self._limit_bytes:
                self._let_go(pid)
            else:
                return

    def _let_go(self, pid: str) -> None:
        """Forget the record of *pid* before its time."""
        kept = self._forget(pid)
        if self._journal is None:
            return
        gone = SessionChange(pid, kept.lapses_at, b"")
        if kept.is_written:
            try:
                self._journal.write_session(gone)
            except Refused:
                # The journal has counted it. Who asked cannot do more than it still tries to.
                self._journal.note_session(gone)
        else:
            self._journal.note_session(gone)

    def _forget(self, pid: str) -> _Kept:
        kept = self._records.pop(pid, _NONE)
        self._bytes -= kept.size
        return kept


def _has_joined(record: SessionRecord) -> bool:
    """Whether *record* has a room that its user is not in anyway."""
    count = len(record.rooms)
    return count > 1 or (count == 1 and user_room(record.user) not in record.rooms)
