"""
A room's messages as one sequence: the newest from the shard's hot log, older ones from the archive.

The log is read first: what leaves it meanwhile has come into the archive long before, and what
comes meanwhile is newer than the page. The offset is the order and the cursor of both, also
when the room's bucket moves (design.md section 7, rule c), so a page is the same whichever of them
gave its parts. Where the archive is needed and away, the log's part is given, and beyond it the
answer is ARCHIVE_UNAVAILABLE: never a page with messages left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from roomful.archive.base import Archive, ArchiveUnavailable, Erasure, cut_page
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Archived, Home, Moved, Page, Replay
from roomful.shard.message import RoomId

if TYPE_CHECKING:
    from roomful.cluster.cursor import ShardName
    from roomful.edge.edge import Edge

__all__ = ["History"]

logger = logging.getLogger("roomful.edge")

PEEK_BYTES: Final = 1
_HIGHEST: Final = 1 << 62
"""Above all offsets."""


class History:
    """The history of all rooms, for one edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    # Pages ----------------------------------------------------------------------------------

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """
        Give the newest page, or the one just before or just after an offset; see Shard.page.

        Raises:
            Refused: ARCHIVE_UNAVAILABLE, or of the shard.
        """
        shards, archive = self._edge.shards, self._edge.archive
        hot = await shards.page(room, before=before, after=after, limit=limit)
        if archive is None:
            return hot
        start = 0 if after is None else after
        is_whole = after is None and hot.next is not None
        if is_whole or await _reaches_back(shards.shard_of(room), room, start):
            return hot
        try:
            if after is None:
                return await _older(archive, room, hot, before, limit)
            below = _HIGHEST if before is None else before
            return await _newer(archive, room, hot, range(after, below), limit)
        except ArchiveUnavailable as exc:
            logger.warning("history without the archive", extra={"why": exc.sentence})
            if after is None and hot.entries:
                return Page(hot.entries, hot.entries[0].offset)
            sentence = "older messages cannot be read just now"
            raise Refused(RefusalCode.ARCHIVE_UNAVAILABLE, sentence) from exc

    # What a client missed -------------------------------------------------------------------

    async def read(
        self,
        shard: Home,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        elsewhere: tuple[ShardName, Mapping[RoomId, int]] | None = None,
    ) -> Replay:
        """
        Give what *rooms* got after *after*, as Shard.read, also of what the log has lost.

        Holes are left where the archive does not have everything either, or is away.

        Args:
            elsewhere: the shard that has stored it, when that is another one, and up to where.
        """
        upto = elsewhere[1] if elsewhere else None
        hot = await shard.read(rooms, after, limit_bytes, upto)
        archive = self._edge.archive
        if archive is None or not hot.holes:
            return hot
        origin = shard if elsewhere is None else self._edge.shards.shard_named(elsewhere[0])
        # A shard goes when its outbox is empty.
        archived = Archived(1 << 62) if origin is None else await origin.archived()
        if upto is None:
            # Not beyond what the edge has heard: the rest comes on the live stream.
            newest = min(archived.reached, shard.position())
        else:
            # The other shard's offsets may end long before those of this one begin.
            newest = max(upto.values())
            newest = min(archived.reached, newest) if archived.entries else newest
        class_of = self._edge.room_class
        if newest <= after or any(
            class_of(room) == "-" or (class_of(room) == "0" and archived.missing > after)
            for room in hot.holes
        ):
            return hot
        try:
            name = elsewhere[0] if elsewhere else shard.name
            old = await archive.read(name, rooms, range(after + 1, newest + 1), limit_bytes)
        except ArchiveUnavailable as exc:
            logger.warning("resume without the archive", extra={"why": exc.sentence})
            return hot
        if upto is None:
            # The log has the rest, or is asked what it lacks.
            return Replay(old.entries, old.reached, is_complete=False, holes=old.holes)
        entries = [entry for entry in old.entries if entry.offset <= upto[entry.envelope.room]]
        is_complete = not old.holes and old.reached >= max(upto.values())
        return Replay(entries, old.reached, is_complete, old.holes)

    # Privacy --------------------------------------------------------------------------------

    async def erase(self, erasure: Erasure) -> int:
        """
        Make what *erasure* covers gone from logs and archive; gives how many messages that were.

        Raises:
            Refused: ARCHIVE_UNAVAILABLE: some of it may be there still, ask again.
        """
        hot = await self._edge.shards.erase(erasure)
        if self._edge.archive is None:
            logger.info("erased", extra={"kind": erasure.kind, "by": erasure.by, "count": hot})
            return hot
        try:
            return max(hot, await self._edge.archive.erase(erasure))
        except ArchiveUnavailable as exc:
            logger.warning("erasing without the archive", extra={"why": exc.sentence})
            sentence = "the archive does not answer: ask again"
            raise Refused(RefusalCode.ARCHIVE_UNAVAILABLE, sentence) from exc


async def _reaches_back(shard: Home, room: RoomId, after: int) -> bool:
    """Whether the log has all that the room got after *after*."""
    try:
        replay = await shard.read({room: 0}, after, PEEK_BYTES)
    except Moved:
        return False  # the archive has it, or the page begins where the log does
    return not replay.holes


async def _older(archive: Archive, room: RoomId, hot: Page, before: int | None, limit: int) -> Page:
    """Continue a page of the log downwards."""
    oldest = hot.entries[0].offset if hot.entries else before
    cold = await archive.page(
        room, before=oldest, after=None, limit=max(1, limit - len(hot.entries))
    )
    both = cut_page([*reversed(hot.entries), *reversed(cold.entries)], limit, is_forward=False)
    return Page(both.entries, cold.next if both.next is None else both.next)


async def _newer(archive: Archive, room: RoomId, hot: Page, span: range, limit: int) -> Page:
    """Begin a page that goes upwards with what the log does not have any more."""
    oldest = hot.entries[0].offset if hot.entries else span.stop
    cold = await archive.page(room, before=oldest, after=span.start, limit=limit)
    if cold.next is not None:
        return cold
    both = cut_page([*cold.entries, *hot.entries], limit, is_forward=True)
    return Page(both.entries, hot.next if both.next is None else both.next)
