"""
Where an edge has the topology from: any server of any shard, since each of them keeps it.

At the start those of a list are asked (`ROOMFUL_SHARDS`); later the servers that the topology
names, too. A newer one is announced on `roomful:topology`, which every reader hears; it is asked
for when a shard says that ours is old, and now and then, because an announcement can be lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from roomful.cluster.topology import Address, BadTopology, Topology, decode_topology
from roomful.protocol.errors import RoomfulError
from roomful.shard.resp import Backoff, Login, LostConnection, ReplyError, SignInRefused, connect

__all__ = ["Directory", "NoTopology"]

logger = logging.getLogger("roomful.shard")

POLL_S: Final = 10.0
PAUSE_S: Final = 0.2
"""Between two times of asking, however often someone wants to know."""
ASKED: Final = 5
"""How many servers are asked at a time."""
MANY_S: Final = 2.0


class NoTopology(RoomfulError):
    """No server that was asked knows the topology; says what each of them answered."""


class Directory:
    """Finds the topology and follows it."""

    # Mutable state: the newest topology, whether somebody wants a newer one, and who refused to
    # let this program in.
    def __init__(self, bootstrap: Sequence[Address], login: Login, *, find_s: float = 30.0) -> None:
        """
        Ask *bootstrap* first.

        Args:
            find_s: how long find() asks before it gives up.
        """
        self._bootstrap = tuple(bootstrap)
        self._login = login
        self._find_s = find_s
        self._wanted = asyncio.Event()
        self._refusing: set[Address] = set()
        self.topology: Topology | None = None
        self.on_topology: Callable[[Topology], None] = lambda _topology: None
        """Hears each topology that is newer than all before."""

    def __repr__(self) -> str:
        generation = self.topology.generation if self.topology else 0
        return f"<Directory generation {generation}>"

    async def find(self) -> Topology:
        """
        Give the topology, as soon as somebody knows it.

        Raises:
            NoTopology: nobody did in time, or no server lets this program in.
        """
        loop = asyncio.get_running_loop()
        end, backoff = loop.time() + self._find_s, Backoff()
        said: dict[Address, str] = {}
        while True:
            said |= await self._ask(self._bootstrap)
            if self.topology is not None:
                return self.topology
            wait_s = backoff.next_s()
            is_locked_out = self._refusing >= set(self._bootstrap)
            if is_locked_out or loop.time() + wait_s > end:
                answers = "; ".join(f"{address} {what}" for address, what in said.items())
                if is_locked_out:
                    raise NoTopology(f"no server lets this program in: {answers}")
                raise NoTopology(f"no shard could be used in {self._find_s:g} s: {answers}")
            await asyncio.sleep(wait_s)

    async def run(self) -> None:
        """Follow the topology, for ever; to be cancelled."""
        while True:
            self._wanted.clear()
            try:
                async with asyncio.timeout(POLL_S * (0.75 + random.random() / 2)):  # noqa: S311
                    await self._wanted.wait()
            except TimeoutError:
                pass
            await self._ask(self._some())
            await asyncio.sleep(PAUSE_S)

    def ask_soon(self) -> None:
        """Somebody says that the topology is old."""
        self._wanted.set()

    def hear(self, document: bytes) -> None:
        """Take an announcement."""
        try:
            topology = decode_topology(document)
        except BadTopology as exc:
            logger.error("topology unreadable", extra={"why": str(exc)})
            return
        if topology.newer_than(self.topology):
            logger.info("topology", extra={"generation": topology.generation})
            self.topology = topology
            self.on_topology(topology)

    def _some(self) -> Sequence[Address]:
        known = set(self._bootstrap)
        if self.topology is not None:
            for shard in self.topology.shards.values():
                known |= {shard.primary, *shard.replicas}
        return random.sample(sorted(known, key=str), min(ASKED, len(known)))

    async def _ask(self, addresses: Sequence[Address]) -> dict[Address, str]:
        """Ask each for its topology; gives what those said that have none."""
        answers = await asyncio.gather(*map(self._ask_one, addresses))
        return {
            address: answer
            for address, answer in zip(addresses, answers, strict=True)
            if answer is not None
        }

    async def _ask_one(self, address: Address) -> str | None:
        try:
            connection = await connect(address, timeout_s=MANY_S, login=self._login)
        except SignInRefused as exc:
            self._refusing.add(address)
            return str(exc).removeprefix(f"{address}: ")
        except LostConnection as exc:
            return f"does not answer ({str(exc).removeprefix(f'{address}: ')})"
        try:
            _, document = await connection.call("FCALL_RO", "roomful_v1_topology", 0)
        except LostConnection as exc:
            return f"does not answer ({exc})"
        except ReplyError as exc:
            if "unction not found" in str(exc):
                return "has no library yet: no controller has made it a shard"
            return f"refuses: {exc}"
        finally:
            connection.abort()
        if document is None:
            return "has no topology yet: no controller has begun a cluster there"
        self.hear(document)
        return None
