"""
One client of a crowd: it signs in, joins its rooms, checks what it hears, and comes back.

It behaves as the stock JavaScript client does: it resumes with `pid` and the last offset that it
heard, waits 0.5 to 1.5 s before the first attempt to come back, and longer before later ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import perf_counter_ns
from typing import Protocol

import msgspec

from bench.peer import Peer, Ticket
from bench.reactor import Reactor
from bench.scale.plan import RoomKey, content_of, read_content
from bench.scale.tally import Tally
from bench.wire import MESSAGE_MARK, build_connect, build_upgrade

__all__ = ["Around", "Client"]

HOST = "127.0.0.1"
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 5.0
RANDOMIZATION = 0.5
"""Of a retry's delay: these three are the defaults of engine.io-client."""
REFUSED_JOIN_S = 1.0

_MESSAGE = b"42" + MESSAGE_MARK
_CURSOR = b'42["cursor",'
_ACK = b"43"
_JOIN_ACK = 1_000_000  # ack ids of joins begin here, those of messages at 0


class Edges(Protocol):
    """Stands for a load balancer."""

    def choose(self, number: int) -> int:
        """Give the port of an edge that takes connection *number*."""

    def avoid(self, port: int) -> bool:
        """Give nobody to this one for a while: it took no connection. Is there another one?"""


@dataclass(frozen=True, slots=True)
class Around:
    """What all clients of a load process share."""

    reactor: Reactor
    edges: Edges
    random: Random
    tally: Tally
    after: Callable[[float, Callable[[], None]], None]
    """Calls something in so many seconds."""
    token: Callable[[int], str]
    prefix: str
    """Of the rooms' names."""


class Client:
    """One client, over all of its connections."""

    # Mutable state: the connection, the session (pid and cursor), what was heard of each room,
    # and for a sender what is not acknowledged.
    __slots__ = (
        "_around",
        "_attempts",
        "_cursor",
        "_heard",
        "_is_announcer",
        "_joined",
        "_lost_ns",
        "_on_ready",
        "_pid",
        "_port",
        "_ready_ns",
        "_sent",
        "_tried_ns",
        "_unacknowledged",
        "is_ready",
        "number",
        "peer",
        "rooms",
    )

    def __init__(
        self,
        around: Around,
        number: int,
        rooms: list[RoomKey],
        on_ready: Callable[[Client], None],
        *,
        is_announcer: bool = False,
    ) -> None:
        self.number = number
        self.rooms = rooms
        self.peer: Peer | None = None
        self.is_ready = False
        """Whether it is connected, and in all of its rooms."""
        self._around = around
        self._on_ready = on_ready
        self._is_announcer = is_announcer
        self._pid: str | None = None
        self._cursor: bytes | None = None
        self._heard: dict[RoomKey, int] = {}
        self._joined = 0
        self._attempts = 0
        self._port = 0
        self._ready_ns = self._lost_ns = self._tried_ns = 0
        self._sent: dict[RoomKey, int] | None = None
        self._unacknowledged: deque[tuple[RoomKey, int, int]] | None = None

    # Connecting -----------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and resume if there is something to resume."""
        around = self._around
        self._tried_ns = self._tried_ns or perf_counter_ns()
        self._port = around.edges.choose(self.number)
        pid, cursor = self._pid, self._cursor
        offset = cursor.decode() if cursor is not None else None
        connect = build_connect(around.token(self.number), pid, offset)
        self.peer = peer = Peer(
            around.reactor, Ticket(build_upgrade(HOST, self._port), connect), self._connected
        )
        peer.on_end = self._end
        try:
            # Sources take turns, so that the ports of one do not run out.
            peer.open((HOST, self._port), f"127.0.0.{2 + self.number % 8}")
        except OSError as why:
            self._end(why)

    def cut(self) -> bool:
        """Cut the connection, as a network does; says whether there was one to cut."""
        if not self.is_ready or self.peer is None:
            return False
        self._around.tally.cuts += 1
        self._drop()
        return True

    def _drop(self) -> None:
        assert self.peer is not None
        self._around.reactor.remove(self.peer)
        self.peer.reset()
        self.peer = None
        if self.is_ready:
            self.is_ready = False
            self._lost_ns = perf_counter_ns()

    def _end(self, why: Exception) -> None:
        """The connection ended, or did not come about."""
        around, was_ready = self._around, self.is_ready
        self._drop()
        if was_ready:
            around.tally.closed += 1
        elif self._pid is None:
            around.tally.errors[f"not connected: {why}"] += 1
        else:
            around.tally.refused += 1
            if around.edges.avoid(self._port):
                # What a load balancer does: its client does not notice.
                around.after(0.0, self.open)
                return
        self._attempts += 1
        delay_s = min(FIRST_RETRY_S * 2 ** (self._attempts - 1), LONGEST_RETRY_S)
        delay_s *= 1 - RANDOMIZATION + 2 * RANDOMIZATION * around.random.random()
        around.after(delay_s, self.open)

    def _connected(self, packet: bytes) -> None:
        """CONNECT was answered."""
        assert self.peer is not None
        now, tally = perf_counter_ns(), self._around.tally
        pid = msgspec.json.decode(packet[2:])["pid"]
        is_resumed = pid == self._pid
        if self._pid is not None:
            tally.resumed += is_resumed
            tally.not_resumed += not is_resumed
            tally.reconnect_ns.append(now - self._tried_ns)
            tally.away_ns.append(now - self._lost_ns)
        self._pid, self._attempts, self._tried_ns, self._ready_ns = pid, 0, 0, now
        self.peer.on_packet = self._on_packet
        if is_resumed:
            self._be_ready()
        else:
            self._joined = 0
            for index in range(len(self.rooms)):
                self._join(index)

    def _join(self, index: int) -> None:
        room = f"{self._around.prefix}-{self.rooms[index].decode()}"
        self._emit("join-room", room, _JOIN_ACK + index)

    def _be_ready(self) -> None:
        self.is_ready = True
        for message in self._unacknowledged or ():
            self._send(*message)
        self._on_ready(self)

    # Hearing --------------------------------------------------------------------------------

    def _on_packet(self, packet: bytes) -> None:
        if packet.startswith(_MESSAGE):
            self._hear(packet)
        elif packet.startswith(_ACK):
            self._take_ack(packet)
        elif packet.startswith(_CURSOR):
            self._cursor = packet[packet.rindex(b',"') + 2 : -2]
        elif packet.startswith(b'42["error"') or not packet.startswith(b"42"):
            self._around.tally.errors[f"heard: {packet[:120]!r}"] += 1

    def _hear(self, packet: bytes) -> None:
        now, tally = perf_counter_ns(), self._around.tally
        room, number, due_ns = read_content(packet)
        self._cursor = packet[packet.rindex(b',"') + 2 : -2]
        last = self._heard.get(room, 0)
        if number <= last:
            tally.doubled += 1
            return
        tally.lost += number - last - 1
        self._heard[room] = number
        if not self._is_announcer:
            tally.deliveries += 1
            times = tally.live_ns if due_ns >= self._ready_ns else tally.replayed_ns
            times.append(now - due_ns)

    def heard_of(self, room: RoomKey) -> int:
        """Give the number of the last message heard of *room*."""
        return self._heard.get(room, 0)

    # Sending --------------------------------------------------------------------------------

    def say(self, room: RoomKey, due_ns: int) -> None:
        """Send the next message to *room*, and again until it is acknowledged."""
        if self._sent is None or self._unacknowledged is None:
            self._sent, self._unacknowledged = {}, deque()
        number = self._sent[room] = self._sent.get(room, 0) + 1
        self._unacknowledged.append((room, number, due_ns))
        if self.is_ready:
            self._send(room, number, due_ns)

    @property
    def sent(self) -> dict[RoomKey, int]:
        """How many messages were sent to each room."""
        return self._sent or {}

    @property
    def has_unacknowledged(self) -> bool:
        """Whether acks are missing."""
        return bool(self._unacknowledged)

    def _send(self, room: RoomKey, number: int, due_ns: int) -> None:
        message = {
            "roomId": f"{self._around.prefix}-{room.decode()}",
            "content": content_of(room, number, due_ns),
            "id": f"{room.decode()}-{number}",
        }
        self._emit("message", message, number)

    def _emit(self, name: str, argument: object, ack_id: int) -> None:
        assert self.peer is not None
        try:
            self.peer.emit(name, argument, ack_id)
        except OSError:
            pass  # the connection is gone, and the reactor will say so

    def _take_ack(self, packet: bytes) -> None:
        ack_id = int(packet[2 : packet.index(b"[")])
        is_success = b'"success":true' in packet[:40]
        if not is_success:
            self._around.tally.errors[f"refused: {packet[packet.index(b'[') :][:160]!r}"] += 1
        if ack_id >= _JOIN_ACK:
            self._take_join(ack_id - _JOIN_ACK, is_success=is_success)
        elif is_success and self._unacknowledged:
            # Acks of one connection come in the order of its messages.
            self._unacknowledged.popleft()

    def _take_join(self, index: int, *, is_success: bool) -> None:
        if not is_success:
            peer = self.peer
            self._around.after(REFUSED_JOIN_S, lambda: self._join_again(peer, index))
            return
        self._joined += 1
        if self._joined == len(self.rooms):
            self._be_ready()

    def _join_again(self, peer: Peer | None, index: int) -> None:
        if self.peer is peer:
            self._join(index)
