"""
What an archive promises, whatever keeps it (postgres.py, sqlite.py): the one interface of both.

A message is there once, by (room, shard, offset), however often it is stored. Offsets of a room
grow, also over failovers and when its bucket moves to another shard (design.md section 7, rule
c), so the offset alone is the order of a room and the cursor of its pages.

Everything may raise ArchiveUnavailable: the database does not answer; nothing happened, or all
of it did, and the same call may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import RoomfulError
from roomful.shard.base import PAGE_BYTES, Page, Replay
from roomful.shard.erasure import Erasure
from roomful.shard.message import Entry, RoomId, UserId

__all__ = [
    "Archive",
    "ArchiveUnavailable",
    "Erasure",
    "Kept",
    "Letter",
    "Rule",
    "Stored",
    "cut_page",
    "fitting",
]


class ArchiveUnavailable(RoomfulError):
    """The archive does not answer; *temporary* says whether waiting may help."""

    def __init__(self, sentence: str, *, temporary: bool = True) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.temporary = temporary


@dataclass(frozen=True, slots=True)
class Kept:
    """A message of the archive, with the shard it was born on."""

    shard: ShardName
    entry: Entry


@dataclass(frozen=True, slots=True)
class Letter:
    """Something that could not be stored, kept beside the messages so that it blocks none."""

    shard: ShardName
    offset: int
    """Of the outbox entry or the message: the newest that is in it."""
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch."""

    new: int
    """Messages that were not there before."""
    letters: int = 0
    """Messages that the database did not take, now dead letters."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How long the messages of some rooms are kept; the first rule whose pattern fits counts."""

    pattern: str
    """A room's name, in which only `*` is special: any run of characters."""
    keep_ms: int | None
    """Milliseconds by the messages' own timestamps; None: for good."""


class Archive(Protocol):
    """One archive."""

    async def store(self, shard: ShardName, entries: Sequence[Entry]) -> Stored:
        """
        Keep *entries* of *shard*, in one transaction; what is there already stays as it is.

        A message that the database cannot take becomes a dead letter with the reason, and what
        was erased is not stored again.
        """

    async def bury(self, letters: Sequence[Letter]) -> None:
        """Keep what could not be read as messages; repeating it changes nothing."""

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of *room*, oldest first, as Shard.page does of the hot log."""

    async def read(
        self,
        shard: ShardName,
        rooms: Mapping[RoomId, int],
        span: range,
        limit_bytes: int,
    ) -> Replay:
        """
        Give what *rooms* (with each one's join offset) got at the offsets of *span*.

        The offsets are those of *shard*, where the rooms are now; what was born elsewhere, before
        the rooms moved there, is given too, as the hot log would.
        Holes are rooms of which retention may have let go something in the span; then there are
        no entries. There is at least one entry if any; *reached* is below the end of the span.
        """

    async def erase(self, erasure: Erasure) -> int:
        """
        Make what *erasure* covers gone for good, and write it down; gives how many were.

        Cut off in the middle it is written down already: finish_erasures() does the rest.
        """

    async def finish_erasures(self) -> int:
        """Do what an erasure that was cut off has left; gives how many messages went."""

    async def retain(self, rules: Sequence[Rule], now_ms: int) -> int:
        """Let go of what is older than its rule says; gives how many messages."""

    def export(
        self, *, room: RoomId | None = None, user: UserId | None = None
    ) -> AsyncIterator[Sequence[Kept]]:
        """Give all messages, or a room's or a user's, in batches; a room's in order."""

    async def aclose(self) -> None:
        """Let go of connections."""


def cut_page(found: Sequence[Entry], limit: int, *, is_forward: bool) -> Page:
    """
    Make a page of *found*: entries in reading order (newest first unless *is_forward*), of which
    there is one more than *limit* if there is more.
    """
    size, count = 0, 0
    for entry in found[:limit]:
        size += entry.envelope.size
        if size > PAGE_BYTES and count:
            break
        count += 1
    page = found[:count]
    following = page[-1].offset if count < len(found) else None
    return Page(page if is_forward else page[::-1], following)


def fitting(entries: Iterable[Entry], limit_bytes: int) -> tuple[list[Entry], bool]:
    """Give the first of *entries* that fit into *limit_bytes*, at least one, and if that is all."""
    size = 0
    chosen: list[Entry] = []
    for entry in entries:
        size += entry.envelope.size
        if size > limit_bytes and chosen:
            return chosen, False
        chosen.append(entry)
    return chosen, True
