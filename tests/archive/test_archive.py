"""What every archive promises (archive/base.py), asked of SQLite, PostgreSQL and PgBouncer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from roomful.archive.base import Archive, Erasure, Kept, Letter, Rule, Stored
from roomful.cluster.cursor import ShardName
from roomful.shard.message import Entry, RoomId, UserId
from shard.recording import make_envelope

S1, S2 = ShardName("s1"), ShardName("s2")
A, B = RoomId("a"), RoomId("b")
ALICE, BOB = UserId("alice"), UserId("bob")
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
PLENTY = 1 << 30


def entry(
    offset: int,
    room: str = "a",
    *,
    user: str = "alice",
    age_days: float = 0,
    body: bytes = b'{"x":1',
    attachments: tuple[bytes, ...] = (),
) -> Entry:
    """Make a message whose id is its offset."""
    at_s = (NOW_MS - int(age_days * DAY_MS)) / 1000
    envelope = make_envelope(
        room, str(offset), user=user, body=body, at_s=at_s, attachments=attachments
    )
    return Entry(offset, envelope)


async def offsets(archive: Archive, room: RoomId = A) -> list[int]:
    """Give the offsets of all that is kept of *room*."""
    page = await archive.page(room, before=None, after=None, limit=1000)
    return [one.offset for one in page.entries]


async def exported(
    archive: Archive, room: RoomId | None = None, user: UserId | None = None
) -> list[Kept]:
    """Give all that is exported."""
    return [one async for batch in archive.export(room=room, user=user) for one in batch]


# Storing -----------------------------------------------------------------------------------------


async def test_messages_come_back_as_they_were(archive: Archive) -> None:
    """Bodies, attachments and names are the same, whatever is in them."""
    entries = [
        entry(1, body=b'{"\xc3\xbc":"\\u0000"', attachments=(b"\x00\xff", b"")),
        entry(2, user="ö'\"\\", body=b""),
        entry(3, body=b"\x00" * 100_000),
    ]
    assert await archive.store(S1, entries) == Stored(3)
    page = await archive.page(A, before=None, after=None, limit=10)
    assert page.entries == entries
    assert page.next is None


async def test_what_comes_again_is_kept_once(archive: Archive) -> None:
    """An archiver that died before it acknowledged: all, or some among new ones."""
    await archive.store(S1, [entry(1), entry(2)])
    assert await archive.store(S1, [entry(1), entry(2)]) == Stored(0)
    assert await archive.store(S1, [entry(2), entry(3)]) == Stored(1)
    assert await offsets(archive) == [1, 2, 3]


async def test_nothing_is_stored_of_nothing(archive: Archive) -> None:
    """An empty batch is no error."""
    assert await archive.store(S1, []) == Stored(0)


async def test_archivers_that_store_the_same_at_once(archive: Archive) -> None:
    """Two got the same entries: one of them stores each."""
    batches = [[entry(n) for n in range(low, low + 60)] for low in (0, 30, 0, 30, 60)]
    done = await asyncio.gather(*(archive.store(S1, batch) for batch in batches))
    assert sum(one.new for one in done) == 120
    assert await offsets(archive) == list(range(120))


async def test_the_same_offset_of_another_shard_is_another_message(archive: Archive) -> None:
    """The key is room, origin and offset."""
    await archive.store(S1, [entry(1, "a")])
    await archive.store(S2, [entry(1, "b")])
    assert len(await exported(archive)) == 2


async def test_messages_of_any_time_are_kept_once(archive: Archive) -> None:
    """Clocks that are years off have no partition of their own, and no second copy either."""
    entries = [entry(1, age_days=9000), entry(2, age_days=-9000), entry(3)]
    await archive.store(S1, entries)
    assert await archive.store(S1, entries) == Stored(0)
    assert await offsets(archive) == [1, 2, 3]


async def test_letters_are_kept_once(archive: Archive) -> None:
    """What is no message does not stop the others, however often it comes."""
    letters = [Letter(S1, 7, b"\x00junk", "not a publication\x00")]
    await archive.bury(letters)
    await archive.bury(letters)


# Pages -------------------------------------------------------------------------------------------


async def test_pages_go_back_and_forth(archive: Archive) -> None:
    """From the newest back, and from any offset on; `next` is where the next one begins."""
    await archive.store(S1, [entry(n) for n in range(1, 8)])
    await archive.store(S1, [entry(n, "b") for n in range(8, 11)])
    newest = await archive.page(A, before=None, after=None, limit=3)
    assert [one.offset for one in newest.entries] == [5, 6, 7]
    older = await archive.page(A, before=newest.next, after=None, limit=3)
    assert [one.offset for one in older.entries] == [2, 3, 4]
    oldest = await archive.page(A, before=older.next, after=None, limit=3)
    assert ([one.offset for one in oldest.entries], oldest.next) == ([1], None)
    first = await archive.page(A, before=None, after=0, limit=4)
    assert ([one.offset for one in first.entries], first.next) == ([1, 2, 3, 4], 4)
    last = await archive.page(A, before=None, after=first.next, limit=4)
    assert ([one.offset for one in last.entries], last.next) == ([5, 6, 7], None)
    between = await archive.page(A, before=5, after=2, limit=4)
    assert [one.offset for one in between.entries] == [3, 4]


async def test_a_page_is_bounded_in_bytes(archive: Archive) -> None:
    """As that of a hot log: large messages come fewer at a time, but always one."""
    await archive.store(S1, [entry(n, body=b"x" * 200_000) for n in (1, 2, 3)])
    page = await archive.page(A, before=None, after=None, limit=3)
    assert ([one.offset for one in page.entries], page.next) == ([3], 3)


async def test_a_room_is_in_one_order_over_shards_and_partitions(archive: Archive) -> None:
    """Its bucket moved, a clock went back: the offset is the order."""
    await archive.store(S2, [entry(30), entry(31, age_days=2)])
    await archive.store(S1, [entry(10, age_days=1), entry(11, age_days=-1)])
    assert await offsets(archive) == [10, 11, 30, 31]


async def test_pages_are_stable_under_writes(archive: Archive) -> None:
    """What is stored meanwhile changes no page that is older."""
    await archive.store(S1, [entry(n) for n in range(1, 31)])
    seen: list[int] = []
    before: int | None = None
    for turn in range(10):
        page = await archive.page(A, before=before, after=None, limit=3)
        seen = [one.offset for one in page.entries] + seen
        before = page.next
        await archive.store(S1, [entry(100 + turn)])
    assert seen == list(range(1, 31))
    assert before is None


# What clients missed -----------------------------------------------------------------------------


async def test_reads_give_what_rooms_missed_in_order(archive: Archive) -> None:
    """Of the rooms asked for, above each one's join, up to the end of the span, wherever born."""
    await archive.store(S1, [entry(n, "ab"[n % 2]) for n in range(1, 9)])
    await archive.store(S1, [entry(9, "c")])
    await archive.store(S2, [entry(4, "d")])
    replay = await archive.read(S1, {A: 4, B: 0, RoomId("d"): 0}, range(3, 8), PLENTY)
    found = [(one.offset, one.envelope.room) for one in replay.entries]
    assert found == [(3, "b"), (4, "d"), (5, "b"), (6, "a"), (7, "b")]
    assert (replay.reached, replay.is_complete) == (7, True)


async def test_reads_are_bounded_and_go_on(archive: Archive) -> None:
    """Page by page, with nothing twice and nothing left out."""
    await archive.store(S1, [entry(n, "ab"[n % 2]) for n in range(1, 21)])
    seen: list[int] = []
    reached, is_complete = 0, False
    while not is_complete:
        replay = await archive.read(S1, {A: 0, B: 0}, range(reached + 1, 31), 1500)
        assert replay.entries
        seen += [one.offset for one in replay.entries]
        reached, is_complete = replay.reached, replay.is_complete
    assert seen == list(range(1, 21))
    assert reached == 30


async def test_many_rows_come_in_pieces(archive: Archive) -> None:
    """More than one statement gives are not taken for all."""
    await archive.store(S1, [entry(n) for n in range(1, 1502)])
    first = await archive.read(S1, {A: 0}, range(1, 2000), PLENTY)
    second = await archive.read(S1, {A: 0}, range(first.reached + 1, 2000), PLENTY)
    both = [*first.entries, *second.entries]
    assert [one.offset for one in both][:1501] == list(range(1, 1502))


# Erasing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("erasure", "left"),
    [
        (Erasure(NOW_MS, "x", room=A, offset=1), [2, 3, 4, 5]),
        (Erasure(NOW_MS, "x", room=A), [3, 4, 5]),
        (Erasure(NOW_MS, "x", user=BOB), [1, 4]),
        (Erasure(NOW_MS - 1, "x", user=BOB), [1, 2, 3, 4, 5]),
    ],
    ids=["message", "room", "user", "later"],
)
async def test_erased_is_gone_and_stays_gone(
    archive: Archive, erasure: Erasure, left: Sequence[int]
) -> None:
    """Also when the same messages come again from an outbox; what was sent later stays."""
    entries = [
        entry(1),
        entry(2, user="bob"),
        entry(3, "b", user="bob"),
        entry(4, "b"),
        entry(5, "user:bob"),
    ]
    await archive.store(S1, entries)
    assert await archive.erase(erasure) == 5 - len(left)
    assert [one.entry.offset for one in await exported(archive)] == left
    await archive.store(S1, entries)
    assert [one.entry.offset for one in await exported(archive)] == left


async def test_nothing_passes_an_erasure(archive: Archive) -> None:
    """Batches that are stored while it runs are before it or after it, never beside it."""

    async def fill(low: int) -> None:
        for n in range(low, low + 20):
            await archive.store(S1, [entry(n * 10 + m) for m in range(5)])

    async with asyncio.TaskGroup() as group:
        for low in (0, 100, 200):
            group.create_task(fill(low))
        erasing = group.create_task(archive.erase(Erasure(NOW_MS, "x", room=A)))
    assert erasing.done()
    assert await offsets(archive) == []


async def test_an_erasure_names_one_thing() -> None:
    """A room, a message in it, or a user."""
    for wrong in ({}, {"room": A, "user": BOB}, {"user": BOB, "offset": 1}):
        with pytest.raises(ValueError, match="names"):
            Erasure(NOW_MS, "x", **wrong)


# Retention ---------------------------------------------------------------------------------------

RULES = (Rule("temp-*", DAY_MS), Rule("keep_*", 100 * DAY_MS), Rule("*", 10 * DAY_MS))


async def test_retention_follows_the_first_rule_that_fits(archive: Archive) -> None:
    """Each room by its own time; `_` is no wildcard."""
    rooms = ("temp-a", "keep_a", "keep-a")
    ages = (101, 11, 1.5, 0.5)
    numbered = enumerate([(room, age) for age in ages for room in rooms], 1)
    await archive.store(S1, [entry(n, room, age_days=age) for n, (room, age) in numbered])
    assert await archive.retain(RULES, NOW_MS) == 3 + 1 + 2
    left = sorted(one.entry.offset for one in await exported(archive))
    assert left == [5, 8, 9, 10, 11, 12]
    assert await archive.retain(RULES, NOW_MS) == 0


async def test_what_retention_took_is_a_hole(archive: Archive) -> None:
    """A client that missed it is not told that it missed nothing; others are."""
    await archive.store(S1, [entry(1, "temp-a", age_days=2), entry(2), entry(3, "temp-a")])
    await archive.retain(RULES, NOW_MS)
    temp = RoomId("temp-a")
    lost = await archive.read(S1, {temp: 0, A: 0}, range(1, 10), PLENTY)
    assert (lost.holes, lost.entries) == ([temp], ())
    later = await archive.read(S1, {temp: 1, A: 0}, range(1, 10), PLENTY)
    assert [one.offset for one in later.entries] == [2, 3]
    newer = await archive.read(S1, {temp: 0}, range(2, 10), PLENTY)
    assert [one.offset for one in newer.entries] == [3]


async def test_without_a_rule_messages_stay(archive: Archive) -> None:
    """No rule, or one that says forever."""
    await archive.store(S1, [entry(1, age_days=9000), entry(2, "temp-a", age_days=9000)])
    assert await archive.retain((), NOW_MS) == 0
    assert await archive.retain((Rule("a", None), Rule("*", DAY_MS)), NOW_MS) == 1
    assert await offsets(archive) == [1]


# Export ------------------------------------------------------------------------------------------


async def test_an_export_is_everything_once(archive: Archive) -> None:
    """More than one statement gives, a room's in order; and only a room's, or a user's."""
    entries = [entry(n, "ab"[n % 2], user="bob" if n % 3 else "alice") for n in range(6001)]
    await archive.store(S1, entries)
    everything = await exported(archive)
    assert sorted(one.entry.offset for one in everything) == list(range(6001))
    assert [one.entry.offset for one in everything if one.entry.envelope.room == A] == list(
        range(0, 6001, 2)
    )
    assert {one.shard for one in everything} == {S1}
    assert len(await exported(archive, room=B)) == 3000
    assert all(one.entry.envelope.user == BOB for one in await exported(archive, user=BOB))
