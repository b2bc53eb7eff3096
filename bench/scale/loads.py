"""The three loads: a crowd that is held, one whose connections are cut, one whose edges restart."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Final

from bench.scale.crew import Crew, Outcome
from bench.scale.orders import Cut, Expect, Heartbeats, Open, Say, Step
from bench.scale.plan import Crowd
from bench.scale.watch import Usage, read_kernel_bytes, read_use
from roomful.edge.settings import DEV_SECRET
from roomful.verify.cluster import LocalCluster, LocalShape, local_cluster
from roomful.verify.incidents import Fault, FaultKind, Incident
from roomful.verify.local import LocalBreaker

__all__ = ["Figures", "count_owed", "run_cuts", "run_held", "run_restarts"]

SHARDS: Final = 2
REPLICAS: Final = 1
LOG_ENTRIES: Final = 5_000  # of a room: the default
OPEN_AT_ONCE: Final = 12  # of each load process
LEAST_OPEN_RATE: Final = 100.0
HEARTBEAT_S: Final = 120.0
SETTLE_S: Final = 5.0
BACK_S: Final = 90.0
BEGIN_S: Final = 1.0
RESTART_S: Final = 400.0
BROADCASTS_PER_S: Final = 2
CUT_EVERY_S: Final = 15.0
OFFLINE_S: Final = 2.0

Speak = Callable[[str], None]


@dataclass(slots=True)
class Figures:
    """What a load measured."""

    crowd: Crowd
    sent: int
    expected: int
    """Deliveries that members are owed."""
    outcome: Outcome
    open_s: float
    """From the first connection to the last one in its rooms."""
    extra: dict[str, float] = field(default_factory=dict)

    def percentile_ms(self, name: str, part: float) -> float:
        """Give a percentile of one of the outcome's times; 0 when there are none."""
        times = self.outcome.times[name]
        return times[min(len(times) - 1, int(len(times) * part))] / 1e6 if times else 0.0

    @property
    def is_ok(self) -> bool:
        """Whether all was delivered, once, with no error."""
        counts = self.outcome.counts
        return (
            counts["deliveries"] == self.expected
            and not counts["lost"]
            and not counts["doubled"]
            and not counts["not_resumed"]
            and not self.outcome.errors
        )


@contextmanager
def _crowd(crowd: Crowd, speak: Speak) -> Iterator[tuple[LocalCluster, Crew, float, Usage]]:
    shape = LocalShape(crowd.edges, SHARDS, REPLICAS)
    speak(f"starting {crowd.edges} edges and {SHARDS} shards with a replica each")
    with local_cluster(shape, LOG_ENTRIES) as cluster:
        before = read_use(cluster)
        prefix = f"crowd-{time.time_ns() // 1_000_000:x}"
        with Crew.form(
            crowd, cluster.edge_ports, secret=DEV_SECRET, prefix=prefix, say=speak
        ) as crew:
            began = time.monotonic()
            crew.tell(Open(OPEN_AT_ONCE))
            crew.wait("open", 60.0 + crowd.connections / LEAST_OPEN_RATE)
            open_s = time.monotonic() - began
            rate = crowd.connections / open_s
            speak(f"{crowd.connections:,} connections in {open_s:.1f} s, {rate:,.0f} a second")
            yield cluster, crew, open_s, before


def run_held(crowd: Crowd, *, rate: int, duration_s: float, speak: Speak) -> Figures:
    """
    Hold *crowd*, and send *rate* messages a second into its rooms for *duration_s*.

    Raises:
        CrewFailed, NoCluster: it could not be done.
    """
    kernel_before = read_kernel_bytes()
    with _crowd(crowd, speak) as (cluster, crew, open_s, before):
        opened = read_use(cluster)
        crew.tell(Heartbeats())
        crew.wait("heartbeats", HEARTBEAT_S)
        idle_from = read_use(cluster)
        crew.wait("idle", SETTLE_S * 2, until=_after(SETTLE_S))
        idle = read_use(cluster)
        kernel = read_kernel_bytes() - kernel_before
        speak(f"sending {rate:,} messages/s for {duration_s:g} s")
        interval_ns = 1_000_000_000 // rate
        messages = int(rate * duration_s)
        start_ns = perf_counter_ns() + int(BEGIN_S * 1e9)
        processes = range(crowd.edges)
        crew.tell(
            *(
                Say(
                    start_ns,
                    process * interval_ns,
                    crowd.edges * interval_ns,
                    len(range(process, messages, crowd.edges)),
                )
                for process in processes
            )
        )
        busy_from = read_use(cluster)
        steps = crew.wait("said", duration_s + 60.0)
        busy = read_use(cluster)
        outcome, expected = _finish(crew, crowd, steps)
        figures = Figures(crowd, messages, expected, outcome, open_s)
        held = crowd.connections
        busy_s = busy.at - busy_from.at
        idle_s = idle.at - idle_from.at
        figures.extra = {
            "edge_kb": (idle.edge_bytes - before.edge_bytes) / held / 1e3,
            "edge_busy_kb": (busy.edge_bytes - before.edge_bytes) / held / 1e3,
            "server_kb": (idle.servers.rss_bytes - before.servers.rss_bytes) / held / 1e3,
            "kernel_kb": kernel / held / 1e3,
            "open_edge_ms": (opened.edge_cpu_s - before.edge_cpu_s) / held * 1e3,
            "open_server_ms": (opened.servers.cpu_s - before.servers.cpu_s) / held * 1e3,
            "idle_edge_cores": (idle.edge_cpu_s - idle_from.edge_cpu_s) / idle_s,
            "idle_server_cores": (idle.servers.cpu_s - idle_from.servers.cpu_s) / idle_s,
            "busy_edge_cores": (busy.edge_cpu_s - busy_from.edge_cpu_s) / busy_s,
            "busy_server_cores": (busy.servers.cpu_s - busy_from.servers.cpu_s) / busy_s,
        }
        return figures


def run_cuts(crowd: Crowd, *, broadcasts: int, speak: Speak) -> Figures:
    """
    Send *broadcasts* to all, two a second, while each client is cut every 15 s and away for 2 s.

    Raises:
        CrewFailed, NoCluster: it could not be done.
    """
    with _crowd(crowd, speak) as (cluster, crew, open_s, _):
        speak(f"{broadcasts} broadcasts, each client cut every {CUT_EVERY_S:g} s")
        before = read_use(cluster)
        crew.tell(Cut(CUT_EVERY_S, OFFLINE_S))
        crew.tell_first(_announce(broadcasts))
        steps = crew.wait("said", broadcasts / BROADCASTS_PER_S + 60.0, hands=1)
        after = read_use(cluster)
        outcome, expected = _finish(crew, crowd, steps)
        figures = Figures(crowd, broadcasts, expected, outcome, open_s)
        figures.extra = _cores(before, after)
        return figures


def run_restarts(crowd: Crowd, *, speak: Speak) -> Figures:
    """
    Restart all edges one after the other, with two broadcasts a second until all are back.

    Raises:
        CrewFailed, NoCluster: it could not be done.
    """
    with _crowd(crowd, speak) as (cluster, crew, open_s, _):
        breaker = LocalBreaker(cluster, LocalShape(crowd.edges, SHARDS, REPLICAS))
        incidents: list[Incident] = []
        fault = Fault(0.0, FaultKind.ROLLING_RESTART, 0)
        rolling = threading.Thread(
            target=lambda: incidents.append(asyncio.run(breaker.inflict(fault))), daemon=True
        )
        speak("restarting all edges, one after the other")
        # More than can be needed: it is told to stop.
        crew.tell_first(_announce(int(RESTART_S * BROADCASTS_PER_S)))
        rolling.start()
        crew.wait("restarts", RESTART_S, until=lambda: not rolling.is_alive())
        [incident] = incidents
        if incident.failed:
            speak(f"restarts: {incident.failed}")
        crew.tell_first(Say(0, 0, 0, 0))
        steps = crew.wait("said", 60.0, hands=1)
        outcome, expected = _finish(crew, crowd, steps)
        sent = sum(steps[0].rooms.values())
        figures = Figures(crowd, sent, expected, outcome, open_s)
        figures.extra = {"restart_s": incident.ended_at - incident.began_at}
        return figures


def _announce(broadcasts: int) -> Say:
    start_ns = perf_counter_ns() + int(BEGIN_S * 1e9)
    return Say(start_ns, 0, 1_000_000_000 // BROADCASTS_PER_S, broadcasts)


def _finish(crew: Crew, crowd: Crowd, steps: list[Step]) -> tuple[Outcome, int]:
    rooms = {room: number for step in steps for room, number in step.rooms.items()}
    crew.tell(Expect(rooms, BACK_S))
    crew.wait("complete", BACK_S + 10.0)
    return crew.finish(rooms), count_owed(crowd, rooms)


def count_owed(crowd: Crowd, rooms: dict[str, int]) -> int:
    """Count the deliveries that members are owed of so many messages to each of *rooms*."""
    owed = 0
    for room, number in rooms.items():
        kind, place = map(int, room.split("."))
        size = crowd.sizes[kind]
        owed += number * min(size, crowd.connections - place * size)
    return owed


def _cores(before: Usage, after: Usage) -> dict[str, float]:
    seconds = after.at - before.at
    return {
        "edge_cores": (after.edge_cpu_s - before.edge_cpu_s) / seconds,
        "server_cores": (after.servers.cpu_s - before.servers.cpu_s) / seconds,
    }


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
