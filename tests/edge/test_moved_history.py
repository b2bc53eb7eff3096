"""Log and archive as one sequence where a room has moved: pages, and what a client missed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.lettered import LetteredShards, Map
from edge.world import make_settings
from roomful.archive.sqlite import SqliteArchive
from roomful.cluster.cursor import ShardName
from roomful.edge.edge import Edge
from roomful.shard.base import Archived, Home
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryShard
from roomful.shard.message import Entry, RoomId
from shard.delaying import DelayingShard, Storage
from shard.recording import make_envelope, store

ROOM = RoomId("a1")
BEFORE, AFTER = 10, 8
KEPT = 6


class ArchivedShard(DelayingShard):
    """A shard of which everything is in the archive."""

    async def archived(self) -> Archived:
        """Say so."""
        return Archived(self._memory.position())


async def moved(path: Path, *, later: int) -> tuple[Edge, SqliteArchive, list[Entry], int]:
    """Store messages, move the room, store *later* ones; gives all, and how far the move is."""
    storages = {}
    for letter in "ab":
        memory = MemoryShard(log_limits=LogLimits(messages_per_room=KEPT))
        memory._name = ShardName(letter)
        storages[letter] = Storage(memory)
    rooms, archive = Map(storages), SqliteArchive(path)
    shards: Mapping[str, DelayingShard] = {
        letter: ArchivedShard(storage, page_bytes=1000) for letter, storage in storages.items()
    }
    edge = Edge(make_settings(), shards=LetteredShards(shards, rooms))
    edge.archive = archive
    for letter, count in (("a", BEFORE), ("b", later)):
        for number in range(count):
            await store(storages[letter].memory, make_envelope(ROOM, f"{letter}{number}"))
        await archive.store(ShardName(letter), storages[letter].entries())
        if letter == "a":
            rooms.move(ROOM, is_broken=False)
    entries = [*storages["a"].entries(), *storages["b"].entries()]
    return edge, archive, entries, rooms.at(ROOM)[2][0].upto


async def read_all(
    edge: Edge, low: int, after: int, elsewhere: tuple[ShardName, Mapping[RoomId, int]] | None
) -> list[Entry]:
    """Read page by page."""
    home: Home = edge.shards.shard_of(ROOM)
    seen: list[Entry] = []
    while True:
        replay = await edge.history.read(home, {ROOM: low}, after, 1000, elsewhere)
        assert not replay.holes
        seen += replay.entries
        if replay.is_complete:
            return seen
        assert replay.reached > after
        after = replay.reached


@pytest.mark.parametrize("later", [0, 1, AFTER])
async def test_each_shards_part_is_whole(tmp_path: Path, later: int) -> None:
    """From log and archive, whatever the log at its new place still has of either."""
    edge, archive, entries, since = await moved(tmp_path / "messages.sqlite3", later=later)
    for after in range(BEFORE + 1):
        part = await read_all(edge, 0, after, (ShardName("a"), {ROOM: since}))
        assert part == entries[after:BEFORE]
    assert await read_all(edge, since, 0, None) == entries[BEFORE:]
    await archive.aclose()


@pytest.mark.parametrize("is_forward", [True, False])
async def test_pages_go_over_a_move(tmp_path: Path, is_forward: bool) -> None:
    """One sequence in either direction."""
    edge, archive, entries, _ = await moved(tmp_path / "messages.sqlite3", later=AFTER)
    seen: list[Entry] = []
    at: int | None = 0 if is_forward else None
    while True:
        before, after = (None, at) if is_forward else (at, None)
        page = await edge.history.page(ROOM, before=before, after=after, limit=4)
        seen = [*seen, *page.entries] if is_forward else [*page.entries, *seen]
        at = page.next
        if at is None:
            break
    assert [entry.offset for entry in seen] == [entry.offset for entry in entries]
    await archive.aclose()
