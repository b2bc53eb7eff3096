"""
How many shards there should be for the load that there is: pure.

Each change moves rooms, so it follows slow signals only: a shard more when one has been nearly full
for a while (ten minutes), one fewer when fewer would have been enough for long (an hour). What a
shard more would not help is not answered by one: buckets are spread evenly, so where the mean is
low and one shard is full, a few rooms make it so.

A steady load never makes it go back and forth: from n shards to n + 1 the loads' sum has to be
above SHARD_IN * n, and back from n + 1 to n below it.

Times are seconds of one clock that never jumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

__all__ = [
    "SHARD_IN",
    "SHARD_IN_AFTER_S",
    "SHARD_OUT",
    "SHARD_OUT_AFTER_S",
    "ShardDecision",
    "ShardHistory",
    "ShardLoad",
    "ShardTargets",
    "decide_shards",
]

SHARD_OUT: Final = 0.70
"""A shard that uses more of its memory, or of its one core, is nearly full."""
SHARD_IN: Final = 0.45
"""So much each may use at most after one has left, and so much on average before one comes."""
SHARD_OUT_AFTER_S: Final = 600.0
SHARD_IN_AFTER_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """How full one shard is; each a part of what it can, 0 to 1."""

    name: str
    memory: float = 0.0
    cpu: float = 0.0

    @property
    def use(self) -> float:
        """Give the part that is used of what runs out first."""
        return max(self.memory, self.cpu)


@dataclass(frozen=True, slots=True)
class ShardTargets:
    """How many shards there may be, and how slowly their number follows."""

    minimum: int
    maximum: int
    out_after_s: float = SHARD_OUT_AFTER_S
    """For so long one must have been nearly full."""
    in_after_s: float = SHARD_IN_AFTER_S
    """For so long fewer must have been enough."""


@dataclass(frozen=True, slots=True)
class ShardHistory:
    """Since when it has been so without a break; None: it is not."""

    full_since: float | None = None
    low_since: float | None = None


@dataclass(frozen=True, slots=True)
class ShardDecision:
    """How many there should be: one more, one fewer, or as many; and why."""

    count: int
    reason: str
    message: str
    history: ShardHistory = field(default_factory=ShardHistory)


def decide_shards(
    targets: ShardTargets, loads: Sequence[ShardLoad], now: float, history: ShardHistory
) -> ShardDecision:
    """
    Give the number of shards.

    Args:
        loads: of the shards that own buckets; all of them.
        history: of these very shards; a new one after each change of their number.
    """
    current = len(loads)
    full = [one.name for one in loads if one.use > SHARD_OUT]
    total = sum(one.use for one in loads)
    would_help = total > SHARD_IN * current
    is_low = current > 1 and total < SHARD_IN * (current - 1)
    history = ShardHistory(
        full_since=_since(history.full_since, now, holds=bool(full) and would_help),
        low_since=_since(history.low_since, now, holds=is_low),
    )
    if full and not would_help:
        message = f"{', '.join(full)}: a few rooms make the load, a shard more would not help"
        return ShardDecision(current, "Uneven", message, history)
    if full:
        return _more(targets, current, now, history, f"{', '.join(full)}: nearly full")
    if is_low:
        message = f"{current - 1} would be used to {total / (current - 1):.0%}"
        return _fewer(targets, current, now, history, message)
    return ShardDecision(current, "Steady", f"{current} shards are right", history)


def _more(
    targets: ShardTargets, current: int, now: float, history: ShardHistory, message: str
) -> ShardDecision:
    if current >= targets.maximum:
        return ShardDecision(current, "AtMaximum", message, history)
    if history.full_since is None or now < history.full_since + targets.out_after_s:
        return ShardDecision(current, "Steady", f"{message}, not for long yet", history)
    return ShardDecision(current + 1, "ScalingOut", message, replace(history, full_since=None))


def _fewer(
    targets: ShardTargets, current: int, now: float, history: ShardHistory, message: str
) -> ShardDecision:
    if current <= targets.minimum:
        return ShardDecision(current, "AtMinimum", message, history)
    if history.low_since is None or now < history.low_since + targets.in_after_s:
        return ShardDecision(current, "Steady", f"{message}, not for long yet", history)
    return ShardDecision(current - 1, "ScalingIn", message, replace(history, low_since=None))


def _since(before: float | None, now: float, *, holds: bool) -> float | None:
    if not holds:
        return None
    return now if before is None else before
