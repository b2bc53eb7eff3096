"""
Senders' ids, embedded: each with its first answer, for its window, bounded in number.

Ids of one batch lapse together, so they are kept together: a message costs a place in a list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from roomful.shard.base import Stored
from roomful.shard.message import RoomId, UserId

__all__ = ["IdKey", "SenderIds"]

IdKey = tuple[RoomId, UserId, str]


class SenderIds:
    """The ids that one embedded shard remembers."""

    # Mutable state: by id its first answer; and when those of a batch lapse, oldest batch first,
    # in it the oldest id last.
    __slots__ = ("_batches", "_limit", "first")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.first: dict[IdKey, Stored] = {}
        """What was answered. Whoever adds to it calls keep() or forget_batch()."""
        self._batches: deque[tuple[float, list[IdKey]]] = deque()

    def keep(self, keys: list[IdKey], lapses_at: float) -> None:
        """Remember *keys*, which are new in `first`, until *lapses_at*; the list is ours now."""
        if keys:
            keys.reverse()
            self._batches.append((lapses_at, keys))

    def forget_batch(self, keys: Iterable[IdKey]) -> None:
        """Forget *keys*, which were added to `first` and not kept."""
        for key in keys:
            del self.first[key]

    def forget(self, now: float) -> int:
        """Forget what has lapsed, and the oldest above the bound; gives how many of those."""
        batches, first = self._batches, self.first
        dropped = 0
        while batches:
            lapses_at, keys = batches[0]
            if lapses_at > now and len(first) <= self._limit:
                break
            dropped += lapses_at > now
            del first[keys.pop()]
            if not keys:
                batches.popleft()
        return dropped

    def dump(self) -> Iterator[tuple[float, IdKey, Stored]]:
        """Give all that is remembered with when it lapses, oldest first."""
        for lapses_at, keys in self._batches:
            for key in reversed(keys):
                yield lapses_at, key, self.first[key]

    def restore(self, remembered: Iterable[tuple[float, IdKey, Stored]]) -> None:
        """Take over what another process remembered, oldest first."""
        for lapses_at, batch in groupby(remembered, key=itemgetter(0)):
            new = {key: stored for _, key, stored in batch}
            self.first |= new
            self.keep(list(new), lapses_at)
