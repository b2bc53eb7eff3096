"""
An edge's lease on a shard, which covers its members in the presence of rooms there.

It is renewed three times in its life, and when the edge dies its members leave by themselves. One
that lapsed never comes back: the edge takes another name, and joins everything again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import Refused
from roomful.shard.calls import Calls
from roomful.shard.refusals import Elsewhere
from roomful.shard.resp import LostConnection

__all__ = ["Lease"]

logger = logging.getLogger("roomful.shard")


class Lease:
    """One edge's lease on one shard, kept while run() runs."""

    # Mutable state: the number in its name, whether the shard has it, and whether it is to be
    # renewed now.
    def __init__(
        self,
        shard: ShardName,
        edge: str,
        calls: Calls,
        *,
        life_s: float,
        about: str,
        on_refused: Callable[[str], None],
        on_swept: Callable[[], None],
    ) -> None:
        """
        Have no lease yet.

        Args:
            life_s: it lapses after so many seconds without a word of the edge.
            about: what the edge says about itself to who reads the leases.
            on_refused: hears why the shard refuses a lease, other than this one's name.
            on_swept: called when the lease lapsed and there is another: all members left.
        """
        self._shard = shard
        self._edge = edge
        self._calls = calls
        self._life_s = life_s
        self._about = about
        self._on_refused = on_refused
        self._on_swept = on_swept
        self._number = 0
        self._is_held = asyncio.Event()
        self._is_due = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Lease {self.name}, {'held' if self._is_held.is_set() else 'not held'}>"

    @property
    def name(self) -> str:
        """What the shard knows it by; never used again once it lapsed."""
        return f"{self._edge}.{self._number}"

    async def held(self) -> None:
        """Wait until the shard has the lease, for however long: callers bound it."""
        await self._is_held.wait()

    def renew_soon(self) -> None:
        """Renew it now: it may be gone, or the shard is another server."""
        self._is_due.set()

    async def run(self) -> None:
        """Take the lease, and renew it three times in its life; to be cancelled."""
        while True:
            self._is_due.clear()
            wait_s = self._life_s / 3
            if not await self._try():
                wait_s = min(wait_s, 0.1 + 0.2 * random.random())  # noqa: S311 - no secret
            try:
                async with asyncio.timeout(wait_s):
                    await self._is_due.wait()
            except TimeoutError:
                continue

    async def _try(self) -> bool:
        is_new = not self._is_held.is_set()
        what = (self.name, int(is_new), int(self._life_s * 1000), self._about)
        try:
            await self._calls.call("lease", (), *what)
        except Elsewhere as exc:
            # Taken is our own, when the reply to an earlier try was lost.
            if exc.words in ("NO_LEASE", "LEASE_TAKEN"):
                self._number += 1
                if not is_new:
                    logger.warning("lease lost", extra={"shard": self._shard})
                self._is_held.clear()
            else:
                self._on_refused(exc.words)
            return False
        except (LostConnection, Refused):
            return False
        self._is_held.set()
        if is_new and self._number:
            self._on_swept()
        return True

    async def end(self, timeout_s: float) -> None:
        """Give the lease back, if the shard has it: members leave now and not when it lapses."""
        if not self._is_held.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._calls.call("end_lease", (), self.name)
        except (Elsewhere, LostConnection, Refused, TimeoutError) as exc:
            logger.warning("lease not given back", extra={"shard": self._shard, "why": str(exc)})
