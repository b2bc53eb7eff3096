"""
How late the operator's event loop wakes.

All clusters share it: what blocks it delays each failover, and the Lease's renewal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["watch_lag"]

LOOK_S: Final = 0.25


async def watch_lag(tell: Callable[[float], None], every_s: float = LOOK_S) -> None:
    """Call *tell* every so often with the seconds that the loop woke too late; until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every_s
        await asyncio.sleep(every_s)
        # A timer may come a tick of the clock early.
        tell(max(0.0, loop.time() - due))
