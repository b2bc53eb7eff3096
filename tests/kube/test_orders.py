"""Orders that people give, and what they are told."""

from __future__ import annotations

import pytest

from kube.objects import document
from roomful.cluster.cursor import ShardName
from roomful.cluster.requests import CannotBe, PinBucket
from roomful.cluster.topology import Address, ShardRecord, Topology, first_topology
from roomful.control.view import Phase, ShardStatus
from roomful_operator.orders import (
    FAILOVER,
    MOVE_BUCKET,
    BadOrder,
    Failover,
    read_failover,
    read_move,
)
from roomful_operator.plugin import render_status

ADDRESSES = {"chat-s1-0": "10.0.0.1", "chat-s1-1": "10.0.0.2", "chat-s1-2": "10.0.0.3"}
SERVERS = tuple(Address(host, 6379) for host in ADDRESSES.values())
S1 = ShardName("s1")


def shards(phase: Phase = Phase.SERVING) -> dict[ShardName, ShardStatus]:
    """Give a shard whose last server does not follow."""
    return {S1: ShardStatus(S1, phase, "", SERVERS[0], 3, SERVERS[1:], SERVERS[1:2])}


def order(text: str) -> dict[str, object]:
    """Give a cluster that carries an order."""
    return document(annotations={FAILOVER: text})


def test_no_order() -> None:
    """Most objects carry none."""
    assert read_failover(document(), shards(), ADDRESSES) is None


@pytest.mark.parametrize("text", ["s1", "s1=chat-s1-1"])
def test_a_failover_goes_to_a_replica_that_follows(text: str) -> None:
    """Any of them, or the one that was named."""
    found = read_failover(order(text), shards(), ADDRESSES)
    assert found == Failover(S1, SERVERS[1], "chat-s1-1")
    assert str(found) == "s1 has been handed to chat-s1-1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s9", "there is no shard s9"),
        ("s1=chat-s2-0", "s1 has no server chat-s2-0"),
        ("s1=chat-s1-0", "chat-s1-0 is no replica"),
        ("s1=chat-s1-2", "chat-s1-2 is no replica of s1 that follows"),
    ],
)
def test_what_cannot_be_done_is_told(text: str, words: str) -> None:
    """The sentence says what is wrong with the order."""
    with pytest.raises(BadOrder, match=words):
        read_failover(order(text), shards(), ADDRESSES)


def test_a_shard_in_trouble_takes_no_order() -> None:
    """While it does not serve, the controller has other things to do."""
    with pytest.raises(BadOrder, match="failing over"):
        read_failover(order("s1"), shards(Phase.FAILING_OVER), ADDRESSES)


def topology() -> Topology:
    """Give a cluster of one shard."""
    return first_topology({S1: ShardRecord(3, SERVERS[0], SERVERS[1:])}, acks=1)


def move(text: str) -> dict[str, object]:
    """Give a cluster that carries the order to move a bucket."""
    return document(annotations={MOVE_BUCKET: text})


def test_a_bucket_is_put_on_a_shard() -> None:
    """The order is what the command line would ask; most objects carry none."""
    assert read_move(move("7=s1"), shards(), topology()) == PinBucket(7, S1)
    assert read_move(document(), shards(), topology()) is None


@pytest.mark.parametrize("text", ["7", "7=", "=s1", "x=s1", "-7=s1", "²=s1", "9" * 5000 + "=s1"])
def test_a_move_that_means_nothing_is_told(text: str) -> None:
    """People write annotations by hand too."""
    with pytest.raises(BadOrder, match="is not BUCKET=SHARD"):
        read_move(move(text), shards(), topology())


@pytest.mark.parametrize(
    ("text", "words"), [("1024=s1", "no bucket 1024"), ("7=s9", "shard s9 is not there")]
)
def test_a_move_that_cannot_be_is_told(text: str, words: str) -> None:
    """The topology refuses it, with the same words as everywhere."""
    with pytest.raises(CannotBe, match=words):
        read_move(move(text), shards(), topology())


def test_nothing_moves_while_a_shard_is_in_trouble_or_nothing_is_known() -> None:
    """The order is refused, not kept for later."""
    with pytest.raises(BadOrder, match="failing over"):
        read_move(move("7=s1"), shards(Phase.FAILING_OVER), topology())
    with pytest.raises(BadOrder, match="no topology yet"):
        read_move(move("7=s1"), shards(), None)


def test_status_is_told_in_words() -> None:
    """State, edges, each shard with its primary, and every condition with its reason."""
    status = {
        "state": "Degraded",
        "edges": {"ready": 1, "desired": 2, "connections": 7},
        "shards": [
            {
                **{"name": "s1", "phase": "degraded", "reason": "1 replica is away"},
                **{"primary": "chat-s1-0", "term": 3, "online": 1, "replicas": 2, "buckets": 512},
            }
        ],
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "ShardsNotServing", "message": "s1"}
        ],
    }
    assert render_status({**document(), "status": status}).splitlines() == [
        "chat: Degraded",
        "edges: 1 of 2 ready, 7 connections",
        "shard s1: degraded, primary chat-s1-0 (term 3), 1 of 2 replicas, 512 buckets: "
        "1 replica is away",
        "Ready: no, ShardsNotServing: s1",
    ]
    assert "no operator" in render_status(document())
