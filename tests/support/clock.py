"""Time that passes when told, for whatever takes a clock."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """A clock that stands at *now*, which a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time it is."""
        return self.now
