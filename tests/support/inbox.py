"""What a client has heard and no test has looked at yet, by name, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from support.deadline import DEADLINE_S

__all__ = ["Ended", "Inbox"]

T = TypeVar("T")


class Ended(AssertionError):
    """The connection ended while a test waited for something from it."""


class Inbox(Generic[T]):
    """Messages by name; waiting for one ends with the connection."""

    # State: the waiting messages of each name, and why no more will come (None: they may).
    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._changed = asyncio.Event()
        self._ended: str | None = None

    def put(self, name: str, message: T) -> None:
        """Add a message that came in."""
        self._waiting.setdefault(name, deque()).append(message)
        self._changed.set()

    def end(self, why: str) -> None:
        """Nothing more will come."""
        self._ended = self._ended or why
        self._changed.set()

    def pending(self, name: str) -> list[T]:
        """Return what waits under *name*, and leave it there."""
        return list(self._waiting.get(name, ()))

    def drain(self, name: str) -> list[T]:
        """Return what waits under *name*, and take it."""
        return list(self._waiting.pop(name, ()))

    async def next(self, name: str, *, seconds: float = DEADLINE_S) -> T:
        """Take the oldest message of *name*, waiting for it if there is none."""
        return (await self.next_of(name, seconds=seconds))[1]

    async def next_of(self, *names: str, seconds: float = DEADLINE_S) -> tuple[str, T]:
        """Take a message of whichever of *names* there is one, with its name."""
        try:
            async with asyncio.timeout(seconds):
                while (name := self._first_waiting(names)) is None:
                    if self._ended is not None:
                        raise Ended(f"{self._ended} while waiting for {names}")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            others = {other: len(queue) for other, queue in self._waiting.items() if queue}
            raise AssertionError(f"none of {names} in {seconds} s; waiting: {others}") from None
        return name, self._waiting[name].popleft()

    def _first_waiting(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if self._waiting.get(name)), None)

    async def take(self, name: str, count: int, *, seconds: float = DEADLINE_S) -> list[T]:
        """Take the oldest *count* messages of *name*."""
        return [await self.next(name, seconds=seconds) for _ in range(count)]
