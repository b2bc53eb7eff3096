"""What an edge tells about itself: stats, health, and the samples of its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage
from typing import TYPE_CHECKING

from roomful.shard.memory import MemoryShard
from roomful.shard.redis_shards import RedisShards
from roomful.telemetry.lasting import task_failures
from roomful.telemetry.metrics import Sample

if TYPE_CHECKING:
    from roomful.edge.edge import Edge
    from roomful.shard.base import Shards
    from roomful.shard.redis import RedisShard

__all__ = ["cluster_stats", "health", "samples", "stats"]


def rss_bytes() -> int:
    """Give the resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return getrusage(RUSAGE_SELF).ru_maxrss * 1024
    return pages * getpagesize()


def _app_rooms(edge: Edge) -> int:
    return sum(not room.startswith("user:") for room in edge.fanout.rooms)


def stats(edge: Edge) -> dict[str, object]:
    """Give the numbers of this edge; the first three are what dashboards ask for."""
    fanout, shard = edge.fanout.statistics, edge.shards.statistics
    return {
        "activeConnections": sum(one.record is not None for one in edge.connections),
        "rooms": _app_rooms(edge),
        "users": edge.counts.users,
        "sockets": edge.counts.connections,
        "messagesStored": shard.stored,
        "duplicates": shard.duplicates,
        "deliveries": fanout.deliveries,
        "resumed": edge.statistics.resumed,
        "notResumed": edge.statistics.not_resumed,
        "slowClients": edge.statistics.slow_clients,
        "draining": edge.is_draining,
    }


def cluster_stats(
    edge: Edge, by_edge: Mapping[str, Mapping[str, float]], edges: int
) -> dict[str, object]:
    """
    Add up the numbers of all edges.

    A user, or a room, of two edges counts twice: no edge knows the others' names of them.

    Args:
        by_edge: what stats() gave on each edge that answered, this one among them.
        edges: how many there are.
    """
    total: dict[str, object] = {}
    for name, value in stats(edge).items():
        total[name] = value
        if isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = sum(numbers.get(name, 0) for numbers in by_edge.values())
    return {**total, "edges": edges, "answered": len(by_edge), "byEdge": by_edge}


def health(edge: Edge) -> dict[str, object]:
    """Give whether this edge is well, its uptime in seconds and its memory in bytes."""
    memory = {"rss": rss_bytes()}
    if isinstance(edge.shards, MemoryShard):
        memory["roomLogs"] = edge.shards.logs.bytes
    return {
        "status": "draining" if edge.is_draining else edge.shards.unready() or "ok",
        "uptime": round(time.time() - edge.started_at, 3),
        "memoryUsage": memory,
    }


def samples(edge: Edge) -> Sequence[Sample]:
    """Give the metrics of this edge."""
    own, fanout, shard = edge.statistics, edge.fanout.statistics, edge.shards.statistics
    connected = sum(one.record is not None for one in edge.connections)
    return (
        Sample("connections", "Signed-in connections.", connected, is_counter=False),
        Sample("sockets", "Open TCP connections.", edge.counts.connections, is_counter=False),
        Sample("users", "Distinct signed-in users.", edge.counts.users, is_counter=False),
        Sample("rooms", "Rooms held, without users' own.", _app_rooms(edge), is_counter=False),
        Sample("draining", "1 while the edge drains.", edge.is_draining, is_counter=False),
        Sample("messages_stored", "Messages stored.", shard.stored),
        Sample("messages_duplicate", "Publishes known by their id.", shard.duplicates),
        Sample("commit_batches", "Batches committed.", shard.batches),
        Sample("deliveries", "Messages times members.", fanout.deliveries),
        Sample("casts", "Events sent that are not stored.", fanout.casts),
        Sample("casts_dropped", "Volatile events not sent to slow clients.", fanout.dropped_casts),
        Sample("publishes_refused", "Publishes refused: no room for them.", shard.refused),
        *_shard_samples(edge.shards),
        *(() if edge.outboxes is None else edge.outboxes.samples()),
        *(() if edge.embedded is None else edge.embedded.samples()),
        task_failures(),
        *(() if edge.tracing is None else edge.tracing.samples()),
        Sample("resumes", "Sessions resumed.", own.resumed),
        Sample("resumes_failed", "Resumes that began anew.", own.not_resumed),
        Sample("slow_clients", "Connections closed as too slow.", own.slow_clients),
        Sample("client_faults", "Connections closed for what they sent.", own.client_faults),
        Sample("sign_ins_refused", "Sign-ins refused.", own.refused_sign_ins),
        Sample("connections_refused", "TCP connections refused.", own.refused_connections),
        Sample("forwards", "Polling requests passed on to their session's edge.", own.forwards),
        Sample("splices", "WebSockets carried to their session's edge.", own.splices),
        Sample("passing", "Both, under way now.", len(edge.passing), is_counter=False),
        Sample("forwards_failed", "Of both, those that found no edge.", own.forwards_failed),
        Sample("peers", "Edges known by address.", len(edge.peers.addresses), is_counter=False),
        Sample("upgrades_refused", "WebSocket upgrades refused.", own.refused_upgrades),
        Sample(
            "refusals",
            "Operations refused, by code.",
            {str(code): float(count) for code, count in own.refusals.items()},
            label="code",
        ),
    )


def _shard_samples(shards: Shards) -> Sequence[Sample]:
    if isinstance(shards, MemoryShard):
        return _memory_samples(shards)
    return _redis_samples(shards) if isinstance(shards, RedisShards) else ()


def _memory_samples(shard: MemoryShard) -> Sequence[Sample]:
    logs, dropped = shard.logs, shard.statistics.ids_dropped
    return (
        Sample("ids_dropped", "Ids forgotten before their window ended.", dropped),
        Sample("log_bytes", "Bytes of room logs.", logs.bytes, is_counter=False),
        Sample("log_entries", "Entries of room logs.", len(logs), is_counter=False),
    )


def _redis_samples(shards: RedisShards) -> Sequence[Sample]:
    counts, each, moves = shards.statistics, shards.shards, shards.holding.statistics
    generation = shards.topology.generation if shards.topology is not None else 0

    def by_shard(name: str, sentence: str, value: Callable[[RedisShard], float]) -> Sample:
        values = {str(one): float(value(shard)) for one, shard in each.items()}
        return Sample(name, sentence, values, is_counter=False, label="shard")

    def counted(name: str, sentence: str, value: Callable[[RedisShard], float]) -> Sample:
        values = {str(one): float(value(shard)) for one, shard in each.items()}
        return Sample(name, sentence, values, label="shard")

    return (
        Sample("topology_generation", "Of the topology in use.", generation, is_counter=False),
        Sample("buckets_closed", "Buckets that wait.", shards.closed_buckets, is_counter=False),
        Sample("commit_seconds", "Seconds that batches were under way.", counts.batch_s),
        Sample("commit_short_waits", "Batches that too few replicas had.", counts.short_waits),
        Sample("commit_lost_batches", "Batches whose connection was lost.", counts.lost_batches),
        Sample("commit_refused_batches", "Batches refused whole.", counts.refused_batches),
        Sample("publishes_rerouted", "Messages whose bucket was elsewhere.", counts.rerouted),
        Sample("publishes_expired", "Publishes not safe in time.", counts.expired),
        Sample("casts_lost", "Events that could not be sent to a shard.", counts.casts_dropped),
        Sample("rooms_moved", "Rooms heard on another shard since.", moves.handed_over),
        Sample("rooms_moved_broken", "Rooms that lacked something then.", moves.broken_off),
        by_shard("shard_up", "1 while messages can be committed.", lambda one: one.is_up),
        by_shard("shard_deaf", "1 while it is not heard.", lambda one: one.reader.is_deaf),
        by_shard(
            "shard_waiting_bytes",
            "Bytes of messages that are not safe yet.",
            lambda one: one.waiting_bytes,
        ),
        counted(
            "shard_received_bytes",
            "Bytes heard of it.",
            lambda one: one.reader.received_bytes,
        ),
        counted(
            "shard_gaps",
            "Publications that were lost on the way.",
            lambda one: one.reader.stream.statistics.gaps,
        ),
        counted(
            "shard_lost_rooms",
            "Rooms whose log no longer reached back.",
            lambda one: one.reader.stream.statistics.lost_rooms,
        ),
    )
