"""
The load: clients of all kinds in rooms, that send at a fixed rate whatever the cluster does.

Which client is in which rooms, who sends when, and where each connects comes from the seed. A
client that has too much unacknowledged is passed over, as a person would wait; what it could not
send is counted.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from roomful.protocol.errors import RoomfulError
from roomful.verify.client import Client, World
from roomful.verify.ledger import Ledger
from roomful.verify.plain import PlainClient
from roomful.verify.stock import OwnClient, StockClient

__all__ = ["Acks", "Load", "LoadFailed", "LoadPlan"]

TICK_S: Final = 0.01
RETRANSMIT_S: Final = 0.25
MOST_UNACKNOWLEDGED: Final = 16
CONNECTING_AT_ONCE: Final = 200
KINDS: Final[Sequence[type[Client]]] = (StockClient, OwnClient, StockClient, PlainClient)
"""Half of the clients are stock ones, a quarter each are ours and plain JSON."""


class LoadFailed(RoomfulError):
    """The load could not do what it is for: connect, or come to rest."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How much load; every number comes from the command line."""

    clients: int = 60
    rooms: int = 40
    rooms_per_client: int = 2
    rate: float = 500.0
    """Messages per second, over all clients."""
    prefix: str = "verify"
    """What the rooms' names begin with; a run of its own each time."""

    def room_names(self) -> list[str]:
        """Give the names of all rooms."""
        return [f"{self.prefix}-{number}" for number in range(self.rooms)]


@dataclass(slots=True)
class Acks:
    """When messages were sent first, and how long their acks took; both in seconds."""

    began_at: array[float] = field(default_factory=lambda: array("d"))
    took_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, _room: str, began_at: float, now: float) -> None:
        """Note one ack."""
        self.began_at.append(began_at)
        self.took_s.append(now - began_at)

    def between(self, begin: float, end: float) -> list[float]:
        """Give how long those took that were under way at some time from *begin* to *end*."""
        return sorted(
            took
            for began, took in zip(self.began_at, self.took_s, strict=True)
            if began < end and began + took > begin
        )


class Load:
    """All clients, and the clock that makes them send."""

    # Mutable state: the clients, the tasks that run them, and what could not be sent.
    def __init__(
        self, plan: LoadPlan, urls: Sequence[str], token: Callable[[str], str], random: Random
    ) -> None:
        self.plan = plan
        self.acks = Acks()
        self.ledger = Ledger()
        self.world = World(urls, token, self.ledger, random, self.acks.add)
        self.passed_over = 0
        """Sends that fell out because the client waited for too many acks."""
        self._random = random
        self.clients = self._build()
        self._tasks: list[asyncio.Task[None]] = []

    def _build(self) -> list[Client]:
        rooms = self.plan.room_names()
        clients: list[Client] = []
        for number in range(self.plan.clients):
            # Every room has someone before any room has more.
            first = rooms[number % len(rooms)]
            others = self._random.sample(rooms, min(len(rooms), self.plan.rooms_per_client))
            own = [first, *(room for room in others if room != first)]
            kind = KINDS[number % len(KINDS)]
            clients.append(kind(self.world, number, own[: self.plan.rooms_per_client]))
        return clients

    async def start(self, timeout_s: float = 60.0) -> None:
        """
        Connect all clients and let them join.

        Raises:
            LoadFailed: not all of them could in *timeout_s*.
        """
        self._tasks.append(asyncio.create_task(self._retransmit()))
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def bring(client: Client) -> None:
            async with gate:
                self._tasks.append(asyncio.create_task(client.run()))
                await client.is_ready.wait()

        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*map(bring, self.clients))
        except TimeoutError as exc:
            ready = sum(client.is_ready.is_set() for client in self.clients)
            statistics = self.world.statistics
            refused = statistics.final_refusals or statistics.refusals
            raise LoadFailed(
                f"only {ready} of {len(self.clients)} clients could connect and join"
                + (f"; refused: {refused}" if refused else "")
                + (f"; failed last: {statistics.last_failure}" if statistics.last_failure else "")
            ) from exc

    async def run(self, until: float) -> None:
        """Send at the plan's rate until the monotonic clock says *until*."""
        due, last = 0.0, time.monotonic()
        while (now := time.monotonic()) < until:
            due += (now - last) * self.plan.rate
            last = now
            while due >= 1.0:
                due -= 1.0
                self._send_one()
            await asyncio.sleep(TICK_S)

    def _send_one(self) -> None:
        client = self._random.choice(self.clients)
        if client.unacknowledged >= MOST_UNACKNOWLEDGED:
            self.passed_over += 1
        else:
            client.send(self._random.choice(client.rooms))

    async def _retransmit(self) -> None:
        while True:
            await asyncio.sleep(RETRANSMIT_S)
            now = time.monotonic()
            for client in self.clients:
                client.retransmit(now)

    async def settle(self, timeout_s: float = 90.0) -> int:
        """
        Wait until everything is acknowledged, everyone is connected and nothing comes any more.

        Gives how many clients are not back when the time is over: their open stretches end there.
        """
        end = time.monotonic() + timeout_s
        heard = -1
        while time.monotonic() < end:
            ready = all(client.is_ready.is_set() for client in self.clients)
            waiting = sum(client.unacknowledged for client in self.clients)
            now_heard = sum(len(stretch.heard) for stretch in self.ledger.stretches)
            if ready and not waiting and now_heard == heard:
                return 0
            heard = now_heard
            await asyncio.sleep(0.5)
        away = [client for client in self.clients if not client.is_ready.is_set()]
        for client in away:
            for stretch in client.stretches.values():
                stretch.is_open = False
        return len(away)

    async def stop(self) -> None:
        """Disconnect everyone."""
        for client in self.clients:
            client.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
