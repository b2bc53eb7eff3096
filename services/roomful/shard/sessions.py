"""
Session records, embedded: kept for their time, bounded in number and bytes.

Above a bound those go that were left behind the longest: their clients may not resume any more,
all others still can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from roomful.shard.base import SessionRecord

__all__ = ["SessionRecords"]

_RECORD_BYTES = 500
_ROOM_BYTES = 150


class SessionRecords:
    """The records of one embedded shard."""

    # Mutable state: by pid when it lapses, the record and its size, the last renewed at the end;
    # and the bytes of all.
    __slots__ = ("_bytes", "_limit", "_limit_bytes", "_now", "_records")

    def __init__(self, limit: int, limit_bytes: int, now: Callable[[], float]) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._now = now
        self._records: dict[str, tuple[float, SessionRecord, int]] = {}
        self._bytes = 0

    def save(self, record: SessionRecord, ttl_s: float, *, is_taken: bool) -> bool:
        """Keep a copy of *record*; False: somebody else has taken the session up."""
        kept = self._kept(record.pid)
        if kept is not None and kept.generation >= record.generation + (not is_taken):
            return False
        now = self._now()
        self._keep(_copy(record), now + ttl_s)
        # Renewed records move to the end, so those at the front are the ones left behind.
        while self._records:
            pid, (lapses_at, _, _) = next(iter(self._records.items()))
            is_full = len(self._records) > self._limit or self._bytes > self._limit_bytes
            if lapses_at > now and not is_full:
                break
            self._forget(pid)
        return True

    def load(self, pid: str) -> SessionRecord | None:
        """Give a copy of the record of *pid* if it is still kept."""
        record = self._kept(pid)
        return None if record is None else _copy(record)

    def drop(self, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        kept = self._kept(record.pid)
        if kept is not None and kept.generation <= record.generation:
            self._forget(record.pid)

    def dump(self) -> list[tuple[float, SessionRecord]]:
        """Give all records with when they lapse, in the order of restore()."""
        return [(lapses_at, record) for lapses_at, record, _ in self._records.values()]

    def restore(self, records: Iterable[tuple[float, SessionRecord]]) -> None:
        """Take over what an earlier process left."""
        for lapses_at, record in records:
            self._keep(record, lapses_at)

    def _kept(self, pid: str) -> SessionRecord | None:
        lapses_at, record, _ = self._records.get(pid, (0.0, None, 0))
        return record if lapses_at > self._now() else None

    def _keep(self, record: SessionRecord, lapses_at: float) -> None:
        self._forget(record.pid)
        size = _RECORD_BYTES + sum(_ROOM_BYTES + len(room) for room in record.rooms)
        self._records[record.pid] = (lapses_at, record, size)
        self._bytes += size

    def _forget(self, pid: str) -> None:
        _, _, size = self._records.pop(pid, (0.0, None, 0))
        self._bytes -= size


def _copy(record: SessionRecord) -> SessionRecord:
    """Give one of its own: the edge goes on with the other."""
    return msgspec.structs.replace(record, rooms=dict(record.rooms))
