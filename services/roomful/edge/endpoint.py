"""
A path that speaks Engine.IO, and what runs on it: `/socket.io/`, or under conformance an echo.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from roomful.edge.engine import Application, EngineConnection
from roomful.edge.peers import new_sid
from roomful.edge.secret_names import secret_name
from roomful.edge.websocket import Owner, Socket
from roomful.protocol.engineio import (
    BadHandshake,
    Handshake,
    HandshakeFault,
    Pace,
    encode_open,
)
from roomful.protocol.errors import BadPacket, ClientFault, CloseCode
from roomful.protocol.session import Channel

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["Endpoint"]

logger = logging.getLogger("roomful.edge")

LINGER_S = 3.0
"""How long a session that is over waits for the poll that brings its last packets."""

Begin = Callable[[EngineConnection, Handshake], Application]


class Endpoint:
    """The Engine.IO sessions of one path."""

    # Mutable state: the sessions that began on polling, by sid, those of them that are on polling
    # still, with their address, and which are over but for a poll. One born on a WebSocket is known
    # to its socket alone: nothing else can ask for it.
    def __init__(self, edge: Edge, path: str, pace: Pace, begin: Begin) -> None:
        self.path = path
        self.pace = pace
        self._edge = edge
        self._begin = begin
        self._sessions: dict[str, EngineConnection] = {}
        self._polling: dict[EngineConnection, str] = {}
        self.lingering: set[EngineConnection] = set()
        # The open packet of each WebSocket but for its sid, which needs no escaping.
        self._open = encode_open("%b", upgrades=False, pace=pace)
        self.wheel = edge.wheel
        self.send_buffer_bytes = edge.settings.limits.send_buffer_bytes
        interval_s, timeout_s = pace.ping_interval_ms / 1000, pace.ping_timeout_ms / 1000
        self.ping_timeout_s = timeout_s
        self.ping_pause_s = max(0.0, interval_s - timeout_s)
        self.first_timer_s = min(interval_s, edge.settings.limits.connect_timeout_s)
        self._overdue_s = edge.settings.limits.connect_timeout_s - edge.settings.timer_tick_s

    def __repr__(self) -> str:
        return f"<Endpoint {self.path} with {len(self._sessions)} polling sessions>"

    # Opening --------------------------------------------------------------------------------

    def open_socket(self, socket: Socket, handshake: Handshake) -> Owner:
        """Begin a session on *socket*, or let it probe the one it names."""
        if handshake.sid is not None:
            return self._probe(socket, handshake.sid)
        # Nobody can ask for this sid, so it need not be hard to guess, only unique.
        engine = EngineConnection(self, secret_name(12), socket)
        socket.send((self._open % engine.sid.encode(),))
        engine.application = self._begin(engine, handshake)
        return engine

    def open_polling(
        self, handshake: Handshake, address: str = ""
    ) -> tuple[EngineConnection, bytes]:
        """
        Begin a session on polling; gives it and the first payload.

        Raises:
            Refused: OVERLOADED or RATE_LIMITED, the edge or *address* has too many of them.
        """
        self._edge.polling_counts.enter(address)
        engine = EngineConnection(self, new_sid(self._edge.peers.name), None)
        self._polling[engine] = address
        self._sessions[engine.sid] = engine
        engine.application = self._begin(engine, handshake)
        return engine, encode_open(engine.sid, upgrades=True, pace=self.pace)

    def find(self, sid: str) -> EngineConnection:
        """
        Give the session *sid*.

        Raises:
            BadHandshake: there is none.
        """
        engine = self._sessions.get(sid)
        if engine is None:
            raise BadHandshake(HandshakeFault.UNKNOWN_SID)
        return engine

    def _probe(self, socket: Socket, sid: str) -> Probe:
        engine = self._sessions.get(sid)
        if engine is None:
            # It ended between the upgrade request and now.
            socket.close(CloseCode.BAD_PACKET, "Session ID unknown")
            return Probe(None, socket)
        try:
            engine.probe(socket)
        except BadPacket as fault:
            socket.close(fault.close_code, fault.reason)
            return Probe(None, socket)
        return Probe(engine, socket)

    def forget(self, engine: EngineConnection) -> None:
        """The session is over."""
        self._sessions.pop(engine.sid, None)
        self.leave_polling(engine)
        self.lingering.discard(engine)

    def leave_polling(self, engine: EngineConnection) -> None:
        """The session is on a WebSocket from now on, or over."""
        address = self._polling.pop(engine, None)
        if address is not None:
            self._edge.polling_counts.leave(address)

    def linger(self, engine: EngineConnection) -> None:
        """The session is over, and may be polled for LINGER_S more."""
        self.lingering.add(engine)
        self.wheel.add(_Linger(self, engine), LINGER_S)

    def count_slow(self) -> None:
        """A polling client left too much unread."""
        self._edge.statistics.slow_clients += 1
        logger.info("session closed", extra={"code": CloseCode.SLOW_CLIENT.name})

    # Timers ---------------------------------------------------------------------------------

    def is_overdue(self, engine: EngineConnection, age_s: float) -> bool:
        """Whether the client should have signed in by now."""
        return age_s >= self._overdue_s and not engine.application.is_established


class Probe:
    """The owner of a WebSocket that probes a session, and carries it after the upgrade."""

    __slots__ = ("_engine", "_socket")

    def __init__(self, engine: EngineConnection | None, socket: Socket) -> None:
        self._engine = engine
        self._socket = socket

    def on_text(self, payload: bytes) -> None:
        """Take a text packet."""
        if self._engine is not None:
            self._engine.receive(Channel.SOCKET, payload)

    def on_binary(self, payload: bytes) -> None:
        """Take a binary packet."""
        if self._engine is not None:
            self._engine.receive_binary(Channel.SOCKET, payload)

    def on_pong(self) -> None:
        """Nothing: Engine.IO has its own heartbeat."""

    def fail(self, fault: ClientFault) -> None:
        """Close: the session, or only the WebSocket if it was probing."""
        if self._engine is not None and self._engine.is_carried_by(self._socket):
            self._engine.fail(fault)
        else:
            self._socket.close(fault.close_code, fault.reason)

    def on_closed(self) -> None:
        """The WebSocket is gone."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.on_socket_closed(self._socket)


class _Linger:
    """The timer of a session that is over and was not polled again."""

    __slots__ = ("_endpoint", "_engine")

    def __init__(self, endpoint: Endpoint, engine: EngineConnection) -> None:
        self._endpoint = endpoint
        self._engine = engine

    def on_timer(self, _now: float) -> None:
        """It has had its time."""
        self._endpoint.forget(self._engine)
