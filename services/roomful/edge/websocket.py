"""
WebSockets past ASGI: uvicorn hands the upgrade request to a C-level protocol (picows), and frames
come as plain calls: no task, no queue and no ASGI message per frame (design.md section 6).

What a WebSocket carries is its owner's: an Engine.IO session, or a plain JSON client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import picows
from multidict import CIMultiDict
from picows.picows import WSAutoPingStrategy
from picows.picows import WSProtocol as PicowsProtocol  # type: ignore[attr-defined]  # not in stub

from roomful.edge.handshake import SILENT, Underlying, UpgradeRequest
from roomful.edge.room import Carrier
from roomful.protocol.errors import (
    BadFrame,
    ClientFault,
    CloseCode,
    RefusalCode,
    Refused,
    TooLarge,
)
from roomful.protocol.frames import PING, close_frame, frame, frames

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["EdgeProtocol", "Owner", "Socket"]

logger = logging.getLogger("roomful.edge")

TEXT = picows.WSMsgType.TEXT
BINARY = picows.WSMsgType.BINARY
CONTINUATION = picows.WSMsgType.CONTINUATION
PONG = picows.WSMsgType.PONG
CLOSE = picows.WSMsgType.CLOSE

_NO_HEADERS: CIMultiDict[str] = CIMultiDict()

# RFC 6455 section 7.4.1: these stand for what happened without a close frame.
_NEVER_SENT = frozenset({1004, 1005, 1006, 1015})

CLOSE_WAIT_S = 5.0
"""How long the peer may take to answer our close frame (and to read what is before it)."""
DRAIN_POLL_S = 0.005
DRAIN_TIMEOUT_S = 20.0


class Owner(Protocol):
    """What a WebSocket carries. on_text and on_binary raise ClientFault."""

    def on_text(self, payload: bytes) -> None:
        """Take a text message: valid UTF-8."""

    def on_binary(self, payload: bytes) -> None:
        """Take a binary message."""

    def on_pong(self) -> None:
        """The peer answered a WebSocket ping."""

    def fail(self, fault: ClientFault) -> None:
        """The peer's fault: close."""

    def on_closed(self) -> None:
        """The WebSocket is gone. Called once."""


class _Nobody:
    """Whose a WebSocket is until its owner has begun. Implements Owner."""

    def on_text(self, payload: bytes) -> None:
        """Nobody is there."""

    def on_binary(self, payload: bytes) -> None:
        """Nobody is there."""

    def on_pong(self) -> None:
        """Nobody is there."""

    def fail(self, fault: ClientFault) -> None:
        """Nobody is there."""

    def on_closed(self) -> None:
        """Nobody is there."""


_NOBODY = _Nobody()


class InvalidText(ClientFault):
    """A text message that is not UTF-8 (RFC 6455 section 8.1)."""

    close_code = CloseCode.INVALID_TEXT


class Socket(picows.WSListener):
    """One WebSocket of the server side. Implements Transport."""

    # Mutable state: the fragments of an unfinished message, and whether we are closing.
    __slots__ = (
        "_address",
        "_edge",
        "_is_closing",
        "_open",
        "_parts",
        "_parts_size",
        "_transport",
        "_write",
        "out",
        "owner",
    )

    owner: Owner
    out: bytes | None
    _write: Callable[[bytes], None]

    def __init__(self, edge: Edge, address: str, open_owner: Callable[[Socket], Owner]) -> None:
        self._edge = edge
        self._address = address
        self._open: Callable[[Socket], Owner] | None = open_owner
        self._parts: list[bytes] | None = None
        self._parts_size = 0
        self._is_closing = False
        self.out = None

    # From picows ----------------------------------------------------------------------------

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """The handshake is done: let the owner begin."""
        underlying: Underlying = transport.underlying_transport  # type: ignore[assignment]
        self._transport = underlying.transport
        self._write = self._transport.write
        self._transport.set_write_buffer_limits(high=self._edge.settings.limits.send_buffer_bytes)
        # The headers of both are the largest things that an idle connection would keep.
        transport.request.headers = _NO_HEADERS
        if transport.response is not None:
            transport.response.headers = _NO_HEADERS
        open_owner, self._open = self._open, None
        assert open_owner is not None
        self.owner = _NOBODY
        # The 101, and what the owner says at once, go out in one write.
        self.out = underlying.released()
        owner = open_owner(self)
        self.flush()
        if self._is_closing:
            owner.on_closed()
        else:
            self.owner = owner

    def on_ws_frame(self, transport: picows.WSTransport, frame_: picows.WSFrame) -> None:
        """Take a frame; nothing that the peer sends may raise out of here."""
        if self._is_closing:
            if frame_.msg_type == CLOSE:
                transport.disconnect()
            return
        try:
            if (
                frame_.msg_type is TEXT
                and frame_.fin
                and self._parts is None
                and not (frame_.rsv1 or frame_.rsv2 or frame_.rsv3)
            ):
                # Nearly all that comes.
                payload = frame_.get_payload_as_bytes()
                if not payload.isascii():
                    _check_text(payload)
                self.owner.on_text(payload)
            else:
                self._receive(transport, frame_)
        except ClientFault as fault:
            self._edge.statistics.client_faults += 1
            self.owner.fail(fault)
        except Exception:
            # The top of the call from the loop: a bug costs this connection, not the edge.
            logger.exception("connection failed")
            self.close(CloseCode.INTERNAL, "this failed on our side")

    def _receive(self, transport: picows.WSTransport, frame_: picows.WSFrame) -> None:
        kind = frame_.msg_type
        if frame_.rsv1 or frame_.rsv2 or frame_.rsv3:
            raise BadFrame("a reserved bit is set and no extension was agreed on")
        if kind == BINARY and frame_.fin and self._parts is None:
            self.owner.on_binary(frame_.get_payload_as_bytes())
        elif kind == PONG:
            self.owner.on_pong()
        elif kind == CLOSE:
            code: int = frame_.get_close_code()  # type: ignore[assignment]  # its stub says Enum
            if code and not (1000 <= code <= 4999 and code not in _NEVER_SENT):
                raise BadFrame(f"{code} is not a code for a close frame")
            # RFC 6455 section 5.5.1: answer a close frame with one.
            self._write(close_frame(CloseCode.NORMAL, ""))
            self._end()
            transport.disconnect()
        elif kind in (TEXT, BINARY, CONTINUATION):
            self._receive_fragment(kind, frame_)

    def _receive_fragment(self, kind: picows.WSMsgType, frame_: picows.WSFrame) -> None:
        limits = self._edge.settings.limits
        parts = self._parts
        if (parts is None) == (kind == CONTINUATION):
            raise BadFrame("a fragment out of place")
        if parts is None:
            # The first element says what the message is.
            parts = self._parts = [b"t" if kind == TEXT else b"b"]
            self._parts_size = 0
        parts.append(frame_.get_payload_as_bytes())
        self._parts_size += frame_.payload_size
        if len(parts) > limits.fragments or self._parts_size > limits.payload_bytes:
            raise TooLarge("a message of too many or too large fragments")
        if not frame_.fin:
            return
        self._parts = None
        payload = b"".join(parts[1:])
        if parts[0] == b"t":
            _check_text(payload)
            self.owner.on_text(payload)
        else:
            self.owner.on_binary(payload)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """The TCP connection is gone."""
        self._end()
        self._edge.counts.leave(self._address)
        # No cycle may outlive the connection: collections are rare (EdgeServer.serve).
        del self._transport, self._write, self.owner

    def _end(self) -> None:
        """Nothing goes out any more: let the owner know, once."""
        if not self._is_closing:
            self._is_closing = True
            self._parts = None
            self.owner.on_closed()

    def pause_writing(self) -> None:
        """More than the send buffer is unread: the client is too slow."""
        if not self._is_closing:
            self._edge.statistics.slow_clients += 1
            self.owner.fail(SlowClient("too much unread"))

    def resume_writing(self) -> None:
        """The buffer is low again; it was closed when it went high."""

    # Transport ------------------------------------------------------------------------------

    @property
    def carrier(self) -> Carrier:
        """Frames go out at once."""
        return Carrier.SOCKET

    @property
    def outbox(self) -> Socket:
        """This is where frames go."""
        return self

    def send(self, packets: Sequence[bytes]) -> None:
        """Send each of *packets* as a message, behind what this batch has already."""
        if self._is_closing:
            return
        data = frame(packets[0]) if len(packets) == 1 else frames(packets)
        if self.out is None:
            self._write(data)
        else:
            self.out += data

    def flush(self) -> None:
        """Write what the fan-out collected for this client."""
        out, self.out = self.out, None
        if out is not None and not self._is_closing:
            self._write(out)

    def ping(self) -> None:
        """Send a WebSocket ping."""
        if not self._is_closing:
            self._write(PING)

    def close(self, code: CloseCode, reason: str) -> None:
        """Send a close frame, and hang up when the peer has answered or after CLOSE_WAIT_S."""
        if self._is_closing:
            return
        self.flush()
        if self._is_closing:
            return
        self._write(close_frame(code, reason))
        self._end()
        asyncio.get_running_loop().call_later(CLOSE_WAIT_S, self._transport.abort)

    def buffered(self) -> int:
        """Give the bytes that the client has not read."""
        size: int = self._transport.get_write_buffer_size()
        return size

    async def drained(self) -> None:
        """
        Wait until the client has read everything.

        Raises:
            Refused: OVERLOADED, it did not in time.
        """
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                # uvloop tells of a low buffer only after a high one, and that closes a client.
                while self.buffered() and not self._is_closing:  # noqa: ASYNC110
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError as exc:
            raise Refused(RefusalCode.OVERLOADED, "the client does not read") from exc

    def pause_reading(self) -> None:
        """Read no more from the client."""
        if not self._is_closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._is_closing:
            self._transport.resume_reading()


class SlowClient(ClientFault):
    """More is unread than the send buffer holds; the client can resume."""

    close_code = CloseCode.SLOW_CLIENT


def _check_text(payload: bytes) -> None:
    # What one client sends goes to others as it is; a text frame that is not UTF-8 would make
    # every one of them close.
    try:
        payload.decode()
    except UnicodeDecodeError as exc:
        raise InvalidText("a text message is UTF-8") from exc


class EdgeProtocol(PicowsProtocol):  # type: ignore[misc]  # picows is compiled: its types are a stub
    """The protocol of a connection from its upgrade request on."""

    # uvloop asks each protocol for it, and never calls it where there is get_buffer. What it does
    # with an AttributeError is 3 us of the 130 that a connection costs.
    data_received = None

    def __init__(self, edge: Edge, address: str, request: UpgradeRequest) -> None:
        super().__init__(
            None,
            None,
            False,  # server side
            lambda _request: edge.upgrade(request, address),
            SILENT,
            True,  # disconnect_on_exception
            None,  # no handshake timeout: the request came whole
            False,  # no automatic pings: Engine.IO has its own
            0,
            0,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            True,  # answer pings
            edge.settings.limits.payload_bytes,
            None,
            1024,  # bytes of the read buffer of an idle connection
        )

    def begin(self, transport: asyncio.Transport, data: bytes) -> None:
        """Take *transport* over, with the request's head for picows and what came behind it."""
        super().connection_made(Underlying(transport))
        while data:
            buffer = self.get_buffer(-1)
            part = data[: len(buffer)]
            buffer[: len(part)] = part
            del buffer
            self.buffer_updated(len(part))
            data = data[len(part) :]
        transport.set_protocol(self)
