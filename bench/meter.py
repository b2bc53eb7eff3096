"""What one window of a load cost: its length, and the share of a core that each side used."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter, process_time

from bench.peer import Target
from bench.plan import LOAD_CORE, SERVER_CORE
from bench.procfs import read_busy_s, read_children_s, read_cpu_s
from bench.reactor import Reactor

__all__ = ["CORES", "NOISE_SHARE", "Meter", "Result", "Shares"]

CORES = (SERVER_CORE, LOAD_CORE)
NOISE_SHARE = 0.1  # what others may take of the two cores before a number is not to be trusted


@dataclass(frozen=True, slots=True)
class Shares:
    """
    A window's length in seconds, and what was used of the two cores in it, as shares of one core.

    `load_busy` is the time in which the load had something to do, `server_cpu` the CPU time of the
    server's processes, `store_cpu` that of its store's (Redis), `others_cpu` that of other
    processes (or other guests of the host).
    """

    seconds: float
    load_busy: float
    server_cpu: float
    others_cpu: float
    store_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a load gave: its metrics by key, what it cost, and what was checked."""

    metrics: dict[str, float]
    shares: Shares
    details: dict[str, float]


class Meter:
    """Measures from its creation to `read`."""

    def __init__(self, reactor: Reactor, target: Target) -> None:
        self._reactor = reactor
        self._idle_s = reactor.idle_s
        self._target = target
        self._server_s = read_cpu_s(target.group)
        self._store_s = read_store_s(target)
        self._load_s = process_time()
        self._busy_s = read_busy_s(CORES)
        self._started = perf_counter()

    def read(self) -> Shares:
        """Read the shares of the time since the meter was made."""
        seconds = perf_counter() - self._started
        load_s = process_time() - self._load_s
        server_s = read_cpu_s(self._target.group) - self._server_s
        store_s = read_store_s(self._target) - self._store_s
        others_s = max(0.0, read_busy_s(CORES) - self._busy_s - load_s - server_s - store_s)
        idle_s = self._reactor.idle_s - self._idle_s
        shares = (1 - idle_s / seconds, server_s / seconds, others_s / seconds, store_s / seconds)
        return Shares(seconds, *shares)


def read_store_s(target: Target) -> float:
    """Read the CPU seconds that the target's store has used, all of its processes."""
    return read_cpu_s(target.store) + read_children_s(target.store) if target.store else 0.0
