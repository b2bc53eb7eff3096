"""
How long clients waited for what a controller changed: shards without a primary, buckets closed.

Times are those that this controller saw: one that begins when a primary is lost already counts from
its own first look, and what another one left half done is not counted at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.control.succession import HAND_OVER_S

__all__ = ["Change", "Listener", "Waits"]

LATE_S: Final = 2 * HAND_OVER_S
"""After so long a hand-over has been given up: what is lost then is lost for another reason."""


class Change(StrEnum):
    """Why a shard has another primary, or the same server as a new one."""

    FAILOVER = "failover"
    HAND_OVER = "hand-over"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears how long each wait was, in seconds, when it is over; nobody unless said."""

    primary_changed: Callable[[Change, float], None] = lambda _change, _took_s: None
    """
    From the first look that missed the primary, or the order to hand over, to the new topology on
    the shard: from then on edges hear of it.
    """
    bucket_moved: Callable[[float], None] = lambda _closed_s: None
    """From its freeze at the source to its activation at the target."""


class Waits:
    """Since when each shard waits for a primary; all times are of one clock, in seconds."""

    # Mutable state: since when shards have no primary, and when a hand-over was ordered.
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._lost: dict[ShardName, float] = {}
        self._ordered: dict[ShardName, float] = {}

    def order(self, shard: ShardName, at: float) -> None:
        """Take note that a primary was asked to hand over: it pauses from then on."""
        self._ordered[shard] = at

    def miss(self, shard: ShardName, since: float) -> None:
        """Take note that a shard's primary is not there."""
        self._lost.setdefault(shard, since)

    def meet(self, shard: ShardName) -> None:
        """Take note that it is there."""
        self._lost.pop(shard, None)

    def end(self, shards: Iterable[ShardName], at: float) -> None:
        """Tell the listener of shards that have their next primary."""
        for shard in shards:
            lost, ordered = self._lost.pop(shard, at), self._ordered.pop(shard, None)
            if ordered is not None and lost <= ordered + LATE_S:
                self._listener.primary_changed(Change.HAND_OVER, at - ordered)
            else:
                self._listener.primary_changed(Change.FAILOVER, at - lost)

    def forget(self) -> None:
        """Begin anew: another controller has had the lead."""
        self._lost.clear()
        self._ordered.clear()
