"""Log and archive as one sequence, wherever the border between them is, and without the archive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.world import make_settings
from roomful.archive.postgres import PostgresArchive
from roomful.archive.sqlite import SqliteArchive
from roomful.edge.edge import Edge
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Archived
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryShard
from roomful.shard.message import Entry, RoomId
from shard.recording import RecordingSink, make_envelope, store

A = RoomId("a")
PLENTY = 1 << 30


class ArchivedShard(MemoryShard):
    """A shard of which the test puts everything into the archive."""

    async def archived(self) -> Archived:
        """Say so."""
        return Archived(self.position())


async def make_edge(
    rooms: Sequence[str], kept: int, archive: SqliteArchive
) -> tuple[Edge, list[Entry]]:
    """Store a message in each of *rooms*, all of them archived; gives the edge and them."""
    shard, sink = ArchivedShard(log_limits=LogLimits(messages_per_room=kept)), RecordingSink()
    shard.attach(sink)
    for number, room in enumerate(rooms):
        await store(shard, make_envelope(room, str(number)))
    await archive.store(shard.name, sink.entries)
    edge = Edge(make_settings(), shards=shard)
    edge.archive = archive
    return edge, sink.entries


@settings(max_examples=40)
@given(
    rooms=st.lists(st.sampled_from("ab"), max_size=30),
    kept=st.integers(1, 10),
    limit=st.integers(1, 8),
    is_forward=st.booleans(),
)
def test_pages_are_the_whole_room_once(
    tmp_path_factory: pytest.TempPathFactory,
    rooms: list[str],
    kept: int,
    limit: int,
    *,
    is_forward: bool,
) -> None:
    """Walking by `next` from either end gives every message of the room, in order."""

    async def walk() -> None:
        archive = SqliteArchive(tmp_path_factory.mktemp("archive") / "messages.sqlite3")
        edge, entries = await make_edge(rooms, kept, archive)
        expected = [one for one in entries if one.envelope.room == A]
        seen: list[Entry] = []
        at: int | None = 0 if is_forward else None
        for _ in range(len(rooms) + 2):
            before, after = (None, at) if is_forward else (at, None)
            page = await edge.history.page(A, before=before, after=after, limit=limit)
            assert len(page.entries) <= limit
            seen = [*seen, *page.entries] if is_forward else [*page.entries, *seen]
            at = page.next
            if at is None:
                break
        assert seen == expected
        await archive.aclose()

    asyncio.run(walk())


@pytest.mark.parametrize("before", [0, 1, 3, 6, 8, 11])
@pytest.mark.parametrize("after", [0, 2, 5, 7])
async def test_a_page_between_two_offsets_ends_at_both(
    tmp_path: Path, after: int, before: int
) -> None:
    """What is above one and below the other, wherever the log begins: below 0 there is nothing."""
    archive = SqliteArchive(tmp_path / "messages.sqlite3")
    edge, entries = await make_edge(["a"] * 10, 4, archive)
    page = await edge.history.page(A, before=before, after=after, limit=20)
    await archive.aclose()
    assert page.entries == [one for one in entries if after < one.offset < before]
    assert page.next is None


@settings(max_examples=40)
@given(
    rooms=st.lists(st.sampled_from("ab"), max_size=30),
    kept=st.integers(1, 10),
    after=st.integers(0, 30),
    limit_bytes=st.sampled_from([1, 1500, PLENTY]),
)
def test_what_was_missed_is_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rooms: list[str],
    kept: int,
    after: int,
    limit_bytes: int,
) -> None:
    """Reading on from where the last read reached gives all that the rooms got, with no hole."""

    async def walk() -> None:
        archive = SqliteArchive(tmp_path_factory.mktemp("archive") / "messages.sqlite3")
        edge, entries = await make_edge(rooms, kept, archive)
        home = edge.shards.shard_of(A)
        begun = at = min(after, len(rooms))
        seen: list[Entry] = []
        for _ in range(len(rooms) + 2):
            replay = await edge.history.read(home, {A: 0, RoomId("b"): 0}, at, limit_bytes)
            assert not replay.holes
            seen += replay.entries
            at = replay.reached
            if replay.is_complete:
                break
        assert seen == entries[begun:]
        await archive.aclose()

    asyncio.run(walk())


async def test_without_its_archive_an_edge_is_honest(tmp_path: Path) -> None:
    """
    While the archive is away: what the log has, then a refusal, never a page with gaps.

    A client that missed more than the log has is told of the hole.
    """
    archive = SqliteArchive(tmp_path / "messages.sqlite3")
    edge, entries = await make_edge(["a"] * 10, 4, archive)
    await archive.aclose()
    away = PostgresArchive("postgresql://nobody@127.0.0.1:1/none", timeout_s=5)
    edge.archive = away
    newest = await edge.history.page(A, before=None, after=None, limit=6)
    assert newest.entries == entries[6:]
    assert newest.next == entries[6].offset
    for before, after in ((newest.next, None), (None, 2)):
        with pytest.raises(Refused) as refused:
            await edge.history.page(A, before=before, after=after, limit=6)
        assert refused.value.code is RefusalCode.ARCHIVE_UNAVAILABLE
        assert refused.value.code.is_retryable
    forward = await edge.history.page(A, before=None, after=entries[6].offset, limit=6)
    assert forward.entries == entries[7:]
    home = edge.shards.shard_of(A)
    assert (await edge.history.read(home, {A: 0}, 2, PLENTY)).holes == [A]
    assert (await edge.history.read(home, {A: 0}, 7, PLENTY)).entries == entries[7:]
    await away.aclose()


async def test_rooms_that_are_not_archived_keep_their_holes(tmp_path: Path) -> None:
    """The archive has nothing of them, which is not the same as that nothing was sent."""
    archive = SqliteArchive(tmp_path / "messages.sqlite3")
    edge, _ = await make_edge(["a"] * 10, 4, archive)
    edge.room_class = lambda _room: "-"
    assert (await edge.history.read(edge.shards.shard_of(A), {A: 0}, 2, PLENTY)).holes == [A]
    await archive.aclose()
