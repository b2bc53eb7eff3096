"""
How many edges there should be for the load that there is: pure.

Edges follow connections, then what they deliver, then their CPU; the highest wins. They are added
at once and taken away slowly: fewer must have been enough for a whole window, and then they go
a few at a time, since each that goes moves its clients.

Times are seconds of one clock that never jumps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "Decision",
    "EdgeLoad",
    "EdgeTargets",
    "History",
    "decide_edges",
    "excess_connections",
    "first_to_go",
]

TOLERANCE: Final = 0.1
"""So much off the target is no reason to change anything."""
UP_EVERY_S: Final = 15.0
UP_AT_LEAST: Final = 4
"""So many may come at once, or as many as there are."""
DOWN_EVERY_S: Final = 60.0
DOWN_SHARE: Final = 0.1
"""So large a part of the edges may go at once, or one."""
MAX_UNREADABLE: Final = 0.25
"""With more of the edges silent nothing is decided: it may be us who cannot see."""
CPU_TARGET: Final = 0.7
"""Of the one core that an edge can use."""

SHED_ABOVE: Final = 1.25
SHED_SHARE: Final = 0.05
"""Of the mean, shed by one edge in a round."""


@dataclass(frozen=True, slots=True)
class EdgeLoad:
    """What one edge says; or that it says nothing."""

    name: str
    connections: int = 0
    deliveries_per_s: float = 0.0
    cpu: float = 0.0
    """Cores used."""
    is_draining: bool = False
    is_readable: bool = True
    """Whether it answered; if not, the numbers are the last that it gave."""
    node: str = ""
    """Where it runs: a node that is lost takes all edges that it has."""


@dataclass(frozen=True, slots=True)
class EdgeTargets:
    """How edges shall be loaded, and how many there may be."""

    minimum: int
    maximum: int
    connections: int
    """Of one edge."""
    deliveries_per_s: float
    """Of one edge."""
    buffer: float = 0.2
    """Free capacity, as a part of what is used."""
    window_s: float = 300.0
    """For so long fewer edges must have been enough."""


@dataclass(frozen=True, slots=True)
class History:
    """
    What has to be known of the past.

    It begins with the present number as if it had been needed: an operator that has just been
    started takes nothing away before it has seen a whole window.
    """

    needs: tuple[tuple[float, int], ...] = ()
    """How many were needed when; those of the window."""
    changed_at: float = -math.inf
    hot: int = 0
    """Samples in a row with too much CPU."""

    @classmethod
    def beginning(cls, now: float, current: int) -> History:
        """Give the history of someone who has just begun to look."""
        return cls(((now, current),))


@dataclass(frozen=True, slots=True)
class Decision:
    """How many there should be, and why."""

    count: int
    reason: str
    message: str
    history: History = field(default_factory=History)
    is_active: bool = True
    """Whether anything could be decided."""


def decide_edges(
    targets: EdgeTargets,
    loads: Sequence[EdgeLoad],
    current: int,
    now: float,
    history: History,
    *,
    is_calm: bool = True,
) -> Decision:
    """
    Give the number of edges.

    Args:
        loads: of all edges that are there, those that drain too: their clients come back.
        current: how many there are meant to be now.
        is_calm: nothing is rolled, moved or broken; otherwise none is taken away.
    """
    silent = [one for one in loads if not one.is_readable]
    if not loads or len(silent) > MAX_UNREADABLE * len(loads):
        message = f"{len(silent)} of {len(loads)} edges do not tell their load"
        return Decision(current, "MetricsMissing", message, history, is_active=False)
    hot = history.hot + 1 if _cpu(loads) > CPU_TARGET else 0
    # One sample may be a collection of garbage; two in a row are load.
    up = _need(targets, loads, current, cpu=_cpu(loads) if hot > 1 else 0.0)
    # One that is silent may be full: nobody is taken away on its account.
    wary = [one if one.is_readable else _full(one, targets) for one in loads]
    # Also CPU that is below the target would be above it on fewer edges.
    down = _need(targets, wary, current, cpu=_cpu(loads))
    kept = tuple((at, need) for at, need in history.needs if at > now - targets.window_s)
    history = History((*kept, (now, down)), history.changed_at, hot)
    if up > current:
        return _more(targets, up, current, now, history)
    return _fewer(targets, current, now, history, is_calm=is_calm)


def _more(targets: EdgeTargets, need: int, current: int, now: float, history: History) -> Decision:
    if now < history.changed_at + UP_EVERY_S:
        return Decision(current, "ScalingUp", f"{need} edges are needed", history)
    count = min(need, current + max(UP_AT_LEAST, current), targets.maximum)
    if count == current:
        return Decision(current, "AtMaximum", f"{need} edges would be needed", history)
    changed = History(history.needs, now, history.hot)
    return Decision(count, "ScalingUp", f"{need} edges are needed", changed)


def _fewer(
    targets: EdgeTargets, current: int, now: float, history: History, *, is_calm: bool
) -> Decision:
    enough = max(need for _, need in history.needs)
    if enough >= current:
        return Decision(current, "Steady", f"{current} edges are right", history)
    if not is_calm:
        return Decision(current, "Waiting", "no edge goes while something else changes", history)
    if now < history.changed_at + DOWN_EVERY_S:
        return Decision(current, "ScalingDown", f"{enough} edges are enough", history)
    count = max(enough, current - max(1, int(current * DOWN_SHARE)), targets.minimum)
    if count == current:
        return Decision(current, "AtMinimum", f"{enough} edges would be enough", history)
    changed = History(history.needs, now, history.hot)
    return Decision(count, "ScalingDown", f"{enough} edges are enough", changed)


def _need(targets: EdgeTargets, loads: Sequence[EdgeLoad], current: int, *, cpu: float) -> int:
    connections = sum(one.connections for one in loads)
    by_connections = connections * (1 + targets.buffer) / targets.connections
    by_deliveries = sum(one.deliveries_per_s for one in loads) / targets.deliveries_per_s
    exact = max(by_connections, by_deliveries, current * cpu / CPU_TARGET)
    near = current if abs(exact - current) <= current * TOLERANCE else math.ceil(exact)
    return min(max(near, targets.minimum), max(targets.maximum, targets.minimum))


def _cpu(loads: Sequence[EdgeLoad]) -> float:
    own = [one.cpu for one in loads if one.is_readable and not one.is_draining]
    return sum(own) / len(own) if own else 0.0


def _full(load: EdgeLoad, targets: EdgeTargets) -> EdgeLoad:
    return EdgeLoad(load.name, max(load.connections, targets.connections))


def first_to_go(loads: Sequence[EdgeLoad], count: int) -> tuple[str, ...]:
    """
    Give the *count* edges that go; those that drain are going already, and not among them.

    Of the nodes with the most edges, those whose end moves the fewest clients.
    """
    staying = [one for one in loads if not one.is_draining]
    going: list[str] = []
    while staying and len(going) < count:
        crowds = Counter(one.node for one in staying)
        _, _, name = min((-crowds[one.node], one.connections, one.name) for one in staying)
        staying = [one for one in staying if one.name != name]
        going.append(name)
    return tuple(going)


def excess_connections(loads: Sequence[EdgeLoad]) -> Mapping[str, int]:
    """
    Give how many connections edges should shed in this round, for new edges to get their share.

    None as long as the fullest has at most SHED_ABOVE of the mean, or one of them is silent.
    """
    serving = [one for one in loads if not one.is_draining]
    if len(serving) < 2 or not all(one.is_readable for one in serving):
        return {}
    mean = sum(one.connections for one in serving) / len(serving)
    if max(one.connections for one in serving) <= SHED_ABOVE * mean:
        return {}
    step = max(1, int(mean * SHED_SHARE))
    return {
        one.name: min(int(one.connections - mean), step)
        for one in serving
        if one.connections - mean >= 1
    }
