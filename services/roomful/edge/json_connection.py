"""
A plain JSON WebSocket client: one object a message, the same operations.

Source: docs/wire.md; what Socket.IO has in its handshake (auth, pid) comes in messages here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from roomful.edge.connection import Connection, close_code_of
from roomful.edge.encoding import Wire
from roomful.protocol import jsonws
from roomful.protocol.errors import BadPacket, ClientFault, CloseCode, RefusalCode, Refused
from roomful.protocol.operations import Auth, Operation
from roomful.protocol.socketio import inline_attachments

if TYPE_CHECKING:
    from roomful.edge.edge import Edge
    from roomful.edge.websocket import Socket

__all__ = ["JsonConnection"]

logger = logging.getLogger("roomful.edge")

EARLY: Final = 16
"""Messages that are refused before the sign-in; with one more the connection is closed."""


class JsonConnection(Connection):
    """Implements the application side of a WebSocket at /ws."""

    # Mutable state: the WebSocket while it is open, whether a ping is unanswered and whether the
    # last timer sent one, whether the client is being signed in, and what it was refused before.
    __slots__ = ("_awaits_pong", "_early", "_is_signing_in", "_opened_at", "_socket", "_was_pinged")

    def __init__(self, edge: Edge, socket: Socket, address: str, token: str | None) -> None:
        super().__init__(edge, socket, Wire.JSON, address)
        self._socket: Socket | None = socket
        self._awaits_pong = self._was_pinged = False
        self._is_signing_in = False
        self._early = 0
        settings = edge.settings
        first_s = min(settings.ping_interval_s, settings.limits.connect_timeout_s)
        self._opened_at = edge.wheel.add(_Heartbeat(self), first_s)
        if token is not None:
            self._is_signing_in = True
            self.run(self._sign_in(token, None))

    @property
    def is_signed_in(self) -> bool:
        """Whether the client has shown a good token."""
        return self.record is not None and not self._is_signing_in

    def on_text(self, payload: bytes) -> None:
        """
        Take one message.

        Raises:
            BadPacket: it is none; the connection cannot go on.
        """
        try:
            operation, ref = jsonws.parse(payload)
        except jsonws.RefusedWithRef as refused:
            if self._take(refused.ref, "message"):
                self.refuse(refused.ref, "message", refused)
            return
        if self.record is None:
            self._before_sign_in(operation, ref)
        elif self._take(ref, operation.wire_name):
            self.perform(operation, ref)

    def _take(self, ref: bytes | None, operation: str) -> bool:
        """Count a message; False: it was one too many, and its answer is given."""
        if self.record is None:
            self._early += 1
            if self._early > EARLY:
                self.close(CloseCode.UNAUTHORIZED, "sign in first")
                return False
            return True
        try:
            if self.credit:
                self.credit -= 1
            else:
                self.edge.take_messages(self)
        except Refused as refused:
            self.refuse(ref, operation, refused)
            return False
        return True

    def on_binary(self, payload: bytes) -> None:
        """
        Refuse: a message is text.

        Raises:
            BadPacket: always.
        """
        raise BadPacket("a message is JSON text")

    def fail(self, fault: ClientFault) -> None:
        """Close because of what the client sent."""
        self.close(fault.close_code, fault.reason)

    def on_closed(self) -> None:
        """The WebSocket is gone."""
        super().on_closed()
        self._socket = None

    def on_pong(self) -> None:
        """The client is there."""
        self._awaits_pong = False

    def _before_sign_in(self, operation: Operation, ref: bytes | None) -> None:
        if self._is_signing_in:
            # With the token on the handshake nothing needs to wait for `connected`.
            self.perform(operation, ref)
            return
        if not isinstance(operation, Auth):
            refused = Refused(RefusalCode.UNAUTHORIZED, "sign in first: type auth, with the token")
            if self._take(ref, operation.wire_name):
                self.refuse(ref, operation.wire_name, refused)
            return
        self._is_signing_in = True
        self.run(self._sign_in(operation.token, ref))

    async def _sign_in(self, token: object, ref: bytes | None) -> None:
        edge = self.edge
        try:
            if edge.is_draining:
                raise Refused(RefusalCode.DRAINING, "this edge is going away")
            identity = await edge.sign_in.identify(token)
            edge.sign_in.admit(self, identity)
            record = edge.sign_in.new_record(identity)
            await edge.sign_in.begin(self, record)
            if self.is_closed:
                return
        except Refused as refused:
            edge.statistics.refused_sign_ins += 1
            logger.info("sign-in refused", extra={"code": refused.code, "why": refused.sentence})
            self.refuse(ref, "auth", refused)
            self.close(close_code_of(refused), refused.code)
            return
        self._is_signing_in = False
        expires = identity.expires_at
        expires_ms = None if expires is None else int(expires * 1000)
        self.notify(
            "connected",
            {
                "userId": record.user,
                "sid": record.sid,
                "expiresAt": expires_ms,
                "cursor": edge.fanout.vector.encode().decode(),
            },
        )
        if ref is not None:
            body = b"null" if expires_ms is None else b"%d" % expires_ms
            self.reply(ref, b'{"success":true,"expiresAt":%b}' % body)

    def reply(self, token: bytes, body: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Send the ack with ref *token*."""
        self.transport.send((jsonws.encode_ack(token, inline_attachments(body, attachments)),))

    def heartbeat(self, now: float) -> float | None:
        """Ping the client; close one that did not answer, or did not sign in in time."""
        settings = self.edge.settings
        if self.is_closed or self._socket is None:
            return None
        if self._awaits_pong:
            self.close(CloseCode.PING_TIMEOUT, "ping timeout")
            return None
        timeout_s = settings.limits.connect_timeout_s
        if self.record is None and now - self._opened_at >= timeout_s - settings.timer_tick_s:
            self.close(CloseCode.CONNECT_TIMEOUT, "no sign-in in time")
            return None
        self._was_pinged = not self._was_pinged
        if not self._was_pinged:
            return max(0.0, settings.ping_interval_s - settings.ping_timeout_s)
        self._awaits_pong = True
        self._socket.ping()
        return settings.ping_timeout_s


class _Heartbeat:
    """The second timer of a plain JSON connection, next to that of its token."""

    __slots__ = ("_connection",)

    def __init__(self, connection: JsonConnection) -> None:
        self._connection = connection

    def on_timer(self, now: float) -> float | None:
        return self._connection.heartbeat(now)
