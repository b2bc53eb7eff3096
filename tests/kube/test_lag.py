"""The operator knows how late its event loop is."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from roomful_operator.lag import watch_lag
from support.deadline import until, within

BLOCKED_S: Final = 0.2
EVERY_S: Final = 0.01


async def test_what_blocks_the_loop_is_seen() -> None:
    """A wake that was due while nothing could run is late by the rest of that time at least."""
    seen: list[float] = []
    watch = asyncio.create_task(watch_lag(seen.append, EVERY_S))
    try:
        await until(lambda: bool(seen))
        before = len(seen)
        time.sleep(BLOCKED_S)  # noqa: ASYNC251 - that is the fault
        await until(lambda: len(seen) > before)
    finally:
        watch.cancel()
    # It was due within a period, and the clock of the loop has a resolution.
    assert seen[before] >= BLOCKED_S - 2 * EVERY_S


async def test_a_watch_ends_when_it_is_told_to() -> None:
    """It holds up nobody's end."""
    watch = asyncio.create_task(watch_lag(lambda _late_s: None, 60))
    await asyncio.sleep(0)
    watch.cancel()
    await within(asyncio.wait([watch]))
    assert watch.cancelled()
