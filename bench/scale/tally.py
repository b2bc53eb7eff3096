"""What the connections of one load process heard, and what went wrong."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Counts of one load process; times in nanoseconds."""

    deliveries: int = 0
    """Messages that members heard; the announcer's own are not counted."""
    lost: int = 0
    """Messages that a member did not hear although it heard a later one, or never."""
    doubled: int = 0
    """Messages that a member heard again, or behind a later one."""
    resumed: int = 0
    """Reconnects that went on with the same session."""
    not_resumed: int = 0
    cuts: int = 0
    """Connections that the load cut."""
    closed: int = 0
    """Connections that the server closed."""
    refused: int = 0
    """Attempts to come back that an edge did not take; another one was tried."""
    errors: Counter[str] = field(default_factory=Counter)
    """What must not happen, by the sentence that says it."""
    live_ns: array[int] = field(default_factory=lambda: array("q"))
    """From due to delivered, of messages that were due while their member was connected."""
    replayed_ns: array[int] = field(default_factory=lambda: array("q"))
    """From due to delivered, of messages that were due before their member was back."""
    reconnect_ns: array[int] = field(default_factory=lambda: array("q"))
    """From the first attempt to come back to the answer that the session goes on."""
    away_ns: array[int] = field(default_factory=lambda: array("q"))
    """From the end of a connection to the answer that the session goes on."""

    def counts(self) -> dict[str, int]:
        """Give the numbers without the times."""
        names = ("deliveries", "lost", "doubled", "resumed", "not_resumed", "cuts", "closed")
        return {name: getattr(self, name) for name in (*names, "refused")}

    def times(self) -> dict[str, array[int]]:
        """Give the times by name."""
        return {
            name: getattr(self, name)
            for name in ("live_ns", "replayed_ns", "reconnect_ns", "away_ns")
        }
