"""What came with a bucket from another shard: read by where it was stored, kept as long as ever."""

from __future__ import annotations

import pytest

from functions.calls import FIRST, TERM, Calls, Limits, Post, bucket_of
from functions.edges import GRACE_MS, LIMIT, PEOPLE, ROOM, Edge, idle, left
from functions.moving import Journey, lineage
from functions.server import RunningServer

A, B = bucket_of("a"), bucket_of("b")
HOUR_S = 3600
DAY_S = 86_400
HERE = {A: 3}


def ahead(calls: Calls, by: int = 1_000_000) -> None:
    """Let a shard have given many more offsets."""
    calls.command("HINCRBY", "roomful:shard", "seq", by)


def since(journey: Journey) -> int:
    """Give the offset up to which what came was stored elsewhere."""
    return lineage(journey.target, A)[1][-1].upto


# Reading by origin -----------------------------------------------------------------------------


@pytest.mark.parametrize("further", ["source", "target"])
def test_what_was_stored_elsewhere_is_read_up_to_the_arrival(
    journey: Journey, further: str
) -> None:
    """And what was stored here after it: each part with the cursor of its own shard."""
    ahead(getattr(journey, further))
    born = journey.source.store(Post("a", "1"), Post("a", "2"), Post("a", "3"))
    heard = journey.target("take_term", [], "s2", TERM)[1]
    journey.travel()
    journey.target.publish(Post("a", "4"), Post("a", "5"), versions=HERE)
    upto = since(journey)
    for index, after in enumerate(born):
        part = journey.target.read({"a": 0}, after, upto={"a": upto})
        assert part.bodies == ["1", "2", "3"][index + 1 :]
        assert part.is_complete
    assert journey.target.read({"a": upto}, heard).bodies == ["4", "5"]
    assert journey.target.read({"a": upto}, heard, upto={}).bodies == ["4", "5"]


def test_parts_of_several_rooms_come_in_one_order(journey: Journey) -> None:
    """Each room with its own end, also page by page."""
    journey.source.store(*(Post("ae"[number % 2], str(number)) for number in range(200)))
    journey.travel()
    journey.target.publish(Post("a", "new"), versions=HERE)
    ends = {"a": FIRST + 99, "e": FIRST + 150}
    read, after = [], 0
    while True:
        replay = journey.target.read({"a": 0, "e": 0}, after, 3000, upto=ends)
        read += replay.entries
        if replay.is_complete:
            break
        after = replay.reached
    offsets = [offset for offset, _, _ in read]
    assert offsets == sorted(offsets)
    assert max(offset for offset, room, _ in read if room == "a") == ends["a"]
    assert max(offset for offset, room, _ in read if room == "e") == ends["e"]
    assert len(read) == 100 + 51


def test_another_shards_offset_is_not_measured_by_ours(journey: Journey) -> None:
    """It may be above all that was given here, or among what a failover here has lost."""
    journey.source.store(Post("a"))
    journey.travel()
    journey.target("take_term", [], "s2", 3)
    unkept = (3 << 40) - 5
    assert journey.target.read({"a": 0}, unkept, term=3).holes == ["a"]
    assert journey.target.read({"a": 0}, unkept, term=3, upto={"a": 9 << 40}).holes == []
    assert journey.target.read({"a": 0}, 8 << 40, term=3, upto={"a": 9 << 40}).holes == []


def test_a_hole_before_the_arrival_is_a_hole(journey: Journey) -> None:
    """What was trimmed at the source is told at the target as exactly."""
    born = journey.source.store(*(Post("a", str(number)) for number in range(400)))
    few = Limits(keep=100)
    born += journey.source.store(Post("a", "last"), limits=few)
    journey.travel()
    upto = since(journey)
    kept = journey.target.page("a", 1000)[0]
    assert len(kept) < 300
    before = born[born.index(kept[0][0]) - 1]
    assert journey.target.read({"a": 0}, before, upto={"a": upto}).bodies[0] == kept[0][1]
    assert journey.target.read({"a": 0}, before - 1, upto={"a": upto}).holes == ["a"]


# Age -------------------------------------------------------------------------------------------


def pass_time(journey: Journey, servers: tuple[RunningServer, RunningServer], hours: int) -> None:
    """Let hours pass in which other rooms are busy on both shards."""
    for _ in range(hours):
        for server in servers:
            server.pass_time(HOUR_S)
        for calls in (journey.source, journey.target):
            calls.publish(Post("b"))


@pytest.fixture
def servers(server: RunningServer, second: RunningServer) -> tuple[RunningServer, RunningServer]:
    """Both, whose clocks go together."""
    return server, second


@pytest.fixture
def busy(journey: Journey, servers: tuple[RunningServer, RunningServer]) -> Journey:
    """A target that is far ahead of the source, and has been for days."""
    ahead(journey.target)
    journey.target("claim", [f"{B}b"], TERM, 1)
    pass_time(journey, servers, 40)
    return journey


def test_small_offsets_are_not_old(
    busy: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """What came is kept for its age although such offsets were long ago here."""
    (born,) = busy.source.store(Post("a", "1"))
    busy.travel()
    upto = since(busy)
    assert busy.target.bodies("a") == ["1"]
    assert busy.target.read({"a": 0}, born - 1, upto={"a": upto}).bodies == ["1"]
    for server in servers:
        server.pass_time(HOUR_S // 4)  # after which a log's time is renewed, and it is trimmed
    busy.target.publish(Post("a", "2"), versions=HERE)
    assert busy.target.bodies("a") == ["1", "2"]
    pass_time(busy, servers, 2)
    assert busy.target.read({"a": 0}, born - 1, upto={"a": upto}).holes == ["a"]
    busy.target.publish(Post("a", "3"), versions=HERE)
    assert busy.target.bodies("a") == ["3"]


def test_rooms_that_never_had_a_message_have_no_hole(busy: Journey) -> None:
    """Although the target has forgotten rooms with offsets above those of the source."""
    (cursor,) = busy.source.store(Post("b"))
    busy.travel()
    upto = since(busy)
    assert busy.target.read({"a": 0}, cursor, upto={"a": upto}).is_complete
    assert busy.target.read({"a": 0}, cursor, upto={"a": upto}).holes == []
    (first,) = busy.target.publish(Post("a", "1"), versions=HERE)
    replay = busy.target.read({"a": 0}, cursor, upto={"a": upto})
    assert (replay.entries, replay.holes) == ([], [])
    assert busy.target.read({"a": upto}, cursor).entries == [(first, "a", "1")]


def test_what_the_source_forgot_stays_forgotten(
    journey: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """A room whose every trace was gone at the source may have had what a cursor lacks."""
    (lost,) = journey.source.store(Post("a"))
    pass_time(journey, servers, 40)
    (cursor,) = journey.source.store(Post("b"))
    journey.travel()
    upto = since(journey)
    assert journey.target.read({"a": 0}, lost - 1, upto={"a": upto}).holes == ["a"]
    assert journey.target.read({"a": 0}, cursor, upto={"a": upto}).holes == []
    journey.target.publish(Post("a"), versions=HERE)
    assert journey.target.read({"a": 0}, lost - 1, upto={"a": upto}).holes == ["a"]
    assert journey.target.read({"a": 0}, cursor, upto={"a": upto}).holes == []


# People ----------------------------------------------------------------------------------------


def at_home(journey: Journey, name: str) -> Edge:
    """Give an edge's lease at the target."""
    return Edge(journey.target, name)


def test_people_of_an_edge_that_is_known_stay(
    journey: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """Edges have the same name everywhere: their members need not join again to stay."""
    Edge(journey.source).join("alice")
    edge = at_home(journey, "edge1")
    ear = journey.target.listen(f"r:{ROOM}")
    journey.travel()
    idle(servers[1], edge, seconds=60)
    edge.sweep()
    assert edge.users() == ["alice"]
    assert journey.target("leave", [PEOPLE], TERM, 3, "edge1", "c", "alice", 0, LIMIT) == 1
    assert ear.told() == [left("alice")]


def test_people_of_an_edge_that_is_dead_leave(
    journey: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """Nobody renews its lease here: after its time and the grace they are gone."""
    Edge(journey.source).join("alice")
    other = at_home(journey, "edge2")
    ear = journey.target.listen(f"r:{ROOM}")
    journey.travel()
    assert journey.target("edges") == [b"edge2", b"10.0.0.1"]
    idle(servers[1], other, seconds=14)
    other.sweep()
    assert other.users() == ["alice"]
    idle(servers[1], other, seconds=2)
    other.sweep()
    idle(servers[1], other, seconds=GRACE_MS // 1000 + 1)
    other.sweep()
    assert other.users() == []
    assert ear.told() == [left("alice")]


def test_people_who_join_again_under_another_lease_are_not_told(
    journey: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """An edge's lease may have another number here; the old link goes, and nobody hears of it."""
    Edge(journey.source, "edge1.0").join("alice", status="away")
    edge = at_home(journey, "edge1.1")
    ear = journey.target.listen(f"r:{ROOM}")
    journey.travel()
    args = "edge1.1", "c", "alice", "away", LIMIT, LIMIT
    journey.target("join", [PEOPLE], TERM, 3, *args)
    for _ in range(3):
        idle(servers[1], edge, seconds=16)
        edge.sweep()
    assert edge.members() == [("alice", "away")]
    assert ear.told() == []
    assert journey.target("leave", [PEOPLE], TERM, 3, "edge1.1", "c", "alice", 0, LIMIT) == 1
    assert edge.users() == []


def test_nothing_of_people_is_left_behind(journey: Journey) -> None:
    """The shard's own sets know only those who are there, wherever the bucket has been."""
    edge = Edge(journey.source)
    edge.join("alice")
    edge.join("bob")
    edge.leave("bob", grace_ms=GRACE_MS)
    at_home(journey, "edge1")
    before = set(journey.source.command("KEYS", "roomful:*"))
    journey.travel()
    assert before - set(journey.source.command("KEYS", "roomful:*")) == {
        b"roomful:edge:edge1",
        b"roomful:gone",
    }
    assert journey.target.command("SCARD", "roomful:edge:edge1") == 1
    assert journey.target.command("ZCARD", "roomful:gone") == 1


def test_a_count_is_told_where_the_room_is(journey: Journey, server: RunningServer) -> None:
    """Who has the bucket no more says nothing, least of all that the room is empty."""
    edge = Edge(journey.source)
    for number in range(LIMIT + 2):
        edge.join(f"user{number}")
    server.pass_time(2)
    edge.sweep()
    server.pass_time(2)
    edge.lease()
    edge.leave("user0")
    ear = journey.source.listen(f"r:{ROOM}")
    journey.travel()
    edge.sweep()
    assert ear.told() == []


def test_a_slow_copy_costs_nobody_the_place(
    journey: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """The time of what came under unknown leases begins when everything is there."""
    Edge(journey.source, "edge1.0").join("alice")
    edge = at_home(journey, "edge2")
    journey.begin()
    journey.copy_all()
    for _ in range(4):
        idle(servers[1], edge, seconds=10)
        edge.sweep()
    journey.freeze()
    journey.complete()
    journey.release()
    journey.activate()
    idle(servers[1], edge, seconds=14)
    edge.sweep()
    assert edge.users() == ["alice"]


def test_a_grace_ends_at_the_target(
    journey: Journey, servers: tuple[RunningServer, RunningServer]
) -> None:
    """Who was about to leave leaves there, a little later at most."""
    edge = Edge(journey.source)
    edge.join("alice")
    edge.leave("alice", grace_ms=GRACE_MS)
    other = at_home(journey, "edge2")
    journey.travel()
    idle(servers[1], other, seconds=16)
    other.sweep()
    assert other.users() == []


def test_who_joins_later_stands_behind(journey: Journey) -> None:
    """Members are in the order in which they came, over the move."""
    edge = Edge(journey.source)
    for user in ("alice", "bob"):
        edge.join(user)
    at_home(journey, "edge1")
    journey.travel()
    args = "edge1", "c", "aaron", "online", LIMIT, LIMIT
    _, count, *named = journey.target("join", [PEOPLE], TERM, 3, *args)
    assert (count, named[::2]) == (3, [b"alice", b"bob", b"aaron"])
