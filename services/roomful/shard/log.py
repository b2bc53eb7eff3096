"""
The embedded room logs: one deque a room, bounded by count, age and, over all rooms, bytes.

Offsets are shard-wide, so the oldest entry of all is always the head of its room's log: one
queue over all rooms (the timeline) finds it, and age and bytes are enforced from there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from roomful.shard.base import PAGE_BYTES, Page, Replay
from roomful.shard.message import Entry, RoomId

__all__ = ["LogLimits", "RoomLogs"]

SLACK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much history is kept hot."""

    messages_per_room: int = 5_000
    """Newest entries of a room."""
    age_s: float = 3_600.0
    """Seconds an entry is kept."""
    total_bytes: int = 256 << 20
    """Bytes of all logs together; the oldest entries over all rooms go first."""

    def __post_init__(self) -> None:
        names = ("messages_per_room", "age_s", "total_bytes")
        if bad := [name for name in names if not 0 < getattr(self, name) < math.inf]:
            raise ValueError(f"log: {' and '.join(bad)} must be above 0")


class RoomLogs:
    """All room logs of one embedded shard."""

    # Mutable state: each room's entries; the same entries over all rooms, oldest first, some of
    # them already gone from their room (stale); per room the newest offset it lost (its floor);
    # and the newest floor of rooms that are forgotten altogether.
    __slots__ = (
        "_bytes",
        "_floors",
        "_forgotten",
        "_kept",
        "_limits",
        "_rooms",
        "_stale_bytes",
        "_timeline",
    )

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._rooms: dict[RoomId, deque[Entry]] = {}
        self._timeline: deque[Entry] = deque()
        self._floors: dict[RoomId, int] = {}
        self._forgotten = 0
        self._bytes = 0
        self._stale_bytes = 0
        self._kept = 0

    def __len__(self) -> int:
        return self._kept

    @property
    def bytes(self) -> int:
        """Bytes that the entries take, about."""
        return self._bytes

    @property
    def forgotten(self) -> int:
        """The newest offset of which the room is not remembered any more."""
        return self._forgotten

    def floors(self) -> dict[RoomId, int]:
        """Give per room the newest offset it lost."""
        return dict(self._floors)

    def restore(
        self, entries: Iterable[Entry], floors: Mapping[RoomId, int], forgotten: int
    ) -> None:
        """Take over what another process kept; nothing was appended yet."""
        self._forgotten = forgotten
        # First: an entry that does not fit any more raises its room's floor.
        self._floors |= floors
        for entry in entries:
            self.append(entry)

    def entries(self) -> Iterable[Entry]:
        """Give all entries, in offset order."""
        for entry in self._timeline:
            log = self._rooms.get(entry.envelope.room)
            if log and log[0].offset <= entry.offset:
                yield entry

    def append(self, entry: Entry) -> None:
        """Add an *entry*; its offset is above all others."""
        room = entry.envelope.room
        log = self._rooms.get(room)
        if log is None:
            log = self._rooms[room] = deque()
        log.append(entry)
        self._timeline.append(entry)
        self._bytes += entry.envelope.size
        self._kept += 1
        if len(log) > self._limits.messages_per_room:
            # A busy room drops from its head what the timeline still holds further on.
            self._stale_bytes += log[0].envelope.size
            self._drop_head(room, log)
            if self._stale_bytes > self._bytes + SLACK_BYTES:
                self._timeline = deque(self.entries())
                self._stale_bytes = 0

    def trim(self, now_ms: int) -> None:
        """Let go of what is too old, or too much; cheap when nothing is."""
        oldest_ms = now_ms - int(self._limits.age_s * 1000)
        timeline = self._timeline
        while timeline:
            entry = timeline[0]
            log = self._rooms.get(entry.envelope.room)
            is_kept = log is not None and log[0].offset <= entry.offset
            if log is not None and is_kept:
                if (
                    entry.envelope.timestamp >= oldest_ms
                    and self._bytes <= self._limits.total_bytes
                ):
                    return
                self._drop_head(entry.envelope.room, log)
            else:
                self._stale_bytes -= entry.envelope.size
            timeline.popleft()

    def _drop_head(self, room: RoomId, log: deque[Entry]) -> None:
        entry = log.popleft()
        self._bytes -= entry.envelope.size
        self._kept -= 1
        if log:
            self._floors[room] = entry.offset
        else:
            del self._rooms[room]
            self._floors.pop(room, None)
            self._forgotten = max(self._forgotten, entry.offset)

    def erase(self, covers: Callable[[Entry], bool]) -> int:
        """Let go of the entries that *covers* says, as if they had never been; gives how many."""
        before, kept = self._kept, [entry for entry in self.entries() if not covers(entry)]
        if len(kept) == before:
            return 0
        for room in self._rooms.keys() - {entry.envelope.room for entry in kept}:
            self._forgotten = max(self._forgotten, self._floors.pop(room, 0))
        self._rooms, self._timeline = {}, deque(kept)
        for entry in kept:
            self._rooms.setdefault(entry.envelope.room, deque()).append(entry)
        self._kept, self._stale_bytes = len(kept), 0
        self._bytes = sum(entry.envelope.size for entry in kept)
        return before - len(kept)

    def _floor(self, room: RoomId) -> int:
        if room in self._rooms:
            # A room may have been forgotten and have come back since.
            return self._floors.get(room, min(self._forgotten, self._rooms[room][0].offset - 1))
        return self._forgotten

    def read(self, rooms: Mapping[RoomId, int], after: int, tail: int, limit_bytes: int) -> Replay:
        """Give what *rooms* got after *after* (and after their join offsets); see Shard.read."""
        holes = [room for room, joined in rooms.items() if self._floor(room) > max(after, joined)]
        if holes:
            return Replay((), after, is_complete=False, holes=holes)
        missed: list[Entry] = []
        for room, joined in rooms.items():
            missed += _after(self._rooms.get(room, ()), max(after, joined))
        missed.sort(key=lambda entry: entry.offset)
        size = 0
        for index, entry in enumerate(missed):
            size += entry.envelope.size
            if size > limit_bytes and index:
                return Replay(missed[:index], missed[index - 1].offset, is_complete=False)
        return Replay(missed, tail, is_complete=True)

    def page(self, room: RoomId, *, before: int | None, after: int | None, limit: int) -> Page:
        """Give a page of *room*; see Shard.page."""
        log = self._rooms.get(room, deque())
        if after is not None:
            entries = _after(log, after)
            if before is not None:
                entries = [entry for entry in entries if entry.offset < before]
            page = entries[: _fitting(entries, limit)]
            return Page(page, page[-1].offset if len(page) < len(entries) else None)
        end = len(log) if before is None else len(log) - len(_after(log, before - 1))
        newest_first = list(islice(reversed(log), len(log) - end, len(log) - end + limit))
        page = newest_first[: _fitting(newest_first, limit)][::-1]
        return Page(page, page[0].offset if len(page) < end else None)


def _fitting(entries: Iterable[Entry], limit: int) -> int:
    """Say how many of *entries* go on one page: at most *limit* and PAGE_BYTES, at least one."""
    size = 0
    for index, entry in enumerate(islice(entries, limit)):
        size += entry.envelope.size
        if size > PAGE_BYTES and index:
            return index
    return limit


def _after(log: Iterable[Entry], offset: int) -> list[Entry]:
    # From the newest back: what is asked for is nearly always at the end.
    entries: list[Entry] = []
    for entry in reversed(log) if isinstance(log, deque) else ():
        if entry.offset <= offset:
            break
        entries.append(entry)
    entries.reverse()
    return entries
