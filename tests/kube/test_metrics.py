"""What the operator's metrics say of shards."""

from __future__ import annotations

from typing import Any

from roomful.control.waits import Change
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


def test_how_long_clients_waited_can_be_seen() -> None:
    """Each wait of a cluster is counted once, by kind; all begin at 0, and go with the cluster."""
    statistics = Statistics()
    listener = statistics.listener("uid", "rooms/chat")
    assert series(statistics, "bucket_closed_seconds_count") == [
        'roomful_cluster_bucket_closed_seconds_count{cluster="rooms/chat"} 0.0'
    ]
    listener.bucket_moved(0.02)
    listener.primary_changed(Change.FAILOVER, 4.2)
    assert series(statistics, "bucket_closed_seconds_sum") == [
        'roomful_cluster_bucket_closed_seconds_sum{cluster="rooms/chat"} 0.02'
    ]
    name = "primary_change_seconds"
    assert series(statistics, f"{name}_sum") == [
        f'roomful_cluster_{name}_sum{{cluster="rooms/chat",kind="failover"}} 4.2',
        f'roomful_cluster_{name}_sum{{cluster="rooms/chat",kind="hand-over"}} 0.0',
    ]
    statistics.forget("uid")
    # A controller that ends in this moment brings none of it back.
    listener.bucket_moved(0.02)
    listener.primary_changed(Change.HAND_OVER, 0.5)
    assert 'cluster="rooms/chat"' not in statistics.render().decode()


def test_a_late_loop_can_be_seen() -> None:
    """In steps from 5 ms on."""
    statistics = Statistics()
    statistics.late(0.2)
    text = statistics.render().decode()
    assert 'roomful_operator_loop_lag_seconds_bucket{le="0.1"} 0.0' in text
    assert 'roomful_operator_loop_lag_seconds_bucket{le="0.25"} 1.0' in text
