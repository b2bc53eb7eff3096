"""
What one controller sees of all servers: its connections to them, what they say, who is silent.

It keeps nothing that a new controller would miss: since when a server is silent is counted from
its first pass on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from typing import Final

from roomful.cluster.topology import Address
from roomful.control.link import Credentials, ServerUnreachable
from roomful.control.observation import Observation
from roomful.control.server import Server
from roomful.control.spec import Pace
from roomful.control.view import ShardView

__all__ = ["Survey"]

TAKE_UP_JITTER_S: Final = 0.5


class Survey:
    """
    The servers of a cluster.

    Args:
        insists: take the lead from whoever has it.
    """

    # Mutable state: the connections, what they sign in by, and since when each server is silent
    # and why.
    def __init__(self, credentials: Credentials, pace: Pace, *, insists: bool) -> None:
        self.servers: dict[Address, Server] = {}
        self._credentials = credentials
        self._pace = pace
        self._insists = insists
        self._missing_since: dict[Address, float] = {}
        self.unreachable: Mapping[Address, str] = {}
        """Why each of those that did not answer the last look did not."""

    def close(self) -> None:
        """Let go of all servers, and of the lead; transports close by the next turn of the loop."""
        for server in self.servers.values():
            server.close()

    def sign_in_by(self, credentials: Credentials) -> None:
        """Sign in by *credentials* from now on; connections stay."""
        self._credentials = credentials
        for server in self.servers.values():
            server.credentials = credentials

    async def look(
        self, wanted: Set[Address]
    ) -> tuple[dict[Address, Observation], dict[Address, str]]:
        """Ask all that are *wanted* at once; gives what they say, and why others say nothing."""
        for address in wanted - self.servers.keys():
            self.servers[address] = Server(
                address, self._credentials, timeout_s=self._pace.timeout_s
            )
        for address in self.servers.keys() - wanted:
            self.servers.pop(address).close()
            self._missing_since.pop(address, None)
        now = asyncio.get_running_loop().time()
        seen: dict[Address, Observation] = {}
        unreachable: dict[Address, str] = {}

        async def ask(server: Server) -> None:
            # Others wait for the pass: who was silent a moment ago is given less time.
            is_missing = server.address in self._missing_since
            patience_s = self._pace.timeout_s * (0.5 if is_missing else 2.0)
            try:
                async with asyncio.timeout(patience_s):
                    seen[server.address] = await self._observe(server)
                self._missing_since.pop(server.address, None)
            except (ServerUnreachable, TimeoutError) as exc:
                unreachable[server.address] = getattr(exc, "why", "no answer in time")
                self._missing_since.setdefault(server.address, now)

        async with asyncio.TaskGroup() as group:
            for server in self.servers.values():
                group.create_task(ask(server))
        self.unreachable = unreachable
        return seen, unreachable

    async def _observe(self, server: Server) -> Observation:
        was_connected = server.is_connected
        try:
            return await server.observe(insists=self._insists)
        except ServerUnreachable as exc:
            # Closed for a command that leads now, or as idle: it says nothing of the server.
            if not was_connected or isinstance(exc.__cause__, TimeoutError):
                raise
            return await server.observe(insists=self._insists)

    async def look_again(self, view: ShardView) -> ShardView:
        """Give *view* with what the servers that answered a moment ago say now."""
        seen: dict[Address, Observation] = {}

        async def ask(address: Address) -> None:
            with suppress(ServerUnreachable):
                seen[address] = await self.servers[address].observe(insists=self._insists)

        async with asyncio.TaskGroup() as group:
            for address in view.seen:
                group.create_task(ask(address))
        lost = dict.fromkeys(view.seen.keys() - seen.keys(), 0.0)
        return replace(view, seen=seen, missing_s={**view.missing_s, **lost})

    async def leads(self, seen: Mapping[Address, Observation]) -> bool:
        """Whether this controller leads at all that were *seen*; else it gives up what it leads."""
        led = [address for address in seen if self.servers[address].is_lead]
        if len(led) == len(seen):
            return True
        if led:
            # Each of two leads somewhere: both let go, and one of them comes back first.
            for address in led:
                self.servers[address].close()
            await asyncio.sleep(random.random() * TAKE_UP_JITTER_S)  # noqa: S311
        return False

    def missing_s(self, addresses: Iterable[Address]) -> dict[Address, float]:
        """Give for how many seconds each of *addresses* has not answered."""
        now = asyncio.get_running_loop().time()
        return {address: now - self._missing_since.get(address, now) for address in addresses}
