"""
What an edge says to a shard's server about the rooms that it holds, in the order in which it is to
be said: all over the connection that the shard is heard on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from roomful.shard.filling import Round, Share
from roomful.shard.held import Held, HeldRooms

__all__ = ["Asking", "Read", "Request", "Subscribe", "Tails", "Unsubscribe"]

_CHUNK: Final = 512
"""Rooms in one command."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to channels; the server confirms each."""

    channels: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Unsubscribe from channels."""

    channels: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Tails:
    """Ask for the newest offsets of *rooms*; the reply goes to on_tails()."""

    rooms: Sequence[Held]
    round: Round | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read the logs of *rooms*, each from where it was heard on."""

    share: Share
    rooms: tuple[Held, ...]
    heard: tuple[int, ...]
    after: int

    @property
    def limit_bytes(self) -> int:
        """How much the page may have."""
        return self.share.limit_bytes


Request = Subscribe | Unsubscribe | Tails | Read


class Asking:
    """What is to be said next."""

    # Mutable state: the requests, and the rooms that this turn of the audit has not asked for yet.
    __slots__ = ("_audit", "_requests", "_rooms")

    def __init__(self, rooms: HeldRooms) -> None:
        self._rooms = rooms
        self._requests: list[Request] = []
        self._audit: list[bytes] = []

    def take(self) -> list[Request]:
        """Give what is to be said now; of the rooms that came and went since, too."""
        # Once for all that was heard together, and mostly there is nothing.
        if self._rooms.has_changes:
            self.ask_changes(None)
        if not self._requests:
            return []
        requests, self._requests = self._requests, []
        return requests

    def clear(self) -> None:
        """Forget it: nothing can be said, and all will be asked anew."""
        self._requests.clear()

    def ask_changes(self, round_: Round | None) -> int:
        """Follow what came and went since; gives how many tails were asked for, for *round_*."""
        leaving, joining = self._rooms.take_changes()
        self._requests += [Unsubscribe(chunk) for chunk in _chunks(leaving)]
        return self.subscribe(joining, round_)

    def subscribe(self, rooms: Sequence[Held], round_: Round | None) -> int:
        """Hear *rooms*, and ask for their tails behind that; gives for how many, in chunks."""
        chunks = list(_chunks(rooms))
        for chunk in chunks:
            channels = [held.channel for held in chunk]
            self._rooms.expect(channels)
            self._requests += Subscribe(channels), Tails(chunk, round_)
        return len(chunks)

    def ask_tails(self, rooms: Sequence[Held], round_: Round) -> int:
        """
        Ask for the tails of *rooms*; gives for how many, in chunks.

        Never none: the reply is also what the end of the round waits for.
        """
        chunks = list(_chunks(rooms)) or [()]
        self._requests += [Tails(chunk, round_) for chunk in chunks]
        return len(chunks)

    def read(self, share: Share) -> None:
        """Ask for the next page of *share*."""
        share.is_asked = True
        rooms = tuple(share.rooms)
        heard = tuple(held.heard or 0 for held in rooms)
        self._requests.append(Read(share, rooms, heard, share.reached))

    def audit(self, count: int) -> None:
        """Ask for the tails of the next *count* rooms."""
        if not self._audit:
            self._audit = list(self._rooms.held)
        chosen = [self._audit.pop() for _ in range(min(count, len(self._audit)))]
        rooms = [held for channel in chosen if (held := self._rooms.held.get(channel)) is not None]
        self._requests += [Tails(chunk) for chunk in _chunks(rooms)]


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), _CHUNK):
        yield items[first : first + _CHUNK]
