"""
One Engine.IO session on whatever carries it: a WebSocket, polling, or first one and then the
other. Heartbeats, the upgrade, and the queue of a polling client.

What is decided is in protocol/session.py; here it is done. A polling session has a mailbox
(packets that wait for a poll) and loses it with the upgrade; a session born on a WebSocket never
has one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from roomful.edge.mailbox import Mailbox
from roomful.edge.room import Carrier
from roomful.protocol.engineio import Binary, PacketType, encode_payload, packet_type
from roomful.protocol.errors import BadPacket, ClientFault, CloseCode, RefusalCode, Refused
from roomful.protocol.session import Channel, EngineSession, EngineState, Step

if TYPE_CHECKING:
    from roomful.edge.endpoint import Endpoint
    from roomful.edge.websocket import Socket

__all__ = ["Application", "EngineConnection", "PollConflict"]

logger = logging.getLogger("roomful.edge")

# Members are looked up once: in Python 3.11 that costs more than the comparison.
_WEBSOCKET = EngineState.WEBSOCKET
PING = b"2"
NOOP = b"6"
CLOSE = b"1"
DRAIN_TIMEOUT_S = 20.0
LAST_WORDS = frozenset(
    {CloseCode.RESTART, CloseCode.DISCONNECTED, CloseCode.TOKEN_EXPIRED, CloseCode.GAP}
)
"""Closes before which the client is told something that it has to hear."""
UPGRADE_TIMEOUT_S = 10.0
"""How long a WebSocket may probe; meanwhile every poll comes back at once."""


class Application(Protocol):
    """What runs on an Engine.IO session. on_text and on_binary raise ClientFault."""

    @property
    def is_established(self) -> bool:
        """Whether the client has said what it came for; else it is closed in time."""

    def on_text(self, payload: bytes) -> None:
        """Take a text message, without its digit."""

    def on_binary(self, payload: bytes) -> None:
        """Take a binary message."""

    def on_upgraded(self) -> None:
        """The session is on a WebSocket from now on."""

    def on_closed(self) -> None:
        """The session is over."""


class _Gone:
    """What runs on a session that is over, so that the two do not keep each other alive."""

    is_established = True

    def on_text(self, payload: bytes) -> None:
        """Nobody is there."""

    def on_binary(self, payload: bytes) -> None:
        """Nobody is there."""

    def on_upgraded(self) -> None:
        """Nobody is there."""

    def on_closed(self) -> None:
        """Nobody is there."""


_GONE = _Gone()


class PollConflict(ClientFault):
    """A second poll while one waits: the session is closed (engine.io-protocol v4)."""


class EngineConnection:
    """An Engine.IO session. Implements Transport and Timed."""

    # Mutable state: the session's table state, the WebSocket or the mailbox that carries it, the
    # WebSocket that probes, and whether a ping is unanswered.
    __slots__ = (
        "_awaits_pong",
        "_endpoint",
        "_is_over",
        "_opened_at",
        "_probe",
        "_session",
        "_socket",
        "_was_pinged",
        "application",
        "mailbox",
        "sid",
    )

    application: Application

    def __init__(self, endpoint: Endpoint, sid: str, socket: Socket | None) -> None:
        self.sid = sid
        self._endpoint = endpoint
        self._socket = socket
        self._probe: Socket | None = None
        self.mailbox = None if socket else Mailbox(endpoint.send_buffer_bytes)
        self._session = EngineSession(EngineState.WEBSOCKET if socket else EngineState.POLLING)
        self._awaits_pong = False
        self._was_pinged = False
        self._is_over = False
        self._opened_at = endpoint.wheel.add(self, endpoint.first_timer_s)

    def __repr__(self) -> str:
        return f"<EngineConnection {self._session.state.name}>"

    @property
    def is_closed(self) -> bool:
        """Whether the session is over."""
        return self._session.state is EngineState.CLOSED

    # Transport ------------------------------------------------------------------------------

    @property
    def carrier(self) -> Carrier:
        """How packets go out now."""
        return Carrier.SOCKET if self._socket is not None else Carrier.POLL

    @property
    def outbox(self) -> Socket | None:
        """Where ready frames go, while a WebSocket carries the session."""
        return self._socket

    def send(self, packets: Sequence[bytes]) -> None:
        """Send *packets*: each with its digit, or Binary."""
        if self._socket is not None:
            self._socket.send(packets)
        elif self.mailbox is not None and not self.is_closed and not self.mailbox.put(packets):
            self._endpoint.count_slow()
            self.close(CloseCode.SLOW_CLIENT, "too much unread")

    def buffered(self) -> int:
        """Give the bytes that wait for the client."""
        if self._socket is not None:
            return self._socket.buffered()
        return self.mailbox.size if self.mailbox is not None else 0

    async def drained(self) -> None:
        """
        Wait until nearly nothing waits for the client.

        Raises:
            Refused: OVERLOADED, it did not read in time.
        """
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while self.buffered() > 0 and not self.is_closed:
                    if self._socket is not None:
                        await self._socket.drained()
                    elif self.mailbox is not None:
                        await self.mailbox.read()
        except TimeoutError as exc:
            raise Refused(RefusalCode.OVERLOADED, "the client does not read") from exc

    def pause_reading(self) -> None:
        """Read no more from the WebSocket; a polling client is slow enough by itself."""
        if self._socket is not None:
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._socket is not None:
            self._socket.resume_reading()

    def close(self, code: CloseCode, reason: str) -> None:
        """
        Close the session: with *code* on a WebSocket, with a close packet for a poll.

        What a polling client has to hear before stays for its next poll. The close packet has a
        poll of its own then: a client that finds both in one goes by the close, and comes back.
        """
        if self._socket is not None:
            self._socket.close(code, reason)
        elif self.mailbox is not None and code in LAST_WORDS and self.mailbox.has_mail:
            self._endpoint.linger(self)
        elif self.mailbox is not None:
            self.mailbox.put((CLOSE,))
        self._end()

    # Owner of the WebSocket that the session was born on -------------------------------------

    def on_text(self, payload: bytes) -> None:
        """
        Take a text packet.

        Raises:
            ClientFault: the session cannot go on.
        """
        # The row (WEBSOCKET, SOCKET, MESSAGE) of the table, without looking it up.
        if payload[:1] == b"4" and self._session.state is _WEBSOCKET:
            self.application.on_text(payload[1:])
        else:
            self.receive(Channel.SOCKET, payload)

    def on_binary(self, payload: bytes) -> None:
        """
        Take a binary packet.

        Raises:
            ClientFault: the session cannot go on.
        """
        self.receive_binary(Channel.SOCKET, payload)

    def on_pong(self) -> None:
        """Nothing: Engine.IO has its own heartbeat."""

    def on_closed(self) -> None:
        """The WebSocket is gone."""
        self._end()

    # From the transports --------------------------------------------------------------------

    def receive(self, channel: Channel, packet: bytes) -> None:
        """
        Take one packet.

        Raises:
            ClientFault: the session cannot go on; the caller says so and calls fail().
        """
        if type(packet) is Binary:
            self.receive_binary(channel, packet)
            return
        if packet[:1] == b"4":
            self._session.receive(channel, PacketType.MESSAGE)
            self.application.on_text(packet[1:])
            return
        step = self._session.receive(channel, packet_type(packet), packet[1:])
        if step is Step.HEARTBEAT:
            self._awaits_pong = False
        elif step is Step.CLOSE:
            self._closed_by_client()
        elif step is Step.UPGRADE:
            self._upgrade()
        elif step is Step.PROBE and self._probe is not None:
            self._probe.send((b"3probe",))
            if self.mailbox is not None:
                self.mailbox.wake()

    def receive_binary(self, channel: Channel, payload: bytes) -> None:
        """
        Take one binary packet.

        Raises:
            ClientFault: as receive().
        """
        self._session.receive(channel, PacketType.MESSAGE)
        self.application.on_binary(payload)

    def is_carried_by(self, socket: Socket) -> bool:
        """Whether *socket* carries the session (and does not only probe)."""
        return self._socket is socket

    def probe(self, socket: Socket) -> None:
        """
        Let *socket* try to take the session over.

        Raises:
            BadPacket: the session cannot be upgraded, or is being.
        """
        if self._session.state is not EngineState.POLLING or self._probe is not None:
            raise BadPacket("this session is not to be upgraded")
        self._probe = socket
        self._endpoint.wheel.add(_ProbeEnd(self, socket), UPGRADE_TIMEOUT_S)

    def end_probe(self, socket: Socket) -> None:
        """Close *socket* if it still probes: polling goes on without it."""
        if socket is self._probe:
            self.on_socket_closed(socket)
            socket.close(CloseCode.UPGRADE_TIMEOUT, "not upgraded in time")

    def _upgrade(self) -> None:
        assert self._probe is not None
        self._socket, self._probe = self._probe, None
        mailbox, self.mailbox = self.mailbox, None
        if mailbox is not None:
            self._socket.send(mailbox.take(1 << 62))
            mailbox.put((NOOP,))
        self._endpoint.leave_polling(self)
        self.application.on_upgraded()

    def fail(self, fault: ClientFault) -> None:
        """End the session because of what the client sent."""
        logger.info("session closed", extra={"code": fault.close_code.name, "why": fault.reason})
        self.close(fault.close_code, fault.reason)

    def on_socket_closed(self, socket: Socket) -> None:
        """A WebSocket of this session is gone."""
        if socket is self._probe:
            self._probe = None
            self._session.cancel_probe()
        elif socket is self._socket:
            self._end()

    def _closed_by_client(self) -> None:
        if self.mailbox is not None:
            self.mailbox.put((NOOP,))
        if self._socket is not None:
            self._socket.close(CloseCode.NORMAL, "")
        self._end()

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._probe is not None:
            self._probe.close(CloseCode.GOING_AWAY, "the session is over")
        self._session.close()
        if self not in self._endpoint.lingering:
            self._endpoint.forget(self)
        self._socket = self._probe = None
        application, self.application = self.application, _GONE
        application.on_closed()

    # Polling --------------------------------------------------------------------------------

    async def poll(self, max_bytes: int) -> bytes:
        """
        Wait for packets and give them as one payload.

        Raises:
            PollConflict: another poll waits; the session is closed.
            BadPacket: the session is on a WebSocket.
        """
        mailbox = self.mailbox
        if mailbox is None:
            raise BadPacket("this session is on a WebSocket")
        if mailbox.is_polled:
            self.fail(PollConflict("two polls at once"))
            raise PollConflict("two polls at once")
        if self._session.state is not EngineState.PROBING and not self.is_closed:
            # While a WebSocket probes, polls come back at once: the client waits for the last
            # one before it upgrades, so that no packet is on its way over two transports.
            await mailbox.wait()
        packets = mailbox.take(max_bytes)
        if not packets and self.is_closed:
            self._endpoint.forget(self)
            return CLOSE
        return encode_payload(packets or (NOOP,))

    # Heartbeat ------------------------------------------------------------------------------

    def on_timer(self, now: float) -> float | None:
        """Ping, or close a session that did not answer or did not sign in."""
        if self.is_closed:
            return None
        if self._awaits_pong:
            self.close(CloseCode.PING_TIMEOUT, "ping timeout")
            return None
        endpoint = self._endpoint
        if endpoint.is_overdue(self, now - self._opened_at):
            self.close(CloseCode.CONNECT_TIMEOUT, "no CONNECT in time")
            return None
        self._was_pinged = not self._was_pinged
        if not self._was_pinged:
            return endpoint.ping_pause_s
        self._awaits_pong = True
        self.send((PING,))
        return endpoint.ping_timeout_s


class _ProbeEnd:
    """The timer of a WebSocket that probes."""

    __slots__ = ("_engine", "_socket")

    def __init__(self, engine: EngineConnection, socket: Socket) -> None:
        self._engine = engine
        self._socket = socket

    def on_timer(self, _now: float) -> None:
        """It has had its time."""
        self._engine.end_probe(self._socket)
