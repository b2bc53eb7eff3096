"""Erasing from the hot logs: what someone wants to be gone is, and nobody misses it."""

from __future__ import annotations

import pytest

from roomful.shard.base import Shard
from roomful.shard.erasure import Erasure
from roomful.shard.message import RoomId, UserId, user_room
from shard.clock import EPOCH_S
from shard.recording import RecordingSink, make_envelope, store
from shard.site import Capability, Site

NOW_MS = int(EPOCH_S * 1000)
PLENTY = 1 << 30
A, B = RoomId("a"), RoomId("b")
ALICE = UserId("alice")
OWN = user_room(ALICE)


@pytest.fixture
async def shard(site: Site) -> Shard:
    """A shard with messages of two users in two rooms, and in a user's own."""
    shard = await site.make(RecordingSink())
    for number, (room, user) in enumerate(
        [("a", "alice"), ("a", "bob"), ("b", "alice"), ("a", "alice"), (OWN, "bob"), ("b", "bob")]
    ):
        await store(shard, make_envelope(room, str(number), user=user), is_named=True)
    # Asked for when it was not there yet.
    await store(shard, make_envelope("a", "late", user="alice", at_s=EPOCH_S + 1))
    return shard


async def kept(shard: Shard) -> dict[str, list[str]]:
    """Give the ids in each room's log."""
    found = {}
    for room in (A, B, OWN):
        page = await shard.page(room, before=None, after=None, limit=100)
        found[str(room)] = [entry.envelope.id for entry in page.entries]
    return found


async def test_a_room_is_erased(shard: Shard) -> None:
    """All of it up to the moment of asking, and no other room."""
    assert await shard.erase(Erasure(NOW_MS, "x", room=A)) == 3
    assert await kept(shard) == {"a": ["late"], "b": ["2", "5"], OWN: ["4"]}


async def test_a_message_is_erased(shard: Shard) -> None:
    """The one at the offset, if it is in the room."""
    page = await shard.page(A, before=None, after=None, limit=100)
    second = page.entries[1].offset
    assert await shard.erase(Erasure(NOW_MS, "x", room=B, offset=second)) == 0
    assert await shard.erase(Erasure(NOW_MS, "x", room=A, offset=second)) == 1
    assert await shard.erase(Erasure(NOW_MS, "x", room=A, offset=second)) == 0
    assert await kept(shard) == {"a": ["0", "3", "late"], "b": ["2", "5"], OWN: ["4"]}


async def test_a_message_that_is_newer_than_the_asking_stays(shard: Shard) -> None:
    """Whoever names it: an order that comes late must not take what came after it."""
    page = await shard.page(A, before=None, after=None, limit=100)
    newest = page.entries[-1].offset
    assert await shard.erase(Erasure(NOW_MS, "x", room=A, offset=newest)) == 0
    assert (await kept(shard))["a"][-1] == "late"


async def test_all_of_a_user_is_erased(shard: Shard) -> None:
    """What the user sent, in all rooms, and the whole of the user's own room."""
    assert await shard.erase(Erasure(NOW_MS, "x", user=ALICE)) == 4
    assert await kept(shard) == {"a": ["1", "late"], "b": ["5"], OWN: []}


async def test_what_nobody_has_is_erased_too(shard: Shard) -> None:
    """Rooms and users that are not there: nothing goes."""
    before = await kept(shard)
    assert await shard.erase(Erasure(NOW_MS, "x", room=RoomId("other"))) == 0
    assert await shard.erase(Erasure(NOW_MS, "x", user=UserId("nobody"))) == 0
    assert await kept(shard) == before


@pytest.mark.needs(Capability.ERASED_WITHOUT_TRACE)
async def test_what_was_erased_is_no_hole(shard: Shard) -> None:
    """Who resumes gets the rest, and is not told that something is missing."""
    await shard.erase(Erasure(NOW_MS, "x", room=A))
    await shard.erase(Erasure(NOW_MS, "x", user=UserId("bob")))
    replay = await shard.read({A: 0, B: 0, OWN: 0}, 0, PLENTY)
    assert replay.is_complete
    assert [entry.envelope.id for entry in replay.entries] == ["2", "late"]


async def test_what_was_erased_is_not_read(shard: Shard) -> None:
    """Where something went a room may have a hole, and the others have none."""
    await shard.erase(Erasure(NOW_MS, "x", room=A))
    assert set((await shard.read({A: 0, B: 0}, 0, PLENTY)).holes) <= {A}
    assert [one.envelope.id for one in (await shard.read({B: 0}, 0, PLENTY)).entries] == ["2", "5"]


async def test_a_room_that_was_erased_goes_on(shard: Shard) -> None:
    """New messages have newer offsets, and are all there is."""
    before = await shard.read({A: 0}, 0, PLENTY)
    await shard.erase(Erasure(NOW_MS + 1000, "x", room=A))
    (stored,) = await store(shard, make_envelope("a", "new"))
    assert stored.offset > before.reached
    assert (await kept(shard))["a"] == ["new"]
    after = await shard.read({A: 0}, before.reached, PLENTY)
    assert ([one.envelope.id for one in after.entries], after.is_complete) == (["new"], True)


async def test_an_id_stays_taken(shard: Shard) -> None:
    """A sender's retry does not bring back what was erased."""
    (first,) = await store(shard, make_envelope("a", "0", user="alice"), is_named=True)
    await shard.erase(Erasure(NOW_MS, "x", room=A))
    assert await store(shard, make_envelope("a", "0", user="alice"), is_named=True) == [first]
    assert (await kept(shard))["a"] == ["late"]
