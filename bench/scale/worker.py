"""
A load process: its share of a crowd, on one reactor, led by the process that started it.

    python -m bench.scale.worker FD

FD is a socket: lines of JSON come with what to do, and go back with what is done (`crew.py`).
"""

from __future__ import annotations

import gc
import heapq
import resource
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from time import perf_counter, perf_counter_ns
from typing import Final

import jwt
import msgspec

from bench.reactor import Link, Reactor
from bench.scale.client import Around, Client
from bench.scale.orders import Cut, Expect, Form, Heartbeats, Open, Order, Result, Say, Step
from bench.scale.plan import RoomKey, Seats
from bench.scale.tally import Tally

__all__ = ["Worker", "main"]

TOKEN_TTL_S: Final = 86_400
PROGRESS_S: Final = 1.0
AVOID_S: Final = 2.0
TURN_S: Final = 0.1
GRANTS: Final = {"*": ["join", "send"]}


class Ports:
    """Chooses edges: each client has one of its own at first, then one of those that take it."""

    # Mutable state: who has had the first, and until when an edge is avoided.
    def __init__(self, ports: list[int], random: Random) -> None:
        self._ports = ports
        self._random = random
        self._known: set[int] = set()
        self._avoided: dict[int, float] = {}

    def choose(self, number: int) -> int:
        """Give an edge for connection *number*."""
        if number not in self._known:
            self._known.add(number)
            return self._ports[number % len(self._ports)]
        return self._random.choice(self._good() or self._ports)

    def avoid(self, port: int) -> bool:
        """Let nobody come to *port* for a while; says whether there is another one."""
        self._avoided[port] = perf_counter() + AVOID_S
        return bool(self._good())

    def _good(self) -> list[int]:
        now = perf_counter()
        return [port for port in self._ports if self._avoided.get(port, 0.0) <= now]


class Worker:
    """The clients of one load process, and what they are told to do."""

    # Mutable state: the timers, how many clients are opened and ready, and what is under way.
    def __init__(self, form: Form, leader: socket.socket) -> None:
        self._form = form
        self._reactor = Reactor(nap_s=None)
        self._leader = Link.of(self._reactor, leader, self._take_orders)
        self._input = b""
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._random = Random(form.process)  # noqa: S311 - jitter
        self.tally = Tally()
        self._around = Around(
            self._reactor,
            Ports(form.ports, self._random),
            self._random,
            self.tally,
            self._after,
            self._mint,
            form.prefix,
        )
        seats, crowd = Seats(form.crowd), form.crowd
        self._clients = [
            Client(
                self._around,
                number,
                seats.rooms_of(number),
                self._on_ready,
                is_announcer=number == crowd.connections,
            )
            for number in seats.numbers_of(form.process)
        ]
        self._senders = [
            (client, room) for client in self._clients for room in seats.sends_to(client.number)
        ]
        self._random.shuffle(self._senders)
        self._opened = 0
        self._are_open = False
        self._cut: Cut | None = None
        self._saying: Say | None = None
        self._is_over = False

    def run(self) -> None:
        """Do what comes until the result was asked for."""
        self._after(PROGRESS_S, self._tell_progress)
        self._tell(Step("formed", detail={"senders": len(self._senders)}))
        while not self._is_over:
            now = perf_counter()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            left_s = self._timers[0][0] - perf_counter() if self._timers else TURN_S
            self._reactor.turn(min(max(left_s, 0.0), TURN_S))

    # The leader -----------------------------------------------------------------------------

    def _take_orders(self, buffer: bytearray, size: int) -> None:
        *lines, self._input = (self._input + bytes(buffer[:size])).split(b"\n")
        for line in lines:
            self._do(msgspec.json.decode(line, type=Order))

    def _tell(self, step: Step) -> None:
        self._leader.socket.setblocking(True)
        self._leader.socket.sendall(msgspec.json.encode(step) + b"\n")
        self._leader.socket.setblocking(False)

    def _tell_progress(self) -> None:
        self._after(PROGRESS_S, self._tell_progress)
        self._tell(Step("progress", detail=self._progress(), errors=self._errors()))

    def _progress(self) -> dict[str, int]:
        ready = sum(client.is_ready for client in self._clients)
        errors = self.tally.errors.total()
        return {"ready": ready, "errors": errors, **self.tally.counts()}

    def _errors(self) -> dict[str, int]:
        return dict(self.tally.errors.most_common(10))

    def _do(self, order: Order) -> None:
        match order:
            case Open(at_once):
                for _ in range(min(at_once, len(self._clients))):
                    self._open_next()
            case Heartbeats():
                self._await("heartbeats", self._have_heartbeats)
            case Say():
                self._saying = order
                self._say(order, 0)
            case Cut():
                self._begin_cuts(order)
            case Expect():
                self._cut = None
                self._await("complete", lambda: self._is_complete(order.rooms), order.timeout_s)
            case Result():
                self._give_result(order)

    def _await(
        self,
        step: str,
        condition: Callable[[], bool],
        timeout_s: float = float("inf"),
        rooms: Callable[[], dict[str, int]] = dict,
    ) -> None:
        end = perf_counter() + timeout_s

        def look() -> None:
            if condition() or perf_counter() > end:
                self._tell(Step(step, detail=self._progress(), rooms=rooms()))
            else:
                self._after(0.25, look)

        look()

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (perf_counter() + delay_s, next(self._order), call))

    def _mint(self, number: int) -> str:
        claims = {"sub": f"user-{number}", "exp": int(time.time()) + TOKEN_TTL_S, "rooms": GRANTS}
        return jwt.encode(claims, self._form.secret, "HS256")

    # Connecting -----------------------------------------------------------------------------

    def _open_next(self) -> None:
        if self._opened < len(self._clients):
            self._opened += 1
            self._clients[self._opened - 1].open()

    def _on_ready(self, client: Client) -> None:
        if not self._are_open:
            self._open_next()
            if self._opened == len(self._clients) and all(one.is_ready for one in self._clients):
                self._are_open = True
                gc.collect()
                gc.freeze()
                self._tell(Step("open", detail=self._progress()))
        self._cut_later(client)

    def _have_heartbeats(self) -> bool:
        return all(client.peer and client.peer.heartbeats for client in self._clients)

    # Cuts -----------------------------------------------------------------------------------

    def _begin_cuts(self, order: Cut) -> None:
        self._cut = order
        for client in self._clients:
            # The first cuts are spread over the whole time between two.
            self._cut_later(client, self._random.random())

    def _cut_later(self, client: Client, part: float = 1.0) -> None:
        if self._cut is None or client.number == self._form.crowd.connections:
            return
        between = self._cut.every_s * part * (0.8 + 0.4 * self._random.random())
        self._after(between, lambda: self._cut_now(client))

    def _cut_now(self, client: Client) -> None:
        if self._cut is not None and client.cut():
            self._after(self._cut.offline_s * (0.75 + 0.5 * self._random.random()), client.open)

    # Sending --------------------------------------------------------------------------------

    def _say(self, order: Say, number: int) -> None:
        """Send all that is due by now, and the rest when it is."""
        while number < order.messages:
            if order is not self._saying:
                return
            due_ns = order.start_ns + order.first_ns + number * order.interval_ns
            left_s = (due_ns - perf_counter_ns()) / 1e9
            if left_s > 0:
                self._after(left_s, partial(self._say, order, number))
                return
            client, room = self._senders[number % len(self._senders)]
            client.say(room, due_ns)
            number += 1
        self._await("said", self._is_acknowledged, rooms=self._sent)

    def _is_acknowledged(self) -> bool:
        return not any(client.has_unacknowledged for client, _ in self._senders)

    def _sent(self) -> dict[str, int]:
        senders = {client.number: client for client, _ in self._senders}.values()
        return {room.decode(): number for client in senders for room, number in client.sent.items()}

    # The end --------------------------------------------------------------------------------

    def _is_complete(self, rooms: dict[str, int]) -> bool:
        expected = {room.encode(): number for room, number in rooms.items()}
        return all(self._missing(client, expected) == 0 for client in self._clients) and all(
            client.is_ready for client in self._clients
        )

    def _missing(self, client: Client, expected: dict[RoomKey, int]) -> int:
        return sum(expected.get(room, 0) - client.heard_of(room) for room in client.rooms)

    def _give_result(self, order: Result) -> None:
        expected = {room.encode(): number for room, number in order.rooms.items()}
        for client in self._clients:
            if client.number != self._form.crowd.connections:
                self.tally.lost += self._missing(client, expected)
        for name, times in self.tally.times().items():
            with (Path(order.directory) / f"{name}.{self._form.process}").open("wb") as file:
                times.tofile(file)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._tell(
            Step(
                "result",
                detail=self._progress(),
                errors=self._errors(),
                cpu_s=usage.ru_utime + usage.ru_stime,
            )
        )
        self._is_over = True


def main() -> int:
    """Serve the leader at the socket that the argument names."""
    leader = socket.socket(fileno=int(sys.argv[1]))
    line = leader.makefile("rb").readline()
    gc.disable()  # a pause of the load would look like one of the cluster
    Worker(msgspec.json.decode(line, type=Form), leader).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
