"""CPU time and memory of a server (all processes of its group) and of cores, from /proc."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["read_busy_s", "read_children_s", "read_cpu_s", "read_rss_bytes"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields after "pid (comm)" in /proc/<pid>/stat, counted from 0: proc(5).
_PARENT, _GROUP, _USER_TICKS, _SYSTEM_TICKS = 1, 2, 11, 12
_RSS_PAGES = 21
# Columns of a core's line in /proc/stat after its name: proc(5). Time in interrupts is left out:
# for loopback it is the work of the process that sends, and in no process's time.
_BUSY_COLUMNS = {"user": 0, "nice": 1, "system": 2, "steal": 7}


def read_cpu_s(group: int) -> float:
    """Read the CPU seconds, user and system, that the live processes of the group have used."""
    ticks = sum(int(f[_USER_TICKS]) + int(f[_SYSTEM_TICKS]) for f in _read_stats(group))
    return ticks / _TICKS_PER_S


def read_children_s(parent: int) -> float:
    """Read the CPU seconds of the processes that *parent* started in groups of their own."""
    ticks = sum(
        int(f[_USER_TICKS]) + int(f[_SYSTEM_TICKS])
        for f in _read_all_stats()
        if int(f[_PARENT]) == parent and int(f[_GROUP]) != parent
    )
    return ticks / _TICKS_PER_S


def read_busy_s(cores: Collection[int]) -> float:
    """Read the seconds that *cores* together spent in processes, or did not get from the host."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name in {f"cpu{core}" for core in cores}:
            columns = rest.split()
            ticks += sum(int(columns[column]) for column in _BUSY_COLUMNS.values())
    return ticks / _TICKS_PER_S


def read_rss_bytes(group: int) -> int:
    """Read the resident memory of the processes of the group, in bytes."""
    return sum(int(fields[_RSS_PAGES]) for fields in _read_stats(group)) * _PAGE_BYTES


def _read_stats(group: int) -> Iterator[list[str]]:
    return (fields for fields in _read_all_stats() if int(fields[_GROUP]) == group)


def _read_all_stats() -> Iterator[list[str]]:
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            text = (process / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        yield text.rpartition(")")[2].split()
