"""Presence: one join and one leave a user, none for a short absence, counts in large rooms."""

from __future__ import annotations

from typing import Any

import pytest

from roomful.shard.base import Member, Members, Shard
from roomful.shard.message import RoomId, UserId
from roomful.shard.presence import PresenceLimits
from shard.recording import RecordingSink, make_envelope, store
from shard.site import Site

ROOM = RoomId("r")
GRACE_S = 10.0


@pytest.fixture
def sink() -> RecordingSink:
    """The edge of the test."""
    return RecordingSink()


@pytest.fixture
async def shard(site: Site, sink: RecordingSink) -> Shard:
    """A shard that names up to three users, with a grace of 10 s, whose room is held."""
    shard = await site.make(sink, presence=PresenceLimits(grace_s=GRACE_S, list_limit=3))
    await shard.hold(ROOM)
    return shard


async def join(shard: Shard, user: str, connection: str = "c", status: str = "online") -> Members:
    """Let *user* into the room."""
    return (await shard.join(ROOM, UserId(user), connection, status)).members


async def leave(shard: Shard, user: str, connection: str = "c", *, with_grace: bool) -> None:
    """Let *user* out of the room."""
    await shard.leave(ROOM, UserId(user), connection, with_grace=with_grace)


async def told(site: Site, sink: RecordingSink) -> list[tuple[str, dict[str, Any]]]:
    """Give what the room was told since the last time of asking."""
    await site.pass_time(0.01)
    return sink.told(ROOM)


def joined(user: str, status: str = "online") -> tuple[str, dict[str, str]]:
    """Give what the others hear of a join."""
    return "user-joined", {"userId": user, "roomId": "r", "status": status}


def left(user: str) -> tuple[str, dict[str, str]]:
    """Give what the others hear of a leave."""
    return "user-left", {"userId": user, "roomId": "r"}


async def test_a_join_is_told_and_names_the_members(
    site: Site, shard: Shard, sink: RecordingSink
) -> None:
    """The others hear `user-joined` with the status; the answer names everyone, itself too."""
    assert (await join(shard, "alice", status="busy")).count == 1
    members = await join(shard, "bob")
    assert list(members.members) == [Member(UserId("alice"), "busy"), Member(UserId("bob"))]
    assert members.count == 2
    await site.catch_up()
    assert [cast.except_user for cast in sink.casts] == ["alice", "bob"]
    assert await told(site, sink) == [joined("alice", "busy"), joined("bob")]


async def test_joined_knows_the_newest_offset(shard: Shard) -> None:
    """What is stored before a join is at or below its offset, what comes after it is above."""
    (before,) = await store(shard, make_envelope("r", "1"))
    offset = (await shard.join(ROOM, UserId("alice"), "c", "online")).offset
    (after,) = await store(shard, make_envelope("r", "2"))
    assert before.offset <= offset < after.offset


async def test_a_user_joins_and_leaves_once(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """However many connections: the first joins, the last leaves."""
    for connection in ("phone", "laptop", "phone"):
        members = await join(shard, "alice", connection)
        assert members.count == 1
    await leave(shard, "alice", "phone", with_grace=False)
    assert await told(site, sink) == [joined("alice")]
    await leave(shard, "alice", "laptop", with_grace=False)
    assert await told(site, sink) == [left("alice")]
    assert (await shard.members(ROOM)).count == 0


async def test_leaving_twice_changes_nothing(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """A connection that is not there leaves nothing, and takes no other with it."""
    await join(shard, "alice", "phone")
    for connection in ("laptop", "laptop"):
        await leave(shard, "alice", connection, with_grace=False)
    await leave(shard, "nobody", with_grace=False)
    assert await told(site, sink) == [joined("alice")]
    assert (await shard.members(ROOM)).count == 1


async def test_rooms_are_apart(shard: Shard) -> None:
    """Presence in one room is none in another."""
    await join(shard, "alice")
    assert await shard.members(RoomId("other")) == Members([], 0)


# Grace -----------------------------------------------------------------------------------------


async def test_a_short_absence_is_not_told(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """A user who is back within the grace neither left nor joined."""
    await join(shard, "alice", "before")
    await told(site, sink)
    await leave(shard, "alice", "before", with_grace=True)
    assert (await shard.members(ROOM)).count == 1
    await site.pass_time(GRACE_S - 2)
    await join(shard, "alice", "after")
    await site.pass_time(3 * GRACE_S)
    assert await told(site, sink) == []
    assert (await shard.members(ROOM)).count == 1


async def test_a_long_absence_is_told_once(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """After the grace the user is gone, by itself."""
    await join(shard, "alice")
    await told(site, sink)
    await leave(shard, "alice", with_grace=True)
    await site.pass_time(GRACE_S - 2)
    assert await told(site, sink) == []
    await site.pass_time(5)
    assert await told(site, sink) == [left("alice")]
    assert (await shard.members(ROOM)).count == 0
    await site.pass_time(3 * GRACE_S)
    assert await told(site, sink) == []


async def test_the_grace_begins_anew_with_each_absence(
    site: Site, shard: Shard, sink: RecordingSink
) -> None:
    """An earlier absence that ended does not shorten a later one."""
    await join(shard, "alice", "one")
    await leave(shard, "alice", "one", with_grace=True)
    await site.pass_time(GRACE_S / 2)
    await join(shard, "alice", "two")
    await leave(shard, "alice", "two", with_grace=True)
    await told(site, sink)
    await site.pass_time(GRACE_S / 2 + 2)
    assert await told(site, sink) == []
    await site.pass_time(GRACE_S / 2 + 2)
    assert await told(site, sink) == [left("alice")]


async def test_leaving_on_purpose_ends_the_grace(
    site: Site, shard: Shard, sink: RecordingSink
) -> None:
    """Who comes back and says so is gone at once, and is not told of twice."""
    await join(shard, "alice", "one")
    await leave(shard, "alice", "one", with_grace=True)
    await join(shard, "alice", "two")
    await leave(shard, "alice", "two", with_grace=False)
    await site.pass_time(3 * GRACE_S)
    assert await told(site, sink) == [joined("alice"), left("alice")]


async def test_a_user_who_left_joins_anew(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """Told again, with the new status, and behind those who stayed."""
    await join(shard, "alice", status="busy")
    await join(shard, "bob")
    await leave(shard, "alice", with_grace=False)
    members = await join(shard, "alice", status="away")
    assert list(members.members) == [Member(UserId("bob")), Member(UserId("alice"), "away")]
    assert (await told(site, sink))[-2:] == [left("alice"), joined("alice", "away")]


async def test_absence_and_more_connections_keep_place_and_status(
    site: Site, shard: Shard, sink: RecordingSink
) -> None:
    """The first join counts: a user in the grace, or with another connection, is the same one."""
    await join(shard, "alice", "one", status="busy")
    await join(shard, "bob")
    await join(shard, "alice", "two", status="online")
    await leave(shard, "alice", "one", with_grace=True)
    await leave(shard, "alice", "two", with_grace=True)
    await shard.set_status(ROOM, UserId("alice"), "away")
    members = await join(shard, "alice", "three", status="online")
    assert list(members.members) == [Member(UserId("alice"), "away"), Member(UserId("bob"))]
    assert await told(site, sink) == [joined("alice", "busy"), joined("bob")]


async def test_a_room_that_is_empty_forgets(site: Site, shard: Shard) -> None:
    """Statuses too."""
    await join(shard, "alice", status="busy")
    await leave(shard, "alice", with_grace=False)
    assert await shard.members(ROOM) == Members([], 0)
    assert list((await join(shard, "alice")).members) == [Member(UserId("alice"))]


# Status ----------------------------------------------------------------------------------------


async def test_status_is_of_the_user(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """It shows in the members; telling the others is not the shard's."""
    await join(shard, "alice")
    await join(shard, "bob")
    await told(site, sink)
    for status in ("busy", "online", "away"):
        await shard.set_status(ROOM, UserId("alice"), status)
        members = await shard.members(ROOM)
        assert {member.user_id: member.status for member in members.members} == {
            "alice": status,
            "bob": "online",
        }
    assert await told(site, sink) == []


async def test_status_of_nobody_changes_nothing(shard: Shard) -> None:
    """Who is not there gets no status, and is not there after it."""
    await shard.set_status(ROOM, UserId("nobody"), "away")
    assert await shard.members(ROOM) == Members([], 0)


# Large rooms -----------------------------------------------------------------------------------


async def test_large_rooms_are_counted(site: Site, shard: Shard, sink: RecordingSink) -> None:
    """Above list_limit users nobody is named, and the room hears its count."""
    for number in range(3):
        assert (await join(shard, f"u{number}")).count == number + 1
    await told(site, sink)
    members = await join(shard, "u3")
    assert (list(members.members), members.count) == ([], 4)
    await join(shard, "u4")
    await site.pass_time(2)
    # An edge may have swept between the two joins.
    assert (await told(site, sink))[-1] == ("presence-count", {"roomId": "r", "count": 5})
    await leave(shard, "u4", with_grace=False)
    await site.pass_time(2)
    assert await told(site, sink) == [("presence-count", {"roomId": "r", "count": 4})]


async def test_counts_come_at_most_once_a_second(
    site: Site, shard: Shard, sink: RecordingSink
) -> None:
    """A rush of joins is one event a second, and none when nothing changes."""
    for number in range(200):
        await join(shard, f"u{number}")
        await site.pass_time(0.02)
    await site.pass_time(2)
    counts = [body["count"] for event, body in await told(site, sink) if event == "presence-count"]
    assert 3 <= len(counts) <= 6
    assert counts == sorted(counts)
    assert counts[-1] == 200
    await site.pass_time(60)
    assert await told(site, sink) == []


async def test_a_room_that_shrinks_is_named_again(
    site: Site, shard: Shard, sink: RecordingSink
) -> None:
    """At list_limit users and below, members are named and leaves are told."""
    for number in range(4):
        await join(shard, f"u{number}")
    await site.pass_time(2)
    await told(site, sink)
    await leave(shard, "u0", with_grace=False)
    assert await told(site, sink) == [left("u0")]
    members = await shard.members(ROOM)
    assert [member.user_id for member in members.members] == ["u1", "u2", "u3"]


async def test_without_grace_a_lost_user_leaves_at_once(site: Site, sink: RecordingSink) -> None:
    """A grace of 0 seconds is none."""
    shard = await site.make(sink, presence=PresenceLimits(grace_s=0))
    await shard.hold(ROOM)
    await join(shard, "alice")
    await leave(shard, "alice", with_grace=True)
    assert await told(site, sink) == [joined("alice"), left("alice")]
