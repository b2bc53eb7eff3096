"""
One timer for all connections: heartbeats, sign-in deadlines, token expiry.

A timer of its own costs each idle connection some 200 bytes and the loop a heap of them; here it
costs a place in a list. Items fire up to one tick early, never late, because a deadline that the
protocol promises (ping interval + ping timeout) must have passed when the client looks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

__all__ = ["TimerWheel", "Timed"]

logger = logging.getLogger("roomful.edge")


class Timed(Protocol):
    """Something that has a next moment."""

    def on_timer(self, now: float) -> float | None:
        """Do what is due at *now* (loop time); give the seconds until the next, or None."""


class TimerWheel:
    """Calls each item's on_timer when it is due, from one loop timer."""

    # Mutable state: items by the tick they are due in, and the tick that was served last.
    def __init__(self, tick_s: float = 0.5) -> None:
        self._tick_s = tick_s
        self._slots: dict[int, list[Timed]] = {}
        self._served = 0
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to tick in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._served = int(self._loop.time() / self._tick_s)
        self._schedule()

    def stop(self) -> None:
        """No longer tick; items stay where they are."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def add(self, item: Timed, delay_s: float) -> float:
        """Call *item* in *delay_s* seconds, or up to a tick before; gives what time it is now."""
        assert self._loop is not None, "the wheel was not started"
        now = self._loop.time()
        slot = int((now + delay_s) / self._tick_s)
        if slot <= self._served:
            slot = self._served + 1
        items = self._slots.get(slot)
        if items is None:
            self._slots[slot] = [item]
        else:
            items.append(item)
        return now

    def _schedule(self) -> None:
        assert self._loop is not None
        self._handle = self._loop.call_at((self._served + 1) * self._tick_s, self._turn)

    def _turn(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        current = int(now / self._tick_s)
        for slot in range(self._served + 1, current + 1):
            self._served = slot
            for item in self._slots.pop(slot, ()):
                try:
                    delay_s = item.on_timer(now)
                except Exception:
                    # A bug costs this item its timer, not everybody theirs.
                    logger.exception("timer failed", extra={"item": repr(item)})
                    continue
                if delay_s is not None:
                    self.add(item, delay_s)
        self._schedule()
