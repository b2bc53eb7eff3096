"""What people may ask of a cluster's shards: taken up once, or refused in words."""

from __future__ import annotations

import msgspec
import pytest

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, Move
from roomful.cluster.requests import (
    AddShard,
    CannotBe,
    DrainShard,
    PinBucket,
    Request,
    decode_request,
    encode_request,
    planned_moves,
    take_up,
)
from roomful.cluster.topology import (
    Address,
    Intents,
    ShardRecord,
    Topology,
    decode_topology,
    encode_topology,
    first_topology,
)

A, B, C = ShardName("a"), ShardName("b"), ShardName("c")


def at(port: int) -> Address:
    """Give an address on this machine."""
    return Address("127.0.0.1", port)


def two_shards(acks: int = 0) -> Topology:
    """Give the topology of a new cluster of two shards with a replica each."""
    shards = {
        A: ShardRecord(1, at(7001), (at(7002),)),
        B: ShardRecord(1, at(7003), (at(7004),)),
    }
    return first_topology(shards, acks=acks)


EACH: list[Request] = [AddShard(C, (at(7005), at(7006))), DrainShard(A), PinBucket(7, A)]
IDS = ["add", "drain", "pin"]


@pytest.mark.parametrize("request_", EACH, ids=IDS)
def test_a_request_is_taken_up_once(request_: Request) -> None:
    """As the next generation; asked again it changes nothing, and it reads back."""
    topology = two_shards()
    taken = take_up(topology, request_)

    assert taken.generation == topology.generation + 1
    assert taken.buckets == topology.buckets
    assert take_up(taken, request_) == taken
    assert decode_topology(encode_topology(taken)) == taken
    assert decode_request(encode_request(request_)) == request_


def test_what_is_taken_back_leaves_nothing() -> None:
    """The document is the one of before, but for its generation."""
    topology = two_shards()
    taken = topology
    for request in (EACH[1], DrainShard(A, False)):
        taken = take_up(taken, request)
    taken = take_up(take_up(taken, EACH[2]), PinBucket(7, None))
    taken = msgspec.structs.replace(taken, generation=topology.generation)

    assert encode_topology(taken) == encode_topology(topology)


def test_old_documents_want_nothing() -> None:
    """What was written before intents were, is read as it was meant."""
    document = encode_topology(two_shards())

    assert b"intents" not in document
    assert decode_topology(document).intents == Intents()


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (AddShard(A, (at(7005), at(7006))), "there is a shard a of other servers"),
        (AddShard(C, (at(7005),)), "needs 2 servers or more"),
        (AddShard(C, (at(7001), at(7006))), "127.0.0.1:7001 is a server of shard a"),
        (AddShard(ShardName("Odd"), (at(7005), at(7006))), "'Odd' cannot join"),
        (DrainShard(C), "there is no shard c: a, b"),
        (DrainShard(C, False), "there is no shard c"),
        (PinBucket(BUCKETS, A), "there is no bucket 1024"),
        (PinBucket(-1, A), "there is no bucket -1"),
        (PinBucket(7, C), "shard c is not there"),
    ],
)
def test_what_cannot_be_is_refused(request_: Request, why: str) -> None:
    """In words that say what would have to be different."""
    with pytest.raises(CannotBe, match=why):
        take_up(two_shards(acks=1), request_)


def test_the_last_shard_is_not_drained() -> None:
    """Its rooms would have nowhere to go."""
    topology = take_up(two_shards(), DrainShard(A))

    with pytest.raises(CannotBe, match="shard b is the last one"):
        take_up(topology, DrainShard(B))


def test_a_shard_that_is_drained_gets_no_bucket() -> None:
    """It would have to give it away at once; and pins to it end with the drain."""
    topology = take_up(take_up(two_shards(), PinBucket(7, A)), DrainShard(A))

    assert topology.intents.pins == ()
    with pytest.raises(CannotBe, match="shard a is drained: b can have the bucket"):
        take_up(topology, PinBucket(7, A))


def test_a_name_is_never_used_again() -> None:
    """Cursors of clients that are away still hold it."""
    topology = msgspec.structs.replace(two_shards(), intents=Intents(retired=(C,)))

    with pytest.raises(CannotBe, match="a shard c has left"):
        take_up(topology, AddShard(C, (at(7005), at(7006))))


def test_a_shard_that_was_to_join_does_not() -> None:
    """
    Not later either, by a controller that was started with it; and asking again changes nothing.
    """
    drain = DrainShard(C)
    topology = take_up(take_up(two_shards(), EACH[0]), drain)

    assert topology.intents == Intents(retired=(C,))
    assert take_up(topology, drain) is topology


def test_what_a_later_version_asks_is_refused() -> None:
    """It is not guessed at."""
    for document in (b'{"type":"split-shard"}', b"\xff", b"[]"):
        with pytest.raises(CannotBe, match="no such request"):
            decode_request(document)


def test_a_plan_is_told_before_it_is_carried_out() -> None:
    """A third of all goes to a third shard, half to the other one at a drain; a pin is a swap."""
    added = planned_moves(take_up(two_shards(), EACH[0]))
    drained = planned_moves(take_up(two_shards(), EACH[1]))
    bucket = two_shards().buckets_of(B)[0]
    pinned = planned_moves(take_up(two_shards(), PinBucket(bucket, A)))

    assert planned_moves(two_shards()) == ()
    assert len(added) == BUCKETS // 3
    assert {move.target for move in added} == {C}
    assert len(drained) == BUCKETS // 2
    assert {move.target for move in drained} == {B}
    assert Move(bucket, B, A) in pinned
    assert len(pinned) == 2
