"""What a cluster on this machine uses: memory and CPU time of its edges and its shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.procfs import read_cpu_s, read_rss_bytes
from roomful.verify.cluster import LocalCluster

__all__ = ["Use", "Usage", "read_kernel_bytes", "read_use"]

_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Use:
    """What the processes of one role have used."""

    rss_bytes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a cluster had used at one moment (of the monotonic clock)."""

    at: float
    edges: Sequence[Use]
    servers: Use

    @property
    def edge_bytes(self) -> int:
        """Resident memory of all edges."""
        return sum(edge.rss_bytes for edge in self.edges)

    @property
    def edge_cpu_s(self) -> float:
        """CPU time of all edges, since each began."""
        return sum(edge.cpu_s for edge in self.edges)


def read_use(cluster: LocalCluster) -> Usage:
    """Read what *cluster* has used by now."""
    # Each process of a cluster leads a group of its own.
    edges = [_read(one.pid) for one in cluster.processes("edge")]
    servers = [_read(one.pid) for one in cluster.processes("server")]
    total = Use(sum(one.rss_bytes for one in servers), sum(one.cpu_s for one in servers))
    return Usage(time.monotonic(), edges, total)


def _read(pid: int) -> Use:
    return Use(read_rss_bytes(pid), read_cpu_s(pid))


def read_kernel_bytes() -> int:
    """Read what the kernel holds in the buffers of TCP sockets, of the whole machine."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        words = line.split()
        if words[0] == "TCP:":
            return int(words[words.index("mem") + 1]) * _PAGE_BYTES
    return 0
