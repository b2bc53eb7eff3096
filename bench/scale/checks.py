"""Whether this machine can hold a crowd, said before anything is started."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

from bench.scale.plan import Crowd

__all__ = ["TooMuch", "check_machine"]

SPARE_FILES = 250  # of a process, besides its connections
SOURCES = 8  # loopback addresses that connections come from
EDGE_BYTES = 25_000  # of an edge for one connection in two rooms, while all of them come
LOAD_BYTES = 10_000
KERNEL_BYTES = 25_000  # two sockets with little in their buffers
BASE_BYTES = 1_000_000_000


class TooMuch(Exception):
    """This machine cannot hold the crowd; the sentences say why, and what would do."""


def check_machine(crowd: Crowd) -> None:
    """
    Raise the limit of open files as far as it goes, and see whether *crowd* fits.

    Raises:
        TooMuch: it does not.
    """
    problems = [*_check_files(crowd), *_check_ports(crowd), *_check_memory(crowd)]
    if shutil.which("redis-server") is None and shutil.which("valkey-server") is None:
        problems.append("redis-server is missing (Debian, Ubuntu: apt install redis-server)")
    if shutil.which("setpriv") is None:
        problems.append("setpriv is missing (util-linux)")
    if problems:
        raise TooMuch("\n".join(problems))


def _check_files(crowd: Crowd) -> list[str]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and crowd.per_edge + SPARE_FILES > hard:
        least = -(-crowd.connections // (hard - SPARE_FILES - 1))
        return [
            f"an edge would hold {crowd.per_edge:,} connections, and a process may open {hard:,} "
            f"files (ulimit -Hn): take --edges {least} or more, or raise the limit"
        ]
    # What is started inherits it.
    wanted = hard if hard != resource.RLIM_INFINITY else crowd.per_edge + SPARE_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return []


def _check_ports(crowd: Crowd) -> list[str]:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    # To one edge, from one address, a port can be used once.
    most = SOURCES * (high - low + 1)
    if crowd.per_edge > most:
        return [
            f"an edge would hold {crowd.per_edge:,} connections, and {SOURCES} addresses have "
            f"{most:,} ports (net.ipv4.ip_local_port_range): take more --edges"
        ]
    return []


def _check_memory(crowd: Crowd) -> list[str]:
    needed = BASE_BYTES + crowd.connections * (EDGE_BYTES + LOAD_BYTES + KERNEL_BYTES)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            if available < needed:
                return [
                    f"{crowd.connections:,} connections need some {needed / 1e9:.1f} GB for both "
                    f"sides, and {available / 1e9:.1f} GB are available"
                ]
    return []
