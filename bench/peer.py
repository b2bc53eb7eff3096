"""One client of the load: signs in, joins, and then either reads all it hears or only counts it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bench.reactor import Link, LostLink, Reactor
from bench.wire import (
    CONNECTED,
    OPEN,
    PING,
    PONG_FRAME,
    FrameReader,
    MarkerCounter,
    ProtocolFault,
    build_connect,
    build_event,
    build_upgrade,
)

__all__ = ["Peer", "Target", "Ticket", "build_tickets", "join_rooms", "open_peers"]

_SIGN_IN_TIMEOUT_S = 60.0
_JOIN_TIMEOUT_S = 60.0
# Sources of the connections, so that the ports of one address do not run out.
_SOURCES = tuple(f"127.0.0.{last}" for last in range(2, 10))


@dataclass(frozen=True, slots=True)
class Target:
    """
    The server under load: where it listens, and the process group that it runs in.

    `store` is the process that runs what it keeps its rooms in, the leader of a group; 0: none.
    """

    host: str
    port: int
    group: int
    store: int = 0


@dataclass(frozen=True, slots=True)
class Ticket:
    """What one connection sends to sign in, built before the clock starts."""

    upgrade: bytes
    connect: bytes


def build_tickets(target: Target, tokens: Iterable[str]) -> Iterator[Ticket]:
    """Build one ticket per token."""
    for token in tokens:
        yield Ticket(build_upgrade(target.host, target.port), build_connect(token))


class Peer(Link):
    """
    One signed-in client.

    `on_packet` gets each packet (without heartbeats) while the peer reads; `heartbeats` and, once
    `count_only` was called, `deliveries` go up by themselves.
    """

    __slots__ = (
        "_counter",
        "_frames",
        "_on_ready",
        "_ticket",
        "deliveries",
        "heartbeats",
        "on_packet",
    )

    def __init__(self, reactor: Reactor, ticket: Ticket, on_ready: Callable[[bytes], None]) -> None:
        super().__init__(reactor, self._read_upgrade)
        self._ticket = ticket
        self._on_ready = on_ready
        self._frames = FrameReader()
        self._counter = MarkerCounter()
        self.deliveries = 0
        self.heartbeats = 0
        self.on_packet: Callable[[bytes], None] = self._sign_in

    def open(self, address: tuple[str, int], source: str) -> None:
        """Connect and ask for the upgrade; *on_ready* is called with the CONNECT reply."""
        self.connect(address, source)
        self.send(self._ticket.upgrade)

    def emit(self, name: str, argument: object, ack_id: int) -> None:
        """Send one event that asks for an ack."""
        self.send(build_event(name, argument, ack_id))

    def count_only(self) -> None:
        """From now on count deliveries, and do not look at what is in them; call it when quiet."""
        assert self._frames.is_between_frames
        self.on_read = self._count
        self.reactor.defer(self)

    def _read_upgrade(self, buffer: bytearray, size: int) -> None:
        head, blank, rest = bytes(buffer[:size]).partition(b"\r\n\r\n")
        # Loopback gives a small response in one piece; a cut one would be refused here, not lost.
        if not blank or not head.startswith(b"HTTP/1.1 101 "):
            raise ProtocolFault(f"no upgrade: {head[:200]!r}")
        self.on_read = self._read
        self._take(rest)

    def _sign_in(self, packet: bytes) -> None:
        if packet.startswith(OPEN):
            self.send(self._ticket.connect)
        elif packet.startswith(CONNECTED):
            self.on_packet = _ignore
            self._on_ready(packet)
        else:
            raise ProtocolFault(f"not signed in: {packet[:200]!r}")

    def _read(self, buffer: bytearray, size: int) -> None:
        self._take(bytes(buffer[:size]))

    def _take(self, data: bytes) -> None:
        frames = self._frames
        for packet in frames.feed(data):
            if packet == PING:
                self.heartbeats += 1
                self.send(PONG_FRAME)
            else:
                self.on_packet(packet)
        if frames.is_closed:
            raise LostLink("the server closed a WebSocket")

    def _count(self, buffer: bytearray, size: int) -> None:
        deliveries, heartbeats = self._counter.count(buffer, size)
        self.deliveries += deliveries
        for _ in range(heartbeats):
            self.heartbeats += 1
            self.send(PONG_FRAME)


def _ignore(packet: bytes) -> None:
    """Hear a packet that this load does not look at."""


def open_peers(
    reactor: Reactor, target: Target, tickets: list[Ticket], *, at_once: int = 64
) -> list[Peer]:
    """Sign one peer in per ticket, *at_once* at a time; give them in the order of the tickets."""
    peers: list[Peer] = []
    ready = 0

    def open_next() -> None:
        source = _SOURCES[len(peers) % len(_SOURCES)]
        peer = Peer(reactor, tickets[len(peers)], on_ready)
        peers.append(peer)
        peer.open((target.host, target.port), source)

    def on_ready(_packet: bytes) -> None:
        nonlocal ready
        ready += 1
        if len(peers) < len(tickets):
            open_next()

    for _ in range(min(at_once, len(tickets))):
        open_next()
    reactor.run_until(lambda: ready == len(tickets), f"{len(tickets)} sign-ins", _SIGN_IN_TIMEOUT_S)
    return peers


def join_rooms(reactor: Reactor, peers: list[Peer], members: int) -> list[str]:
    """Join each *members* peers to one room, wait for all acks, and give each peer's room."""
    joined = 0
    run = os.urandom(4).hex()  # a server that is used twice must not take this run for the last
    rooms = [f"bench-{run}-{index // members}" for index in range(len(peers))]

    def on_packet(packet: bytes) -> None:
        nonlocal joined
        if packet.startswith(b"430["):
            if b'"success":true' not in packet:
                raise ProtocolFault(f"not joined: {packet[:200]!r}")
            joined += 1

    for peer, room in zip(peers, rooms, strict=True):
        peer.on_packet = on_packet
        peer.emit("join-room", room, 0)
    reactor.run_until(lambda: joined == len(peers), f"{len(peers)} joins", _JOIN_TIMEOUT_S)
    for peer in peers:
        peer.on_packet = _ignore
    return rooms
