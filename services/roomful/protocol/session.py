"""
One connection as state tables: Engine.IO below, Socket.IO above. No I/O, no clock.

Rule 1: every change of state is a row of a table in this file.
Rule 2: a pair that has no row is the client's fault and closes the connection.
Rule 3: nothing is collected without a bound (attachments, namespaces, bytes).

Engine.IO (engine.io-protocol v4, "Upgrade"): a session is born on polling or on a WebSocket;
on polling a WebSocket may probe (`2probe` -> `3probe`) and then take over (`5`).

Socket.IO (socket.io-protocol v5, "Connection to a namespace"): CONNECT names a namespace; only
when the server accepted it may events and acks follow in it.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, NamedTuple

import msgspec

from roomful.protocol import socketio
from roomful.protocol.engineio import PacketType
from roomful.protocol.errors import BadPacket, ClientFault, CloseCode, TooLarge
from roomful.protocol.socketio import ROOT

__all__ = [
    "Ack",
    "Channel",
    "Connect",
    "Disconnect",
    "EngineSession",
    "EngineState",
    "Event",
    "Incoming",
    "SocketLimits",
    "SocketSession",
    "Step",
    "TooManyNamespaces",
]


# The members of table keys are IntEnum: their hash is an int's, in C.
class EngineState(IntEnum):
    """Which transport carries the session."""

    POLLING = 0
    PROBING = 1
    WEBSOCKET = 2
    CLOSED = 3


class Channel(IntEnum):
    """Where a packet came in."""

    POLL = 0
    SOCKET = 1


class Step(Enum):
    """What the I/O shell does with the packet it has just shown to the session."""

    DELIVER = "deliver"
    """Hand the data to the layer above."""
    HEARTBEAT = "heartbeat"
    """The client answered a ping."""
    PROBE = "probe"
    """Answer `3probe` on the WebSocket, and end a waiting poll with a NOOP."""
    UPGRADE = "upgrade"
    """The WebSocket carries the session from now on: flush the queue to it."""
    CLOSE = "close"
    """The client is done."""


_S, _C, _P = EngineState, Channel, PacketType
ENGINE_TABLE: Final[dict[tuple[EngineState, Channel, PacketType], tuple[Step, EngineState]]] = {
    (_S.POLLING, _C.POLL, _P.MESSAGE): (Step.DELIVER, _S.POLLING),
    (_S.POLLING, _C.POLL, _P.PONG): (Step.HEARTBEAT, _S.POLLING),
    (_S.POLLING, _C.POLL, _P.CLOSE): (Step.CLOSE, _S.CLOSED),
    (_S.POLLING, _C.SOCKET, _P.PING): (Step.PROBE, _S.PROBING),
    # While the WebSocket probes, polling goes on working.
    (_S.PROBING, _C.POLL, _P.MESSAGE): (Step.DELIVER, _S.PROBING),
    (_S.PROBING, _C.POLL, _P.PONG): (Step.HEARTBEAT, _S.PROBING),
    (_S.PROBING, _C.POLL, _P.CLOSE): (Step.CLOSE, _S.CLOSED),
    (_S.PROBING, _C.SOCKET, _P.UPGRADE): (Step.UPGRADE, _S.WEBSOCKET),
    # A POST that was on its way when the client upgraded still counts.
    (_S.WEBSOCKET, _C.POLL, _P.MESSAGE): (Step.DELIVER, _S.WEBSOCKET),
    (_S.WEBSOCKET, _C.POLL, _P.PONG): (Step.HEARTBEAT, _S.WEBSOCKET),
    (_S.WEBSOCKET, _C.SOCKET, _P.MESSAGE): (Step.DELIVER, _S.WEBSOCKET),
    (_S.WEBSOCKET, _C.SOCKET, _P.PONG): (Step.HEARTBEAT, _S.WEBSOCKET),
    (_S.WEBSOCKET, _C.SOCKET, _P.CLOSE): (Step.CLOSE, _S.CLOSED),
}


class EngineSession:
    """The Engine.IO half: says for each packet what to do with it."""

    __slots__ = ("state",)

    def __init__(self, state: EngineState) -> None:
        self.state = state

    def receive(self, channel: Channel, packet: PacketType, data: bytes = b"") -> Step:
        """
        Advance the session by one packet; *data* is what follows the digit.

        Raises:
            BadPacket: the packet has no place in this state.
        """
        row = ENGINE_TABLE.get((self.state, channel, packet))
        if row is None or (row[0] is Step.PROBE and data != b"probe"):
            raise BadPacket(f"{packet.name} has no place while {self.state.name}")
        step, self.state = row
        return step

    def cancel_probe(self) -> None:
        """The probing WebSocket went away: polling goes on."""
        if self.state is EngineState.PROBING:
            self.state = EngineState.POLLING

    def close(self) -> None:
        """Nothing is received any more."""
        self.state = EngineState.CLOSED


class SocketLimits(NamedTuple):
    """How much one connection may make us remember."""

    attachments: int = 10
    """Binary packets of one event."""
    namespaces: int = 4
    """Connected at once."""
    payload_bytes: int = 1_000_000
    """An event's JSON and its attachments together."""


class TooManyNamespaces(ClientFault):
    """More namespaces than the limit: closed with LIMIT."""

    close_code = CloseCode.LIMIT


class Connect(msgspec.Struct, frozen=True, gc=False):
    """The client asks for *namespace*; answer with accept() or refuse()."""

    namespace: str
    auth: bytes
    """A JSON object, or empty."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event with all of its attachments."""

    namespace: str
    ack_id: bytes | None
    body: bytes
    """A JSON array, not yet parsed."""
    attachments: tuple[bytes, ...] = ()


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The client's ack; Roomful asks for none, so it is dropped."""

    namespace: str


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """The client left *namespace* for good."""

    namespace: str


Incoming = Connect | Event | Ack | Disconnect


class NamespaceState(IntEnum):
    """A namespace as this connection sees it."""

    IDLE = 0
    CONNECTING = 1
    CONNECTED = 2


_N, _K = NamespaceState, socketio.PacketType
NAMESPACE_TABLE: Final[dict[tuple[NamespaceState, socketio.PacketType], NamespaceState]] = {
    (_N.IDLE, _K.CONNECT): _N.CONNECTING,
    (_N.CONNECTING, _K.DISCONNECT): _N.IDLE,
    (_N.CONNECTED, _K.DISCONNECT): _N.IDLE,
    (_N.CONNECTED, _K.EVENT): _N.CONNECTED,
    (_N.CONNECTED, _K.ACK): _N.CONNECTED,
    (_N.CONNECTED, _K.BINARY_EVENT): _N.CONNECTED,
    (_N.CONNECTED, _K.BINARY_ACK): _N.CONNECTED,
}


# Members are looked up once: in Python 3.11 that costs more than the comparison.
_CONNECTED: Final = NamespaceState.CONNECTED


class SocketSession:
    """The Socket.IO half: text and binary packets in, connects and events out."""

    # Mutable state: the state of "/" (most connections know no other), the states of other
    # namespaces, and the binary packet that still lacks attachments with what came of it.
    __slots__ = ("_limits", "_others", "_partial", "_parts", "_root")

    def __init__(self, limits: SocketLimits) -> None:
        self._limits = limits
        self._root = NamespaceState.IDLE
        self._others: dict[str, NamespaceState] | None = None
        self._partial: socketio.Packet | None = None
        self._parts: list[bytes] | None = None

    def state(self, namespace: str) -> NamespaceState:
        """Give the state of *namespace*; IDLE if it was never named."""
        if namespace == ROOT:
            return self._root
        return (self._others or {}).get(namespace, NamespaceState.IDLE)

    def _set(self, namespace: str, state: NamespaceState) -> None:
        if namespace == ROOT:
            self._root = state
            return
        others = self._others = self._others or {}
        if state is NamespaceState.IDLE:
            others.pop(namespace, None)
        else:
            others[namespace] = state
            if len(others) >= self._limits.namespaces:
                raise TooManyNamespaces("too many namespaces")

    def accept(self, namespace: str) -> None:
        """The server lets the client into *namespace*."""
        self._set(namespace, NamespaceState.CONNECTED)

    def refuse(self, namespace: str) -> None:
        """The server does not let the client in, or puts it out."""
        self._set(namespace, NamespaceState.IDLE)

    def receive_text(self, payload: bytes) -> Incoming | None:
        """
        Take one text packet (without the Engine.IO digit; valid UTF-8).

        Returns:
            What the client wants, or None while attachments are missing.

        Raises:
            BadPacket: not the protocol, or no row in the table.
            TooLarge: more attachments than the limit.
            TooManyNamespaces: more namespaces than the limit.
        """
        if self._partial is not None:
            raise BadPacket("a text packet in the middle of attachments")
        if self._root is _CONNECTED and payload[:1] == b"2":
            # Nearly all that comes, read without a pattern: an event in "/", and its ack id.
            start = payload.find(b"[", 1, 20)
            if start == 1:
                return Event(ROOT, None, payload[1:])
            if start > 1 and (ack_id := payload[1:start]).isdigit():
                return Event(ROOT, ack_id, payload[start:])
        packet = socketio.decode(payload)
        before = self.state(packet.namespace)
        after = NAMESPACE_TABLE.get((before, packet.type))
        if after is None:
            raise BadPacket(f"{packet.type.name} has no place while {before.name}")
        if after is not before:
            self._set(packet.namespace, after)
        if packet.attachments:
            self._begin_binary(packet)
            return None
        return _incoming(packet, ())

    def _begin_binary(self, packet: socketio.Packet) -> None:
        if packet.attachments > self._limits.attachments:
            raise TooLarge(f"more than {self._limits.attachments} attachments")
        self._partial, self._parts = packet, []

    def receive_binary(self, payload: bytes) -> Incoming | None:
        """
        Take one binary packet: the next attachment of the packet before.

        Raises:
            BadPacket: none is expected.
            TooLarge: the event is above payload_bytes with it.
        """
        packet, parts = self._partial, self._parts
        if packet is None or parts is None:
            raise BadPacket("a binary packet that belongs to nothing")
        parts.append(payload)
        if len(packet.body) + sum(map(len, parts)) > self._limits.payload_bytes:
            raise TooLarge(f"an event above {self._limits.payload_bytes} bytes")
        if len(parts) < packet.attachments:
            return None
        self._partial = self._parts = None
        return _incoming(packet, tuple(parts))


def _incoming(packet: socketio.Packet, attachments: tuple[bytes, ...]) -> Incoming:
    match packet.type:
        case socketio.PacketType.EVENT | socketio.PacketType.BINARY_EVENT:
            return Event(packet.namespace, packet.ack_id, packet.body, attachments)
        case socketio.PacketType.CONNECT:
            return Connect(packet.namespace, packet.body)
        case socketio.PacketType.DISCONNECT:
            return Disconnect(packet.namespace)
        case _:
            return Ack(packet.namespace)
