"""
An event loop whose time stands still while anything can run, and jumps to the next timer when
nothing can: tests of timers take no time and always run the same way.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["EPOCH_S", "ClockLoop", "run", "settle"]

EPOCH_S = 1_800_000_000.0
"""The time of day when a loop begins, for what wants seconds since the epoch."""

T = TypeVar("T")


class NothingWillHappen(Exception):
    """Everything waits for something that nobody will do."""


class _Selector(selectors.SelectSelector):
    """Never waits: tells the loop how long it would have."""

    loop: ClockLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop.is_free:
            return super().select(timeout)
        events = super().select(0)
        if not events and timeout != 0:
            self.loop.on_idle(timeout)
        return events


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which begins at 1000 s."""

    # Mutable state: the time, who waits for the moment in which nothing can run, and whether all
    # that is over.
    def __init__(self) -> None:
        self._now = 1000.0
        self._idle: list[asyncio.Future[None]] = []
        self.is_free = False
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def run_freely(self) -> None:
        """From now on time goes by itself: what the test talks to does not wait for it."""
        self.is_free = True

    def time(self) -> float:
        """Give the loop's own time."""
        return time.monotonic() if self.is_free else self._now

    def wall_time(self) -> float:
        """Give the time of day that goes with it, in seconds since the epoch."""
        return EPOCH_S + self._now

    def skip(self, seconds: float) -> None:
        """Let *seconds* pass in which nothing ran, as after a loop that was blocked."""
        self._now += seconds

    def on_idle(self, timeout: float | None) -> None:
        """Nothing can run for *timeout* seconds (None: at all)."""
        if self._idle:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        elif timeout is None:
            raise NothingWillHappen
        else:
            # No real clock is ever at the very moment that was asked for.
            self._now += timeout + 1e-9

    async def idle(self) -> None:
        """Wait until nothing but timers and outside events could run."""
        waiter: asyncio.Future[None] = self.create_future()
        self._idle.append(waiter)
        await waiter


async def settle() -> None:
    """Let everything that can run without the clock run."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockLoop)
    await loop.idle()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* on a loop of its own, for tests that are no coroutines themselves."""
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(work)
