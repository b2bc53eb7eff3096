"""What two edges share over real shards: presence, sessions, logs and the lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace as changed_topology

from functions.server import PRODUCTS
from remote.cluster import Cluster, Member, address_of, running_cluster
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.cluster.topology import Address, ShardRecord
from roomful.edge.control import LeasedEdges
from roomful.edge.peers import About
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import SessionRecord, Stored
from roomful.shard.control import ControlChannel
from roomful.shard.directory import Directory
from roomful.shard.erasure import Erasure
from roomful.shard.message import Cast, RoomId, UserId
from roomful.shard.redis import ShardOptions
from roomful.shard.redis_shards import RedisShards
from roomful.shard.resp import LostConnection
from shard.recording import RecordingSink, make_envelope
from support.deadline import DEADLINE_S, until
from support.users import EDGE

OPTIONS = ShardOptions(call_timeout_s=DEADLINE_S, lease_s=2.0)
ENOUGH = 20
"""Calls that were refused: more than one of each kind."""
FAR_MS = 1 << 42
"""After all timestamps of tests."""
ALICE, BOB = UserId("alice"), UserId("bob")


@dataclass
class Seat:
    """One edge."""

    shards: RedisShards
    sink: RecordingSink

    async def store(self, room: RoomId, name: str) -> Stored:
        """Publish one message, and wait for its ack."""
        outcomes: list[Stored | Refused] = []
        self.shards.publish(make_envelope(room, name), outcomes.append, is_named=True)
        await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], Stored)
        return outcomes[0]


async def seat(cluster: Cluster, name: str) -> Seat:
    """Make an edge."""
    addresses = [address_of(one.primary) for one in cluster.members.values()]
    sink = RecordingSink()
    shards = RedisShards(Directory(addresses, EDGE), name, OPTIONS)
    shards.attach(sink)
    await shards.start()
    return Seat(shards, sink)


@pytest.fixture
async def edges(cluster: Cluster) -> AsyncIterator[tuple[Seat, Seat]]:
    """Two edges."""
    both = await seat(cluster, "one"), await seat(cluster, "two")
    yield both
    for one in both:
        await one.shards.aclose()


async def test_a_room_is_one_room_for_all_edges(edges: tuple[Seat, Seat]) -> None:
    """Both hear what either stores, in one order, and what is cast."""
    one, two = edges
    room = RoomId("shared")
    await one.shards.hold(room)
    await two.shards.hold(room)
    for number in range(10):
        await edges[number % 2].store(room, str(number))
    two.shards.cast(Cast(room, "typing", b"{}"))
    wanted = [str(number) for number in range(10)]
    for each in edges:
        await until(lambda each=each: len(each.sink.entries) == 10 and len(each.sink.casts) == 1)  # type: ignore[misc]
        assert [entry.envelope.id for entry in each.sink.entries] == wanted


async def test_a_read_is_no_further_than_what_was_heard(edges: tuple[Seat, Seat]) -> None:
    """What `reached` promises holds although log and stream come by different connections."""
    one, two = edges
    room = RoomId("read")
    await one.shards.hold(room)
    home = one.shards.shard_of(room)
    for number in range(20):
        stored = await two.store(room, str(number))
        replay = await home.read({room: 0}, 0, 1 << 20)
        assert replay.is_complete
        assert replay.reached >= stored.offset
        assert one.shards.positions()[home.name] >= replay.reached
        assert len(one.sink.entries) == len(replay.entries) == number + 1


async def test_presence_is_told_once_for_a_user_on_two_edges(edges: tuple[Seat, Seat]) -> None:
    """One join and one leave, however many connections and edges."""
    one, two = edges
    room = RoomId("presence")
    await one.shards.hold(room)
    await one.shards.join(room, ALICE, "c1", "online")
    joined = await two.shards.join(room, ALICE, "c2", "online")
    assert [member.user_id for member in joined.members.members] == [ALICE]
    await two.shards.join(room, BOB, "c3", "away")
    await one.shards.leave(room, ALICE, "c1", with_grace=False)
    assert (await one.shards.members(room)).count == 2
    await two.shards.leave(room, ALICE, "c2", with_grace=False)
    await until(lambda: len(one.sink.casts) == 3)
    assert [cast.event for cast in one.sink.casts] == ["user-joined", "user-joined", "user-left"]
    members = await one.shards.members(room)
    assert [(member.user_id, member.status) for member in members.members] == [(BOB, "away")]


async def test_a_session_is_not_taken_twice_for_a_lost_answer(
    edges: tuple[Seat, Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took it would hear that another one did; refused, the client comes again."""
    shards = edges[0].shards
    record = SessionRecord("lost-answer", "sid", ALICE, {RoomId("a"): 3}, generation=2)
    calls = shards.routes[bucket_of(record.pid)].shard.rooms._calls
    call = calls.call

    async def lose_the_answer(name: str, *arguments: Any) -> Any:
        monkeypatch.undo()
        await call(name, *arguments)
        raise LostConnection("after it was done")

    monkeypatch.setattr(calls, "call", lose_the_answer)
    with pytest.raises(Refused) as refused:
        await shards.save_session(record, 60, is_taken=True)
    assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
    assert await shards.load_session(record.pid) == record
    assert await shards.save_session(changed_topology(record, generation=3), 60, is_taken=True)


async def test_an_edge_that_says_nonsense_of_itself_hides_no_other(
    cluster: Cluster, edges: tuple[Seat, Seat]
) -> None:
    """Whatever is written into its lease: the others are listed."""
    calls = cluster.members[ShardName("s1")].calls
    said = [b"{not json", b"\xff", b'{"name":"odd","address":"nowhere"}', b'{"name":7}']
    said.append(msgspec.json.encode(About("beef", "127.0.0.1:7")))
    for number, about in enumerate(said):
        calls("lease", [], 1, f"said.{number}", 1, 60_000, about)
    try:
        listed = await LeasedEdges(ControlChannel(edges[0].shards)).edges()
        assert listed == [About("beef", "127.0.0.1:7")]
    finally:
        for number in range(len(said)):
            calls("end_lease", [], 1, f"said.{number}")


async def test_an_edge_whose_lease_was_swept_joins_again(
    cluster: Cluster, edges: tuple[Seat, Seat]
) -> None:
    """Its members are gone; it takes a new name, is told, and its joins work again."""
    one, _ = edges
    room = RoomId("swept")
    swept: list[ShardName] = []
    one.shards.on_swept = swept.append
    await one.shards.join(room, ALICE, "c1", "online")
    home = one.shards.shard_of(room)
    calls = cluster.members[home.name].calls
    calls("end_lease", [], 1, "one.0")
    await until(lambda: home.name in swept)
    await one.shards.join(room, ALICE, "c1", "online")
    assert (await one.shards.members(room)).count == 1


async def test_a_user_is_erased_while_a_shard_comes(edges: tuple[Seat, Seat]) -> None:
    """Its rooms may be those of others by now: while it cannot be asked, nothing is erased."""
    shards, room = edges[0].shards, RoomId("erased")
    await edges[0].store(room, "1")
    before = shards.topology
    assert before is not None
    erasing = asyncio.create_task(shards.erase(Erasure(FAR_MS, "x", user=ALICE)))
    # One turn: it has asked the first shard, and no reply can have been read.
    await asyncio.sleep(0)
    nowhere = ShardRecord(1, Address("127.0.0.1", 1), ())
    shards.apply(
        changed_topology(
            before,
            generation=before.generation + 1,
            shards={**before.shards, ShardName("s3"): nowhere},
        )
    )
    with pytest.raises(Refused) as refused:
        await erasing
    assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE


@pytest.mark.parametrize("product", PRODUCTS)
async def test_a_shard_that_is_away_is_said_so(product: str, tmp_path: Path) -> None:
    """What needs it is refused as retryable after a bounded time; the edge is still ready."""
    with running_cluster(product, tmp_path, shards=2) as cluster:
        one = await seat(cluster, "three")
        one.shards._options = changed(OPTIONS, call_timeout_s=0.3)
        room = RoomId("away")
        cluster.members[one.shards.shard_of(room).name].primary.kill()
        try:
            with pytest.raises(Refused) as refused:
                await one.shards.members(room)
            assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
            assert one.shards.unready() is None, "the other shard's rooms are well"
        finally:
            await one.shards.aclose()


@pytest.mark.parametrize("product", PRODUCTS)
async def test_a_shard_whose_disk_was_full_is_used_as_before(product: str, tmp_path: Path) -> None:
    """It refuses all writes meanwhile; edges keep asking for their lease, and sweep."""
    with running_cluster(product, tmp_path) as cluster:
        one, room = await seat(cluster, "four"), RoomId("full")
        (member,) = cluster.members.values()
        await one.shards.join(room, ALICE, "c1", "online")
        # Where the server's snapshot should go.
        (member.primary.directory / "dump.rdb" / "full").mkdir(parents=True)
        command = member.calls.command
        command("CONFIG", "SET", "save", "3600 1")
        command("BGSAVE")
        await until(lambda: _refused(member) > ENOUGH)
        command("CONFIG", "SET", "save", "")
        await one.shards.join(room, BOB, "c2", "online")
        command("ZADD", "roomful:leases", 1, "dead.0")
        await until(lambda: command("ZSCORE", "roomful:leases", "dead.0") is None)
        # Its own may have lapsed meanwhile: it takes another one then.
        lease = one.shards.shard_of(room)._lease
        await until(lambda: command("ZSCORE", "roomful:leases", lease.name) is not None)
        await one.shards.aclose()


def _refused(member: Member) -> int:
    """Say how many calls a server has refused because it could not write to its disk."""
    statistics = member.calls.client.info("errorstats")
    return int(statistics.get("errorstat_MISCONF", {}).get("count", 0))


async def test_a_room_whose_key_is_not_the_librarys_is_refused_at_once(
    cluster: Cluster, edges: tuple[Seat, Seat]
) -> None:
    """Somebody wrote it: asking again does not help, and other rooms are well."""
    one, _ = edges
    room = RoomId("not-ours")
    member = cluster.members[one.shards.shard_of(room).name]
    member.calls.command("SET", f"{{{bucket_of(room)}}}p:{room}", "not ours")
    with pytest.raises(Refused) as refused:
        await one.shards.join(room, ALICE, "c1", "online")
    assert refused.value.code is RefusalCode.INTERNAL
