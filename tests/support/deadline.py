"""How long a test waits for something that must happen, and how it waits for a condition."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["DEADLINE_S", "eventually", "until", "within"]

DEADLINE_S = float(os.environ.get("ROOMFUL_TEST_DEADLINE_S", "30"))
"""Seconds; far above what anything here needs, so that a busy machine is not a failure."""

_STEP_S = 0.02

T = TypeVar("T")


async def within(awaitable: Awaitable[T], *, seconds: float = DEADLINE_S) -> T:
    """Return what *awaitable* gives; TimeoutError after *seconds*."""
    async with asyncio.timeout(seconds):
        return await awaitable


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float = DEADLINE_S
) -> None:
    """Return once *condition* holds, asking again and again; fail saying *what* did not happen."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await condition():
        assert loop.time() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(_STEP_S)


async def until(condition: Callable[[], bool], *, seconds: float = DEADLINE_S) -> None:
    """Return once *condition*, which only looks, holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"not within {seconds} s"
        await asyncio.sleep(0.002)
