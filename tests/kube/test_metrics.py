"""What the operator's metrics say of shards."""

from __future__ import annotations

from typing import Any

from roomful_operator.metrics import Statistics


def status(**terms: int) -> dict[str, Any]:
    """Give a cluster's status with these shards."""
    return {
        "state": "Ready",
        "edges": {"desired": 2, "ready": 2, "connections": 0},
        "shardCount": len(terms),
        "readyShards": len(terms),
        "shards": [{"name": name, "term": term, "buckets": 512} for name, term in terms.items()],
    }


def series(statistics: Statistics, name: str) -> list[str]:
    """Give the lines of one metric."""
    lines = statistics.render().decode().splitlines()
    return [line for line in lines if line.startswith(f"roomful_cluster_{name}{{")]


def test_failovers_and_moves_can_be_seen() -> None:
    """A shard's term goes up with each primary, its buckets come and go; gone, it has no series."""
    statistics = Statistics()
    statistics.passed("uid", "rooms/chat", 0.1, status(s1=1, s2=1))
    statistics.passed("uid", "rooms/chat", 0.1, status(s1=2))
    assert series(statistics, "shard_term") == [
        'roomful_cluster_shard_term{cluster="rooms/chat",shard="s1"} 2.0'
    ]
    assert series(statistics, "shard_buckets") == [
        'roomful_cluster_shard_buckets{cluster="rooms/chat",shard="s1"} 512.0'
    ]
    statistics.forget("uid")
    assert series(statistics, "shard_term") == series(statistics, "shard_buckets") == []
