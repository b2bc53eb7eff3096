"""
Tasks that last as long as their program: none of them ends unseen by a failure that nobody foresaw.

Ending the process instead would close thousands of connections for a bug in one part of one shard.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from roomful.telemetry.metrics import Sample

__all__ = ["failures", "keep_going", "task_failures"]

logger = logging.getLogger("roomful.telemetry")

FIRST_S: Final = 0.1
LONGEST_S: Final = 10.0
"""Seconds before it is run again; doubled each time."""
STEADY_S: Final = 60.0
"""A run that took longer worked: the next pause is the first."""

# Mutable state: of the whole process.
failures: Final[Counter[str]] = Counter()
"""How often each task failed, by its name."""


async def keep_going(
    what: str, work: Callable[[], Awaitable[None]], *, ends_with: tuple[type[Exception], ...] = ()
) -> None:
    """
    Do *work*, and again after each failure, which is logged and counted; to be cancelled.

    Args:
        what: its name in the log and in the metrics: no room or user.
        work: whatever it was in the middle of, it begins again in order.
        ends_with: failures that are raised, because another try does not help.
    """
    loop, pause_s = asyncio.get_running_loop(), FIRST_S
    while True:
        began = loop.time()
        try:
            return await work()
        except ends_with:
            raise
        except Exception:
            failures[what] += 1
            logger.critical("task failed and begins again", extra={"task": what}, exc_info=True)
        pause_s = FIRST_S if loop.time() - began > STEADY_S else pause_s
        # Not a secret; what failed on all edges at once shall not begin again in step.
        await asyncio.sleep(pause_s * (0.5 + 0.5 * random.random()))  # noqa: S311
        pause_s = min(LONGEST_S, 2 * pause_s)


def task_failures() -> Sample:
    """Give the metric."""
    counts = {what: float(count) for what, count in failures.items()}
    return Sample("task_failures", "Failures nobody foresaw, by task.", counts, label="task")
