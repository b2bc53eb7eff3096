"""Presence: one join and one leave a user, over all edges; counts in large rooms."""

from __future__ import annotations

from functions.calls import FIRST, Calls, Cast, Ear, Post, bucket_of
from functions.edges import GRACE_MS, LIMIT, ROOM, Edge, counted, idle, joined, left
from functions.server import RunningServer

# Joining and leaving ---------------------------------------------------------------------------


def test_a_join_without_a_list_only_counts(edge: Edge) -> None:
    """Who resumes needs no list of a full room."""
    edge.join("alice")
    assert edge.join("bob", shown=0) == (FIRST - 1, [], 2)


def test_a_user_joins_and_leaves_once_over_all_edges(edge: Edge, other: Edge, ear: Ear) -> None:
    """However many connections: the first joins, the last leaves."""
    edge.join("alice", "phone")
    other.join("alice", "laptop")
    other.join("alice", "phone")
    edge.join("alice", "phone")
    assert edge.users() == ["alice"]
    assert [edge.leave("alice", "phone"), other.leave("alice", "phone")] == [1, 1]
    assert ear.told() == [joined("alice")]
    assert other.leave("alice", "laptop") == 1
    assert ear.told() == [left("alice")]
    assert edge.users() == []


def test_leaving_without_being_there_changes_nothing(edge: Edge, other: Edge, ear: Ear) -> None:
    """Neither twice, nor by another edge's connection of the same name, nor by nobody."""
    edge.join("alice", "c")
    assert other.leave("alice", "c") == 0
    assert edge.leave("alice", "d") == 0
    assert edge.leave("nobody") == 0
    assert ear.told() == [joined("alice")]
    edge.leave("alice", "c")
    assert edge.leave("alice", "c") == 0
    assert ear.told() == [left("alice")]


def test_presence_that_ended_leaves_no_key(shard: Calls, edge: Edge, other: Edge) -> None:
    """Rooms that are empty again cost nothing."""
    before = shard.keys()
    edge.join("alice", "1", "away")
    other.join("alice", "2")
    edge.leave("alice", "1", GRACE_MS)
    other.leave("alice", "2")
    assert shard.keys() == before


def test_casts_leave_the_messages_chain_alone(edge: Edge, shard: Calls, ear: Ear) -> None:
    """They come in order with the messages, and no message seems to be missing."""
    (first,) = shard.store(Post(ROOM, "1"))
    edge.join("alice")
    shard.store(Post(ROOM, "2"))
    one, join, two = (item for _, item in ear.heard())
    assert isinstance(join, Cast)
    assert getattr(one, "before", None) == 0
    assert getattr(two, "before", None) == first


# Grace -----------------------------------------------------------------------------------------


def test_a_short_absence_is_not_told(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear
) -> None:
    """A user who is back within the grace, on any edge, neither left nor joined."""
    edge.join("alice", "1")
    edge.leave("alice", "1", GRACE_MS)
    assert edge.users() == ["alice"]
    idle(server, edge, other, seconds=8)
    edge.sweep()
    other.join("alice", "2")
    idle(server, edge, other, seconds=30)
    edge.sweep()
    assert ear.told() == [joined("alice")]
    assert edge.users() == ["alice"]


def test_a_long_absence_is_told_once(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear
) -> None:
    """After the grace the user is gone, whoever sweeps, and however often."""
    edge.join("alice")
    edge.leave("alice", grace_ms=GRACE_MS)
    idle(server, edge, other, seconds=8)
    assert edge.sweep() == 0
    assert edge.users() == ["alice"]
    idle(server, edge, other, seconds=3)
    for one in (other, edge, other):
        one.sweep()
    assert ear.told() == [joined("alice"), left("alice")]
    assert edge.users() == []


# Large rooms -----------------------------------------------------------------------------------


def test_large_rooms_are_counted(server: RunningServer, edge: Edge, ear: Ear) -> None:
    """Above the limit nobody is named, and the room hears its count; below it all are again."""
    for number in range(LIMIT):
        edge.join(f"u{number}")
    ear.told()
    assert edge.join("u3")[1:] == ([], 4)
    edge.join("u4")
    edge.sweep()
    assert ear.told() == [counted(5)]
    idle(server, edge, seconds=2)
    edge.leave("u4")
    edge.sweep()
    assert ear.told() == [counted(4)]
    edge.leave("u0")
    assert ear.told() == [left("u0")]
    assert edge.users() == ["u1", "u2", "u3"]


def test_a_key_that_is_no_presence_costs_its_large_room_alone(
    edge: Edge, ear: Ear, shard: Calls
) -> None:
    """Somebody made it something else: the others hear their counts."""
    for number in range(LIMIT + 1):
        for room in (ROOM, "b"):
            edge.join(f"u{number}", people=f"{bucket_of(room)}p:{room}")
    ear.told()
    poisoned = f"{bucket_of('b')}p:b"
    shard.command("DEL", poisoned)
    shard.command("SET", poisoned, "poison")
    edge.sweep()
    assert ear.told() == [counted(4)]


def test_counts_come_at_most_once_a_second(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear
) -> None:
    """However many edges sweep, and none when nothing changes."""
    for number in range(LIMIT + 1):
        edge.join(f"u{number}")
    ear.told()
    edge.sweep()
    other.join("u9")
    for one in (edge, other, edge):
        one.sweep()
    assert ear.told() == [counted(4)]
    idle(server, edge, other, seconds=2)
    for one in (edge, other):
        one.sweep()
    assert ear.told() == [counted(5)]
    idle(server, edge, other, seconds=2)
    edge.sweep()
    assert ear.told() == []
