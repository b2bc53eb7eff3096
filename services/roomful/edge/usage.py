"""
What the users of this edge use, told to the other edges, and what theirs use there.

So that a user's limits hold over all edges without a round trip per message: docs/adr/0019
has the bound of the error. Every TELL_S an edge tells the others which users took a
share of their limit; the others take the messages from their own bucket of that user, and count
the connections. Users below the share, nearly all, cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from roomful.telemetry.lasting import keep_going

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["TELL_S", "Usage", "Used"]

logger = logging.getLogger("roomful.edge")

TELL_S: Final = 1.0
KEPT_S: Final = 5.0
"""Connections of an edge that tells nothing more are gone after so long: more than a round takes
while a shard does not answer."""
MAX_TOLD: Final = 1_000
"""Users of one round, those with most first."""

Used = tuple[str, int, int]
"""A user, the messages since the last round, the connections now."""


@dataclass(slots=True)
class _Told:
    """The connections that one edge told of, in its latest round, and when."""

    number: int
    at: float
    connections: dict[str, int]


class Usage:
    """The usage of users on this edge, for the others, and on the others, for this one."""

    # Mutable state: what each edge told last; this one's round, and whether others keep
    # connections of it.
    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._told: dict[str, _Told] = {}
        self._number = 0
        self._has_told = False
        self._telling: asyncio.Task[None] | None = None
        edge.counts.elsewhere = self.connections_elsewhere

    def start(self) -> None:
        """Begin to tell the others, in the running loop."""
        telling = keep_going("usage", self._keep_telling)
        self._telling = asyncio.get_running_loop().create_task(telling)

    async def aclose(self) -> None:
        """Tell no more."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait([self._telling])

    def connections_elsewhere(self, user: str) -> int:
        """Give how many connections of *user* other edges told of lately."""
        if not self._told:
            return 0
        oldest = asyncio.get_running_loop().time() - KEPT_S
        return sum(
            told.connections.get(user, 0) for told in self._told.values() if told.at >= oldest
        )

    def hear(self, sender: str, number: int, used: Sequence[Used]) -> None:
        """Take a part of the round *number* of another edge; each part once."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, told in self._told.items() if told.at < now - KEPT_S]:
            del self._told[name]
        told = self._told.get(sender)
        if told is None or told.number < number:
            told = self._told[sender] = _Told(number, now, {})
        for user, messages, connections in used:
            if messages > 0:
                self._edge.rates.charge(user, messages, now)
            if connections > 0 and told.number == number:
                told.connections[user] = connections

    def next_round(self) -> list[Used]:
        """Give the users above the share, and begin to count anew."""
        messages = self._edge.rates.next_round()
        connections = self._edge.counts.heavy
        found = [
            (user, messages.get(user, 0), connections.get(user, 0))
            for user in messages.keys() | connections.keys()
        ]
        if len(found) > MAX_TOLD:
            logger.warning("users not told", extra={"users": len(found) - MAX_TOLD})
            found.sort(key=lambda used: (used[1], used[2]), reverse=True)
        return found[:MAX_TOLD]

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            used = self.next_round()
            # With none left it is said once more: the others then forget the connections.
            if used or self._has_told:
                self._number += 1
                await self._edge.control.tell(self._number, used)
            self._has_told = bool(used)
