"""
Session records, embedded: kept for their time, bounded in number and bytes.

Above a bound those go that were left behind the longest: their clients may not resume any more,
all others still can.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from roomful.shard.base import SessionRecord

__all__ = ["SessionRecords"]

_RECORD_BYTES = 500
_ROOM_BYTES = 150

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(SessionRecord).decode


class _Kept(msgspec.Struct, frozen=True, gc=False):
    lapses_at: float
    generation: int
    size: int
    """Bytes, about; more than *packed* alone."""
    packed: bytes
    """The record: a copy that costs half of what the object does, and no collection looks at."""


_NONE: Final = _Kept(0.0, 0, 0, b"")


class SessionRecords:
    """The records of one embedded shard."""

    # Mutable state: the records by pid, the last renewed at the end; and the bytes of all.
    __slots__ = ("_bytes", "_limit", "_limit_bytes", "_now", "_records")

    def __init__(self, limit: int, limit_bytes: int, now: Callable[[], float]) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._now = now
        # A dict would look for its first record past all the holes that renewals leave.
        self._records: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    def save(self, record: SessionRecord, ttl_s: float, *, is_taken: bool) -> bool:
        """Keep a copy of *record*; False: somebody else has taken the session up."""
        now = self._now()
        kept = self._records.get(record.pid, _NONE)
        if kept.lapses_at > now and kept.generation >= record.generation + (not is_taken):
            return False
        self._keep(record, now + ttl_s)
        # Renewed records move to the end, so those at the front are the ones left behind.
        while self._records:
            pid, kept = next(iter(self._records.items()))
            is_full = len(self._records) > self._limit or self._bytes > self._limit_bytes
            if kept.lapses_at > now and not is_full:
                break
            self._forget(pid)
        return True

    def load(self, pid: str) -> SessionRecord | None:
        """Give a copy of the record of *pid* if it is still kept."""
        kept = self._records.get(pid, _NONE)
        return _decode(kept.packed) if kept.lapses_at > self._now() else None

    def drop(self, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        kept = self._records.get(record.pid, _NONE)
        if kept.lapses_at > self._now() and kept.generation <= record.generation:
            self._forget(record.pid)

    def dump(self) -> list[tuple[float, SessionRecord]]:
        """Give all records with when they lapse, in the order of restore()."""
        return [(kept.lapses_at, _decode(kept.packed)) for kept in self._records.values()]

    def restore(self, records: Iterable[tuple[float, SessionRecord]]) -> None:
        """Take over what an earlier process left."""
        for lapses_at, record in records:
            self._keep(record, lapses_at)

    def _keep(self, record: SessionRecord, lapses_at: float) -> None:
        self._forget(record.pid)
        size = _RECORD_BYTES
        for room in record.rooms:
            size += _ROOM_BYTES + len(room)
        self._records[record.pid] = _Kept(lapses_at, record.generation, size, _encode(record))
        self._bytes += size

    def _forget(self, pid: str) -> None:
        self._bytes -= self._records.pop(pid, _NONE).size
