"""Leases: an edge that died leaves nobody behind, and one that lives loses nobody."""

from __future__ import annotations

import msgspec
import pytest
from redis.exceptions import ResponseError

from functions.calls import TERM, Calls, Ear, bucket_of
from functions.edges import GRACE_MS, ROOM, Edge, idle, joined, left
from functions.server import RunningServer


def test_members_of_a_dead_edge_leave_by_themselves(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear
) -> None:
    """After its lease and the grace; those on another edge too stay, and are not told."""
    edge.join("alice", "1")
    edge.join("bob", "1")
    other.join("bob", "2")
    edge.join("carol", "1")
    ear.told()
    idle(server, other, seconds=6)
    assert other.sweep() == 0
    assert other.users() == ["alice", "bob", "carol"]
    other.join("carol", "2")
    idle(server, other, seconds=11)
    other.sweep()
    assert ear.told() == [left("alice")]
    assert other.users() == ["bob", "carol"]
    assert other.leave("bob", "2") == 1
    assert ear.told() == [left("bob")]


def test_a_dead_edge_takes_all_that_it_still_had(
    server: RunningServer, edge: Edge, other: Edge
) -> None:
    """Of a user's connections one left in time: the others are swept all the same."""
    for connection in ("1", "2", "3"):
        edge.join("alice", connection)
    edge.leave("alice", "2")
    idle(server, other, seconds=6)
    other.sweep()
    idle(server, other, seconds=11)
    other.sweep()
    assert other.users() == []


def test_a_dead_edge_is_swept_in_steps(
    server: RunningServer, edge: Edge, other: Edge, shard: Calls
) -> None:
    """A sweep does at most its budget, and says that there is more."""
    for number in range(25):
        edge.join(f"u{number}", shown=0)
    edge.calls("end_lease", [], TERM, edge.name)
    links = f"roomful:edge:{edge.name}"
    for remaining in (15, 5):
        assert other.sweep(10) == 1
        assert shard.command("SCARD", links) == remaining
    assert other.sweep(10) == 0
    idle(server, other, seconds=11)
    steps = 1
    while other.sweep(10):
        steps += 1
    assert steps == 3
    assert other.users() == []


def test_a_living_edge_keeps_its_members(server: RunningServer, edge: Edge, ear: Ear) -> None:
    """As long as it renews in time, or before anyone noticed that it did not."""
    edge.join("alice")
    idle(server, edge, seconds=60)
    edge.sweep()
    server.pass_time(60)
    edge.lease()
    edge.sweep()
    assert ear.told() == [joined("alice")]
    assert edge.users() == ["alice"]


def test_a_lease_that_was_swept_is_over_for_good(
    server: RunningServer, edge: Edge, other: Edge
) -> None:
    """Its edge is told so by everything that would go on, and begins anew under a new name."""
    edge.join("alice")
    idle(server, other, seconds=6)
    other.sweep(budget=0)
    with pytest.raises(ResponseError, match="^ROOMFUL NO_LEASE$"):
        edge.lease()
    with pytest.raises(ResponseError, match="^ROOMFUL LEASE_TAKEN$"):
        edge.lease(is_new=True)
    with pytest.raises(ResponseError, match="^ROOMFUL NO_LEASE$"):
        edge.join("bob")
    again = Edge(edge.calls, "edge1.2")
    again.join("alice")
    other.sweep()
    idle(server, again, other, seconds=20)
    other.sweep()
    assert other.users() == ["alice"]


def test_a_lease_is_one_edges(edge: Edge) -> None:
    """Two edges that chose the same name are not one."""
    with pytest.raises(ResponseError, match="^ROOMFUL LEASE_TAKEN$"):
        Edge(edge.calls, edge.name)


def test_edges_that_live_are_listed(server: RunningServer, edge: Edge, other: Edge) -> None:
    """With what they say about themselves; not those whose lease is over."""
    assert edge.calls("edges") == [b"edge1", b"10.0.0.1", b"edge2", b"10.0.0.1"]
    idle(server, other, seconds=6)
    assert edge.calls("edges") == [b"edge2", b"10.0.0.1"]
    other.sweep()
    assert other.calls("end_lease", [], TERM, "edge2") == 1
    assert other.calls("end_lease", [], TERM, "edge2") == 0
    assert edge.calls("edges") == []


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead edge", "end of grace"])
@pytest.mark.parametrize("record", ["FROZEN 2 m1 s2 99999999999999", "IMPORTING 1 m1"])
def test_a_bucket_that_moves_is_not_swept(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear, record: str, *, is_dead: bool
) -> None:
    """What is copied does not change meanwhile; what was due happens when it is open again."""
    edge.join("alice")
    ear.told()
    if not is_dead:
        edge.leave("alice", grace_ms=GRACE_MS)
    other.calls.command("SET", f"{bucket_of(ROOM)}b", record)
    before = other.calls.command("DUMP", f"{bucket_of(ROOM)}c:{ROOM}")
    for _ in range(3):
        idle(server, other, seconds=11)
        other.sweep()
    assert other.calls.command("DUMP", f"{bucket_of(ROOM)}c:{ROOM}") == before
    other.calls.command("SET", f"{bucket_of(ROOM)}b", "OWNED 3")
    for _ in range(2):
        idle(server, other, seconds=11)
        other.sweep()
    assert ear.told() == [left("alice")]
    assert other.users() == []


def test_a_bucket_that_is_gone_is_not_swept(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear
) -> None:
    """Its presence is another shard's business; here nothing is left to be done."""
    edge.join("alice")
    other.join("bob")
    other.leave("bob", grace_ms=GRACE_MS)
    ear.told()
    other.calls.command("SET", f"{bucket_of(ROOM)}b", "GONE 5 m1 s2")
    idle(server, other, seconds=20)
    assert other.sweep() == 0
    assert ear.told() == []
    assert [key for key in other.calls.keys() if b"gone" in key or b"edge:" in key] == []


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead edge", "end of grace"])
@pytest.mark.parametrize("kind", ["p", "c", "s"])
def test_a_key_that_is_no_presence_costs_its_room_alone(
    server: RunningServer, edge: Edge, other: Edge, ear: Ear, kind: str, *, is_dead: bool
) -> None:
    """Somebody made it something else: people leave the other rooms, and nothing stays due."""
    for room in (ROOM, "b", "c", "d"):
        edge.join("alice", people=f"{bucket_of(room)}p:{room}")
        if not is_dead:
            edge.leave("alice", grace_ms=GRACE_MS, people=f"{bucket_of(room)}p:{room}")
    poisoned = f"{bucket_of('c')}{kind}:c"
    other.calls.command("DEL", poisoned)
    other.calls.command("SET", poisoned, "poison")
    ear.told()
    for _ in range(2):
        idle(server, other, seconds=11)
        other.sweep()
    assert ear.told() == [left("alice")]
    assert other.sweep() == 0
    keys = other.calls.keys()
    assert [key for key in keys if key[-3:] in (b"p:b", b"p:d", b"c:b", b"c:d")] == []
    assert [key for key in keys if b"gone" in key or b"edge:edge1" in key] == []


def test_a_user_who_came_back_elsewhere_stays(server: RunningServer, edge: Edge, ear: Ear) -> None:
    """A grace from before the bucket was away does not end who was copied back with a link."""
    edge.join("alice", "1")
    edge.leave("alice", "1", GRACE_MS)
    links = f"{bucket_of(ROOM)}c:{ROOM}"
    edge.calls.command("SET", f"{bucket_of(ROOM)}b", "GONE 2 m1 s2")
    edge.calls.command("HSET", links, "alice", msgspec.msgpack.encode([edge.name, "2"]))
    edge.calls.command("SET", f"{bucket_of(ROOM)}b", "OWNED 1")
    idle(server, edge, seconds=11)
    edge.sweep()
    assert edge.users() == ["alice"]
    assert ear.told() == [joined("alice")]
