"""The topology: valid or not at all, read by newer and older edges, and quick to ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.topologies import A, B, document, record, topologies, two_shards
from roomful.cluster.cursor import ShardName, decode_cursor, encode_cursor
from roomful.cluster.placement import BUCKETS, bucket_of, place
from roomful.cluster.topology import (
    MAX_ACKS,
    MAX_COUNT,
    MAX_SHARDS,
    MAX_TERM,
    Address,
    BadTopology,
    Intents,
    Topology,
    decode_topology,
    encode_topology,
    first_topology,
)


@given(topologies())
def test_a_topology_reads_back(topology: Topology) -> None:
    """From bytes and from text."""
    encoded = encode_topology(topology)

    assert decode_topology(encoded) == topology
    assert decode_topology(encoded.decode()) == topology


@settings(max_examples=30)
@given(topologies())
def test_the_same_topology_is_the_same_bytes(topology: Topology) -> None:
    """In whatever order its shards were added, so copies can be compared as they are."""
    turned = msgspec.structs.replace(topology, shards=dict(reversed(list(topology.shards.items()))))

    assert encode_topology(turned) == encode_topology(topology)


@settings(max_examples=30)
@given(topologies(), st.text(max_size=20))
def test_a_room_is_on_the_shard_that_owns_its_bucket(topology: Topology, room: str) -> None:
    """And a shard's buckets are those whose rooms are on it."""
    shard = topology.shard_of(room)

    assert shard == topology.buckets[bucket_of(room)]
    assert bucket_of(room) in topology.buckets_of(shard)


@settings(max_examples=30)
@given(topologies())
def test_shards_share_out_all_buckets(topology: Topology) -> None:
    """Each bucket is in exactly one shard's list, in order."""
    lists = [topology.buckets_of(name) for name in topology.shards]

    assert all(list(buckets) == sorted(buckets) for buckets in lists)
    assert sorted(bucket for buckets in lists for bucket in buckets) == list(range(BUCKETS))


def test_a_shard_that_is_not_known_owns_nothing() -> None:
    """A shard that was removed may still be asked for."""
    assert two_shards().buckets_of(ShardName("gone")) == ()


@given(st.integers(1, MAX_COUNT), st.integers(1, MAX_COUNT))
def test_the_higher_generation_is_newer(one: int, other: int) -> None:
    """Nothing else counts, and nothing is newer than itself."""
    first = msgspec.structs.replace(two_shards(), generation=one)
    second = msgspec.structs.replace(two_shards(), generation=other)

    assert first.newer_than(second) == (one > other)
    assert first.newer_than(None)


def test_a_new_cluster_says_what_an_ack_means() -> None:
    """By default the primary alone; edges and controller read the same number."""
    assert (two_shards().acks, two_shards().is_fsynced) == (0, False)
    durable = first_topology({A: record(7001)}, acks=2, is_fsynced=True)
    assert (durable.acks, durable.is_fsynced) == (2, True)


@pytest.mark.parametrize("acks", [-1, MAX_ACKS + 1])
def test_an_odd_number_of_acks_is_refused(acks: int) -> None:
    """Nobody waits for that many."""
    with pytest.raises(BadTopology, match=f"acks {acks} is not 0 to {MAX_ACKS}"):
        first_topology({A: record(7001)}, acks=acks)


def test_a_new_cluster_is_placed_evenly() -> None:
    """At generation 1, every bucket at version 1, each shard with its share."""
    topology = two_shards()

    assert topology.generation == 1
    assert set(topology.versions) == {1}
    assert topology.buckets == place([A, B], (None,) * BUCKETS)
    assert len(topology.buckets_of(A)) == len(topology.buckets_of(B)) == BUCKETS // 2


def test_a_new_cluster_needs_a_shard() -> None:
    """As every topology does."""
    with pytest.raises(BadTopology) as caught:
        first_topology({})

    assert caught.value.faults == ("there are no shards",)


def test_a_drained_shard_may_stay() -> None:
    """It owns nothing until it is taken out."""
    topology = msgspec.structs.replace(two_shards(), buckets=(B,) * BUCKETS)

    assert topology.buckets_of(A) == ()


@pytest.mark.parametrize(
    ("intents", "fault"),
    [
        (Intents(joining={B: (Address("::1", 7009),)}), "shard b joins and is there"),
        (Intents(joining={ShardName("c"): ()}), "'c' cannot join"),
        (Intents(joining={ShardName("C"): (Address("::1", 7009),)}), "'C' cannot join"),
        (Intents(draining=(ShardName("c"),)), "'c' is no shard and is drained"),
        (Intents(draining=(A, B)), "every shard is drained"),
        (Intents(retired=(A,)), "shard a has left, and its name is used again"),
        (Intents(pins=((1024, A),)), "bucket 1024 cannot be kept on 'a'"),
        (Intents(pins=((7, ShardName("c")),)), "bucket 7 cannot be kept on 'c'"),
        (Intents(draining=(A,), pins=((7, A),)), "bucket 7 cannot be kept on 'a'"),
    ],
)
def test_what_nobody_can_want_is_refused(intents: Intents, fault: str) -> None:
    """A topology says what shall be, and that has to be possible."""
    with pytest.raises(BadTopology, match=fault):
        msgspec.structs.replace(two_shards(), intents=intents)


def test_shards_that_are_drained_shall_own_nothing() -> None:
    """The others are the owners that are wanted."""
    assert two_shards().owners == (A, B)
    drained = msgspec.structs.replace(two_shards(), intents=Intents(draining=(A,)))
    assert drained.owners == (B,)


def test_fields_of_a_later_version_are_passed_over() -> None:
    """An edge that is not upgraded yet follows the topology of a controller that is."""
    value = document()
    value["migrations"] = {"7": {"id": 3, "from": "a", "to": "b", "phase": "importing"}}
    value["shards"]["a"]["zone"] = "eu-1"
    value["shards"]["a"]["primary"]["tls"] = True

    assert decode_topology(json.dumps(value)) == two_shards()


def test_fields_that_may_lack_are_not_written() -> None:
    """And a document without them is read."""
    assert document()["shards"]["a"] == {
        "term": 1,
        "primary": {"host": "127.0.0.1", "port": 7001},
    }


def test_the_field_names_are_the_contract() -> None:
    """Shards and edges of other versions, and people, read these."""
    shard = record(7001, run_id="0" * 40, replicas=(Address("::1", 7003),))
    value = json.loads(encode_topology(first_topology({A: shard})))

    assert value == {
        "generation": 1,
        "shards": {
            "a": {
                "term": 1,
                "primary": {"host": "127.0.0.1", "port": 7001},
                "replicas": [{"host": "::1", "port": 7003}],
                "run_id": "0" * 40,
            }
        },
        "buckets": ["a"] * BUCKETS,
        "versions": [1] * BUCKETS,
    }


def change_buckets(value: dict[str, Any]) -> None:
    """Give two buckets to strangers, and one an impossible version."""
    value["buckets"][3] = "x"
    value["buckets"][5] = "y"
    value["versions"][9] = 0


def change_shards(value: dict[str, Any]) -> None:
    """Give both shards a wrong term, and one the other's address."""
    value["shards"]["a"]["term"] = 0
    value["shards"]["b"] = dict(value["shards"]["a"], term=MAX_TERM + 1)


def change_addresses(value: dict[str, Any]) -> None:
    """Use addresses that cannot be connected to."""
    value["shards"]["a"]["primary"] = {"host": "a b", "port": 0}
    value["shards"]["b"]["replicas"] = [{"host": "", "port": 65536}]


def change_everything(value: dict[str, Any]) -> None:
    """Leave nothing right."""
    value.update(generation=0, shards={"A-1": {"term": 1, "primary": {"host": "h", "port": 1}}})
    value.update(versions=[1], buckets=["a"] * 7)


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        pytest.param(
            change_buckets,
            (
                "'x' is no shard and owns buckets: 3",
                "'y' is no shard and owns buckets: 5",
                "versions are not 1 to 2**53 - 1 of buckets: 9",
            ),
            id="buckets",
        ),
        pytest.param(
            change_shards,
            (
                "shard a: term 0 is not 1 to 8191",
                "shard b: term 8192 is not 1 to 8191",
                "127.0.0.1:7001 is used 2 times",
            ),
            id="shards",
        ),
        pytest.param(
            change_addresses,
            (
                "shard a: 'a b' is no host",
                "shard a: 0 is no port",
                "shard b: '' is no host",
                "shard b: 65536 is no port",
            ),
            id="addresses",
        ),
        pytest.param(
            change_everything,
            (
                "generation 0 is not 1 to 2**53 - 1",
                "'A-1' is no name of a shard: [a-z][a-z0-9]{0,15}",
                "buckets has 7 entries, not 1024",
                "versions has 1 entries, not 1024",
                "'a' is no shard and owns buckets: 0, 1, 2, 3, 4 and 2 more",
            ),
            id="everything",
        ),
        pytest.param(
            lambda value: (value["buckets"].append("a"), value["versions"].append(1)),
            ("buckets has 1025 entries, not 1024", "versions has 1025 entries, not 1024"),
            id="too-many-buckets",
        ),
        pytest.param(
            lambda value: value.update(generation=MAX_COUNT + 1),
            ("generation 9007199254740992 is not 1 to 2**53 - 1",),
            id="uncountable-generation",
        ),
        pytest.param(
            lambda value: value["versions"].__setitem__(2, MAX_COUNT + 1),
            ("versions are not 1 to 2**53 - 1 of buckets: 2",),
            id="uncountable-version",
        ),
    ],
)
def test_everything_wrong_is_in_one_error(
    change: Callable[[dict[str, Any]], None], faults: tuple[str, ...]
) -> None:
    """Who mends a document by hand wants to do it once."""
    value = document()
    change(value)

    with pytest.raises(BadTopology) as caught:
        decode_topology(json.dumps(value))

    assert caught.value.faults == faults
    assert str(caught.value) == "; ".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"generation": "\xff"}',
        b"[" * 100_000,
        b'{"later": ' + b"[" * 100_000,
        b'{"generation": 1.5, "shards": {}, "buckets": [], "versions": []}',
        b'{"generation": true, "shards": {}, "buckets": [], "versions": []}',
        b'{"generation": 1, "shards": {"a": {"term": 1}}, "buckets": [], "versions": []}',
    ],
    ids=range(10),
)
def test_what_is_no_topology_is_refused(text: bytes) -> None:
    """With the one error there is, whatever is not right about it."""
    with pytest.raises(BadTopology):
        decode_topology(text)


@given(st.data())
def test_a_document_cut_or_changed_is_whole_or_refused(data: st.DataObject) -> None:
    """Any bytes give a valid topology or a BadTopology."""
    text = bytearray(encode_topology(two_shards()))
    start = data.draw(st.integers(0, 200))
    end = start + data.draw(st.integers(0, 9))
    text[start:end] = data.draw(st.binary(max_size=9))
    try:
        topology = decode_topology(bytes(text))
    except BadTopology:
        return

    assert decode_topology(encode_topology(topology)) == topology


def test_a_topology_cannot_be_changed() -> None:
    """Who holds one while a newer comes still holds what it was."""
    topology = two_shards()

    with pytest.raises(AttributeError):
        topology.generation = 2  # type: ignore[misc]  # what the test is about
    with pytest.raises(BadTopology):
        msgspec.structs.replace(topology, buckets=(A,))


@pytest.mark.parametrize("too_many", [0, 1])
def test_all_shards_fit_in_a_cursor(too_many: int) -> None:
    """As many as there may be, with the longest names and the highest offsets."""
    names = [ShardName(f"s{number:015}") for number in range(MAX_SHARDS + too_many)]
    shards = {name: record(7000 + i, term=MAX_TERM) for i, name in enumerate(names)}
    if too_many:
        with pytest.raises(BadTopology, match="121 shards are more than 120"):
            first_topology(shards)
    else:
        topology = first_topology(shards)
        highest = ((MAX_TERM + 1) << 40) - 1
        cursor = encode_cursor(dict.fromkeys(topology.shards, highest))

        assert len(decode_cursor(cursor)) == MAX_SHARDS
        assert float(highest) + 1 > float(highest)  # Lua's and JavaScript's numbers


@pytest.mark.parametrize(
    ("address", "text"),
    [(Address("10.0.0.1", 6379), "10.0.0.1:6379"), (Address("fd00::1", 6379), "[fd00::1]:6379")],
)
def test_an_address_is_written_as_in_a_url(address: Address, text: str) -> None:
    """So it can be copied to a shell."""
    assert str(address) == text
