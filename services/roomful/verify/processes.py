"""
The processes of a cluster on this machine, as the kernel knows them (Linux: /proc).

`roomful cluster` is their parent; who is who is told by their command lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LocalProcess", "children_of", "processes_of"]

_PROC = Path("/proc")
_EDGE = re.compile(r"roomful\S* serve .*--port (\d+)")
_ARCHIVER = re.compile(r"roomful\S* archive ")
_CONTROLLER = re.compile(r"roomful\S* controller ")
_SERVER = re.compile(r"(?:redis|valkey)-server \S*:(\d+)")


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """One process of the cluster."""

    pid: int
    role: str
    """`edge`, `server`, `archiver` or `controller`."""
    port: int
    """Where it listens; 0 for those who do not."""


def children_of(parent: int) -> Iterator[int]:
    """Give the numbers of the processes that *parent* started and that have not ended."""
    for directory in _PROC.iterdir():
        if not directory.name.isdigit():
            continue
        try:
            # "pid (name) state ppid …"; a name may hold spaces and parentheses.
            state, ppid = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            yield int(directory.name)


def processes_of(cluster: int) -> list[LocalProcess]:
    """Give the processes of the `roomful cluster` with this number, edges by their ports."""
    found: list[LocalProcess] = []
    for pid in children_of(cluster):
        try:
            line = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if match := _EDGE.search(line):
            found.append(LocalProcess(pid, "edge", int(match[1])))
        elif match := _SERVER.search(line):
            found.append(LocalProcess(pid, "server", int(match[1])))
        elif _ARCHIVER.search(line):
            found.append(LocalProcess(pid, "archiver", 0))
        elif _CONTROLLER.search(line):
            found.append(LocalProcess(pid, "controller", 0))
    return sorted(found, key=lambda one: (one.role, one.port))
