"""Messages in chunks: whatever comes in which order, a room is what a list would be."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from roomful.archive.sqlite_chunks import (
    CHUNK_ENTRIES,
    backward,
    connect,
    forward,
    insert,
    migrate,
    newest_first,
)
from roomful.cluster.cursor import ShardName
from roomful.shard.message import Entry, RoomId
from shard.recording import make_envelope

SHARDS = ShardName("s1"), ShardName("s2")
ROOMS = RoomId("a"), RoomId("b")
Place = tuple[str, int, str]

# Runs of offsets, as batches are, that may overlap in any way.
batches = st.lists(
    st.tuples(
        st.sampled_from(SHARDS),
        st.sampled_from(ROOMS),
        st.integers(0, 600),
        st.integers(1, 2 * CHUNK_ENTRIES),
        st.integers(1, 3),
        st.sampled_from((1, 900)),
    ),
    min_size=1,
    max_size=8,
)


@given(batches, st.integers(-1, 900), st.integers(0, 900))
def test_a_room_is_each_message_once_in_order(
    written: list[tuple[ShardName, RoomId, int, int, int, int]], after: int, before: int
) -> None:
    """Also when batches overlap, come again, or come late, and of two shards; both ways."""
    with TemporaryDirectory() as directory:
        connection = connect(Path(directory) / "x")
        migrate(connection)
        kept: set[Place] = set()
        for shard, room, first, count, step, size in written:
            offsets = range(first, first + count * step, step)
            entries = [
                Entry(offset, make_envelope(room, str(offset), body=b"x" * size))
                for offset in offsets
            ]
            places = {(room, offset, shard) for offset in offsets}
            assert insert(connection, shard, entries) == len(places - kept)
            kept |= places
        for room in ROOMS:
            offsets_of = sorted(offset for one, offset, _ in kept if one == room)
            wanted = [offset for offset in offsets_of if after < offset < before]
            ahead = [one.offset for one in forward(connection, room, after, before)]
            back = [one.offset for one in backward(connection, room, after, before)]
            assert ahead == wanted
            assert back == wanted[::-1]
            ranges = connection.execute(
                "SELECT first, last FROM chunk WHERE room = ? ORDER BY last", (room,)
            ).fetchall()
            assert all(one[1] < other[0] for one, other in pairwise(ranges))
        for shard in SHARDS:
            newest = [one.offset for one in newest_first(connection, shard)]
            assert newest == sorted(newest, reverse=True)
        connection.close()


def test_a_quiet_room_has_few_chunks_and_a_busy_one_full_ones(tmp_path: Path) -> None:
    """One message at a time, or thousands."""
    connection = connect(tmp_path / "x")
    migrate(connection)
    for offset in range(100):
        insert(connection, SHARDS[0], [Entry(offset, make_envelope("a", str(offset)))])
    entries = [Entry(offset, make_envelope("b", str(offset))) for offset in range(3000)]
    insert(connection, SHARDS[0], entries)
    counts = dict(connection.execute("SELECT room, count(*) FROM chunk GROUP BY room").fetchall())
    assert counts["a"] <= 50
    assert counts["b"] <= 3000 / CHUNK_ENTRIES + 1
    connection.close()
