"""
What is broken, when, and by whom: the plan of faults, and the interface of those who break.

The plan is made from the seed before anything runs, so the same seed breaks the same things in
the same order at the same times; who the victim is, of those there are then, is drawn from it too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, Protocol

__all__ = ["Breaker", "Fault", "FaultKind", "Incident", "Nothing", "plan_faults"]

QUIET_S: Final = 5.0
"""
No fault in the first and the last seconds (a quarter of a short run), so that there is something
to compare with.
"""


class FaultKind(StrEnum):
    """What `--faults` can name."""

    EDGE_KILL = "edge-kill"
    """SIGKILL an edge; it is started again."""
    PRIMARY_KILL = "primary-kill"
    """SIGKILL a shard's primary."""
    PARTITION = "partition"
    """Cut a primary off from the controller and its replicas, not from the edges."""
    PAUSE = "pause"
    """SIGSTOP a primary for some seconds."""
    HAND_OVER = "hand-over"
    """Let a primary hand its role over, as before its server is restarted."""
    RESHARD = "reshard"
    """Add a shard, or drain the one that was added."""
    CONTROLLER_KILL = "controller-kill"
    """SIGKILL the controller in the middle of whatever it does; it is started again."""
    ROLLING_RESTART = "rolling-restart"
    """Stop and start all edges in order, each with its drain."""
    ARCHIVER_KILL = "archiver-kill"
    """SIGKILL an archiver; it is started again."""
    DATABASE_AWAY = "database-away"
    """Cut all connections to the archive's database, and let none be made for a while."""
    CLIENT_CUT = "client-cut"
    """Cut clients' TCP connections, one every 50 ms for 5 s."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is planned: seconds after the start, what, and a seed of its own."""

    at_s: float
    kind: FaultKind
    seed: int


@dataclass(slots=True)
class Incident:
    """A fault that happened; times of the monotonic clock."""

    kind: FaultKind
    what: str
    began_at: float
    ended_at: float
    failed: str | None = None
    """Why it could not be done, or was not mended."""
    pauses_ms: Sequence[float] = ()
    """How long each bucket that moved was closed, as the controller measured it."""


class Breaker(Protocol):
    """Who can break the cluster, and see to it that it is whole again."""

    @property
    def kinds(self) -> frozenset[FaultKind]:
        """What it can do."""

    async def inflict(self, fault: Fault) -> Incident:
        """Do *fault* and return when it is mended; never raises, a failure is in the incident."""


class Nothing:
    """Breaks nothing: for a cluster that somebody else breaks."""

    kinds: frozenset[FaultKind] = frozenset()

    async def inflict(self, fault: Fault) -> Incident:
        """Say that it cannot be done."""
        now = time.monotonic()
        return Incident(fault.kind, "", now, now, "nobody here can do this")


def plan_faults(
    kinds: Iterable[FaultKind], *, duration_s: float, every_s: float, seed: int
) -> Sequence[Fault]:
    """
    Plan a fault each *every_s*: all *kinds* in a random order, then all of them again.

    The times are the earliest: a fault waits until the one before it is mended.
    """
    random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
    order = sorted(set(kinds))
    plan: list[Fault] = []
    waiting: list[FaultKind] = []
    at_s = quiet_s = min(QUIET_S, duration_s / 4)
    while order and at_s <= duration_s - quiet_s:
        if not waiting:
            waiting = random.sample(order, len(order))
        plan.append(Fault(at_s, waiting.pop(), random.getrandbits(32)))
        at_s += every_s
    return plan
