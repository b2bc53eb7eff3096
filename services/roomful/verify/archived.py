"""What the archive has at the end, beside the logs: it has to be the same, message by message."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from roomful.archive.base import Archive, ArchiveUnavailable
from roomful.shard.message import RoomId
from roomful.verify.ledger import FOREIGN, Stored, key_text, parse_key

__all__ = ["ArchiveFigures", "compare_archive", "read_archive"]

ARRIVE_S: Final = 120.0
"""For what was stored last to be archived, and for a database that was away to be back."""
LOOK_S: Final = 0.5
_EXAMPLES: Final = 5


class ArchiveFigures(msgspec.Struct, frozen=True, rename="camel"):
    """How the archive differs from the logs, which are compared with all acks for themselves."""

    messages: int
    missing: int
    """In the log, and not in the archive."""
    doubled: int
    """More than once in the archive."""
    strange: int
    """In the archive, and not in the log, or at another offset there."""
    reordered: int
    """Rooms that are the same as the log but for their order."""
    arrived_s: float
    """From the logs having been read to the archive being the same."""
    examples: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether it is the same."""
        return not (self.missing or self.doubled or self.strange or self.reordered)


async def read_archive(
    archive: Archive, logs: Mapping[str, Sequence[Stored]], *, patience_s: float = ARRIVE_S
) -> ArchiveFigures:
    """
    Compare *archive* with *logs*, as soon as it is the same or after *patience_s*.

    Raises:
        ArchiveUnavailable: it could not be read to the end.
    """
    began = time.monotonic()
    while True:
        elapsed_s = time.monotonic() - began
        try:
            archived = await _read(archive, logs)
        except ArchiveUnavailable:
            if elapsed_s > patience_s:
                raise
        else:
            figures = compare_archive(logs, archived, round(elapsed_s, 1))
            if figures.ok or elapsed_s > patience_s:
                return figures
        await asyncio.sleep(LOOK_S)


async def _read(archive: Archive, rooms: Iterable[str]) -> dict[str, list[Stored]]:
    found: dict[str, list[Stored]] = {}
    for room in rooms:
        found[room] = [
            Stored(kept.entry.offset, parse_key(kept.entry.envelope.id) or FOREIGN)
            async for batch in archive.export(room=RoomId(room))
            for kept in batch
        ]
    return found


def compare_archive(
    logs: Mapping[str, Sequence[Stored]],
    archived: Mapping[str, Sequence[Stored]],
    arrived_s: float = 0.0,
) -> ArchiveFigures:
    """Compare what is *archived* of each room, by offset, with its log."""
    examples: list[str] = []
    missing = doubled = strange = reordered = 0

    def tell(room: str, what: str, of: Iterable[Stored]) -> None:
        for one in of:
            if len(examples) < _EXAMPLES:
                examples.append(f"{key_text(one.key)} at {one.offset} in {room} {what}")

    for room, log in logs.items():
        there = archived.get(room, ())
        if [*there] == [*log]:
            continue
        absent, other = {*log} - {*there}, {*there} - {*log}
        twice = {key for key, count in Counter(one.key for one in there).items() if count > 1}
        missing += len(absent)
        strange += len(other)
        doubled += len(twice)
        reordered += not (absent or other or twice)
        tell(room, "is not in the archive", absent)
        tell(room, "is in the archive and not in the log", other)
        tell(room, "is there twice", (one for one in there if one.key in twice))
    return ArchiveFigures(
        sum(map(len, archived.values())),
        *(missing, doubled, strange, reordered),
        arrived_s,
        examples,
    )
