"""
What a shard's stream keeps while something is missing: what was read, and what came live.

A round gives back both in offset order, up to the offset that nothing unread can come before (its
horizon). stream.py says when a round begins, and what follows from it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from roomful.shard.held import Held
from roomful.shard.message import Entry
from roomful.shard.publication import CastMessage, Found, Publication

__all__ = ["Round", "Share", "Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A piece of the live stream."""

    reached: int
    """The offset that the stream has reached with it."""
    held: Held | None
    message: Publication | CastMessage | None
    """None: only that offset."""
    size: int

    @property
    def first(self) -> int:
        """What was read goes out before it when it is below this."""
        message = self.message
        if isinstance(message, Publication):
            return message.entries[0].offset
        return self.reached + 1


@dataclass(eq=False, slots=True)
class Share:
    """Some rooms that are behind, read together, page by page."""

    round: Round
    rooms: list[Held]
    limit_bytes: int
    reached: int = 0
    is_complete: bool = False
    is_asked: bool = False
    pages: list[tuple[int, Held, Entry]] = field(default_factory=list)
    """What was read above the horizon."""


class Round:
    """One time of filling what is missing."""

    # Mutable state: the tails that are on their way, and the newest that one told of; rooms that
    # are behind; their shares; what can be delivered now; and the live stream.
    def __init__(self, position: int, *, is_long: bool) -> None:
        self.is_long = is_long
        """Whether rooms may have been forgotten since: then their logs are asked."""
        self.asked = 0
        self.seq = 0
        self.behind: list[Held] = []
        self.later: list[tuple[Held, int]] = []
        """Rooms that came behind after the round began, with their tails."""
        self.shares: list[Share] = []
        self.waiting_bytes = 0
        self._newest = position
        self._waiting: deque[Waiting] = deque()
        self._ready: deque[tuple[int, Held, Entry]] = deque()

    def wait(
        self, offset: int, held: Held | None, message: Publication | CastMessage | None, size: int
    ) -> None:
        """Add to the live stream; *offset* is 0 for what has none."""
        self._newest = max(self._newest, offset)
        self._waiting.append(Waiting(self._newest, held, message, size))
        self.waiting_bytes += size

    def share_out(self, rooms: Sequence[Held], count: int, page_bytes: int) -> None:
        """Make shares of *count* of the *rooms*."""
        for first in range(0, len(rooms), count):
            self.shares.append(Share(self, list(rooms[first : first + count]), page_bytes))

    @property
    def open_shares(self) -> list[Share]:
        """Those that have more to read."""
        return [share for share in self.shares if not share.is_complete]

    def take_page(
        self, share: Share, rooms: Sequence[Held], found: Sequence[Found], reached: int
    ) -> None:
        """Take a page of *share*: all that *rooms*, which were asked for, have up to *reached*."""
        for one in found:
            held = rooms[one.place]
            held.hear(one.offset)
            share.pages.append((one.offset, held, Entry(one.offset, one.envelope)))
        share.reached = reached
        share.is_asked = False

    def complete(self, share: Share) -> None:
        """Know that all of *share* was read."""
        share.is_complete = True
        for held in share.rooms:
            held.hear(share.reached)

    def deliverable(self) -> Iterator[Waiting | tuple[Held, list[Entry]]]:
        """Give all up to the horizon in offset order: what was read, by room, and what waits."""
        horizon = min((share.reached for share in self.open_shares), default=math.inf)
        self._gather(horizon)
        waiting = self._waiting
        while waiting and waiting[0].reached <= horizon:
            yield from self._runs(waiting[0].first)
            self.waiting_bytes -= waiting[0].size
            yield waiting.popleft()
        yield from self._runs(math.inf)

    def _gather(self, horizon: float) -> None:
        found = []
        for share in self.shares:
            count = len(share.pages)
            while count and share.pages[count - 1][0] > horizon:
                count -= 1
            found += share.pages[:count]
            del share.pages[:count]
        found.sort(key=lambda one: one[0])
        self._ready.extend(found)

    def _runs(self, below: float) -> Iterator[tuple[Held, list[Entry]]]:
        ready = self._ready
        while ready and ready[0][0] < below:
            held = ready[0][1]
            entries = []
            while ready and ready[0][1] is held and ready[0][0] < below:
                entries.append(ready.popleft()[2])
            yield held, entries

    def abandon(self) -> None:
        """What was read and not delivered was not heard."""
        for share in self.shares:
            for offset, held, _ in reversed(share.pages):
                held.heard = offset - 1
        for offset, held, _ in reversed(self._ready):
            held.heard = offset - 1

    def delivered(self, held: Held) -> int | None:
        """Give up to where *held* was delivered."""
        for offset, one, _ in self._ready:
            if one is held:
                return offset - 1
        for share in self.shares:
            for offset, one, _ in share.pages:
                if one is held:
                    return offset - 1
        return held.heard
