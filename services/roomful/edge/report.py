"""What an edge tells about itself: stats, health, and the samples of its metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage
from typing import TYPE_CHECKING

from roomful.telemetry.metrics import Sample

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["health", "samples", "stats"]


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
    fanout, shard = edge.fanout.statistics, edge.shard.statistics
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


def health(edge: Edge) -> dict[str, object]:
    """Give whether this edge is well, its uptime in seconds and its memory in bytes."""
    return {
        "status": "draining" if edge.is_draining else "ok",
        "uptime": round(time.time() - edge.started_at, 3),
        "memoryUsage": {
            "rss": rss_bytes(),
            "roomLogs": edge.shard.logs.bytes,
        },
    }


def samples(edge: Edge) -> Sequence[Sample]:
    """Give the metrics of this edge."""
    own, fanout, shard = edge.statistics, edge.fanout.statistics, edge.shard.statistics
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
        Sample("ids_dropped", "Ids forgotten before their window ended.", shard.ids_dropped),
        Sample("deliveries", "Messages times members.", fanout.deliveries),
        Sample("casts", "Events sent that are not stored.", fanout.casts),
        Sample("casts_dropped", "Volatile events not sent to slow clients.", fanout.dropped_casts),
        Sample("log_bytes", "Bytes of room logs.", edge.shard.logs.bytes, is_counter=False),
        Sample("log_entries", "Entries of room logs.", len(edge.shard.logs), is_counter=False),
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
