"""Casts: events for those who are there now, and names that look like something else."""

from __future__ import annotations

import msgspec
import pytest

from roomful.shard.base import Member, Members, SessionRecord
from roomful.shard.message import Cast, RoomId, UserId
from roomful.shard.presence import PresenceLimits
from shard.recording import RecordingSink, make_envelope, store
from shard.site import Site

A = RoomId("a")


@pytest.mark.parametrize("except_user", [None, UserId("bob")])
@pytest.mark.parametrize("is_volatile", [False, True])
async def test_a_cast_comes_as_it_was(
    site: Site, except_user: UserId | None, *, is_volatile: bool
) -> None:
    """With whom it is not for, and whether it may be dropped."""
    sink = RecordingSink()
    shard = await site.make(sink)
    await shard.hold(A)
    cast = Cast(A, "typing", b'{"\xc3\xbc":"\\ud83d\\ude00"}', except_user, is_volatile)
    shard.cast(cast)
    await site.catch_up()
    assert sink.casts == [cast]


async def test_casts_are_not_stored(site: Site) -> None:
    """No offset, no log, nothing to resume."""
    sink = RecordingSink()
    shard = await site.make(sink)
    await shard.hold(A)
    await store(shard, make_envelope("a", "1"))
    before = await shard.read({A: 0}, 0, 1 << 20)
    shard.cast(Cast(A, "typing", b"{}"))
    await site.catch_up()
    assert await shard.read({A: 0}, 0, 1 << 20) == before


async def test_casts_keep_their_order(site: Site) -> None:
    """Of one edge, in one room."""
    sink = RecordingSink()
    shard = await site.make(sink)
    await shard.hold(A)
    for number in range(100):
        shard.cast(Cast(A, str(number), b"{}"))
    await site.catch_up()
    assert [cast.event for cast in sink.casts] == [str(number) for number in range(100)]


async def test_a_room_that_is_held_again_is_heard(site: Site) -> None:
    """However often it was let go."""
    sink = RecordingSink()
    shard = await site.make(sink)
    for number in range(3):
        await shard.hold(A)
        await shard.hold(A)
        await store(shard, make_envelope("a", str(number)))
        await site.catch_up()
        shard.release(A)
        shard.release(A)
    assert [entry.envelope.id for entry in sink.entries] == ["0", "1", "2"]


# Names -----------------------------------------------------------------------------------------

NAMES = [
    pytest.param("ü 東京\u3000駅\U0001f469\u200d\U0001f469", id="scripts"),
    pytest.param("\"\\/'`\u2028\u2029", id="quotes"),
    pytest.param("{1}l:x", id="like a key"),
    pytest.param("}l:{", id="braces"),
    pytest.param("1:x 2:y", id="like an identity"),
    pytest.param("~0", id="like an id of ours"),
    pytest.param("*?[a-z]%s%%", id="patterns"),
    pytest.param("x" * 255, id="long"),
]


@pytest.mark.parametrize("name", NAMES)
async def test_any_name_is_a_room_a_user_a_connection_and_a_pid(site: Site, name: str) -> None:
    """Stored, heard, there and resumed as it is."""
    sink = RecordingSink()
    shard = await site.make(sink, presence=PresenceLimits(grace_s=1))
    room, user = RoomId(name), UserId(name)
    await shard.hold(room)
    envelope = make_envelope(name, name, user=name)
    (first,) = await store(shard, envelope, is_named=True)
    assert await store(shard, envelope, is_named=True) == [first]
    joined = await shard.join(room, user, name, name)
    assert joined.members == Members([Member(user, name)], 1)
    await shard.leave(room, user, name, with_grace=True)
    await site.pass_time(2)
    await site.catch_up()
    assert [entry.envelope for entry in sink.entries] == [envelope]
    told = [(cast.room, cast.event, msgspec.json.decode(cast.body)) for cast in sink.casts]
    assert [(where, event, body["userId"], body["roomId"]) for where, event, body in told] == [
        (name, "user-joined", name, name),
        (name, "user-left", name, name),
    ]
    assert told[0][2]["status"] == name
    record = SessionRecord(name, name, user, {room: 5})
    assert await shard.save_session(record, 60)
    assert await shard.load_session(name) == record


async def test_rooms_whose_names_run_together_are_apart(site: Site) -> None:
    """The same user and id in rooms that begin or end alike."""
    shard = await site.make(RecordingSink())
    rooms = ["a", "aa", "a:a", "a ", "{a}", "a}", "A"]
    for room in rooms:
        await store(shard, make_envelope(room, room), is_named=True)
        await shard.join(RoomId(room), UserId(room), "c", "online")
    for room in rooms:
        page = await shard.page(RoomId(room), before=None, after=None, limit=10)
        assert [entry.envelope.id for entry in page.entries] == [room]
        members = await shard.members(RoomId(room))
        assert [member.user_id for member in members.members] == [room]
