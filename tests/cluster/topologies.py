"""Topologies: any, one of two shards, and as a document."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS
from roomful.cluster.topology import (
    MAX_ACKS,
    MAX_COUNT,
    MAX_TERM,
    Address,
    ShardRecord,
    Topology,
    encode_topology,
    first_topology,
)

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True).map(ShardName)
HOSTS = st.sampled_from(["127.0.0.1", "::1", "shard-0.roomful.svc.cluster.local", "redis_1"])
A, B = ShardName("a"), ShardName("b")


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any topology, also with owners that no plan would give."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    ports = iter(draw(st.lists(st.integers(1, 65535), min_size=12, max_size=12, unique=True)))

    def address() -> Address:
        return Address(draw(HOSTS), next(ports))

    shards = {
        name: ShardRecord(
            term=draw(st.integers(1, MAX_TERM)),
            primary=address(),
            replicas=tuple(address() for _ in range(draw(st.integers(0, 2)))),
            run_id=draw(st.none() | st.text("0123456789abcdef", min_size=40, max_size=40)),
        )
        for name in names
    }
    owners = draw(st.lists(st.sampled_from(names), min_size=1, max_size=7))
    versions = draw(st.lists(st.integers(1, MAX_COUNT), min_size=1, max_size=7))
    return Topology(
        generation=draw(st.integers(1, MAX_COUNT)),
        shards=shards,
        buckets=tuple(owners[bucket % len(owners)] for bucket in range(BUCKETS)),
        versions=tuple(versions[bucket % len(versions)] for bucket in range(BUCKETS)),
        acks=draw(st.integers(0, MAX_ACKS)),
        is_fsynced=draw(st.booleans()),
    )


def record(port: int, **changes: Any) -> ShardRecord:
    """Give a shard whose primary listens on *port*."""
    return msgspec.structs.replace(ShardRecord(1, Address("127.0.0.1", port)), **changes)


def two_shards() -> Topology:
    """Give the topology of a new cluster of two."""
    return first_topology({A: record(7001), B: record(7002)})


def document() -> dict[str, Any]:
    """Give the JSON of a valid topology, to be changed."""
    value: dict[str, Any] = json.loads(encode_topology(two_shards()))
    return value
