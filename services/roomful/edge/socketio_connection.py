"""
A Socket.IO client in the namespace "/": packets to operations, answers to acks.

The namespace is the session: leaving it (DISCONNECT) ends the session for good, losing the
transport does not.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from roomful.edge.auth import Identity
from roomful.edge.connection import Connection, Transport, close_code_of
from roomful.edge.encoding import Wire
from roomful.edge.resume import Hole, Resumption
from roomful.edge.sign_in import not_allowed
from roomful.protocol import socketio
from roomful.protocol.engineio import Binary
from roomful.protocol.errors import BadPacket, CloseCode, RefusalCode, Refused
from roomful.protocol.operations import is_clean, parse_event, parse_leniently
from roomful.protocol.session import (
    Connect,
    Disconnect,
    Event,
    Incoming,
    NamespaceState,
    SocketSession,
)
from roomful.shard.base import SessionRecord
from roomful.shard.message import RoomId

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["SocketIoConnection"]

logger = logging.getLogger("roomful.edge")


class _Auth(msgspec.Struct, gc=False):
    """The auth object of CONNECT; anything else in it is the app's."""

    token: Any = None
    pid: Any = None
    offset: Any = None
    recovery: Any = None
    traceparent: Any = None


_auth_decoder = msgspec.json.Decoder(_Auth)


def _parse_auth(body: bytes) -> _Auth:
    if not body:
        return _Auth()
    try:
        return _auth_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        value = parse_leniently(body)
        if not isinstance(value, dict):
            raise BadPacket("the body of CONNECT is an object") from exc
        return _Auth(**{name: value.get(name) for name in _Auth.__struct_fields__})


class SocketIoConnection(Connection):
    """Implements the application side of an Engine.IO session."""

    # Mutable state: the packets' own, and whether CONNECT is being answered.
    __slots__ = ("_is_signing_in", "_session")

    def __init__(self, edge: Edge, transport: Transport, wire: Wire, address: str) -> None:
        super().__init__(edge, transport, wire, address)
        self._session = SocketSession(edge.socket_limits)
        self._is_signing_in = False

    @property
    def is_signed_in(self) -> bool:
        """Whether the client is in the namespace."""
        return self._session.state(socketio.ROOT) is NamespaceState.CONNECTED

    @property
    def is_established(self) -> bool:
        """Whether the client is in the namespace."""
        return self.is_signed_in

    # From the transport ---------------------------------------------------------------------

    def on_text(self, payload: bytes) -> None:
        """
        Take one text packet, without its Engine.IO digit.

        Raises:
            ClientFault: the connection cannot go on.
        """
        incoming = self._session.receive_text(payload)
        if type(incoming) is Event:
            self._event(incoming)
        elif incoming is not None:
            self._other(incoming)

    def on_binary(self, payload: bytes) -> None:
        """
        Take one binary packet.

        Raises:
            ClientFault: the connection cannot go on.
        """
        incoming = self._session.receive_binary(payload)
        if type(incoming) is Event:
            self._event(incoming)

    def on_upgraded(self) -> None:
        """The WebSocket carries the session from now on."""
        for room in self.rooms:
            self.edge.fanout.move(self, room)

    def _event(self, event: Event) -> None:
        try:
            if self.credit:
                self.credit -= 1
            else:
                self.edge.take_messages(self)
            operation = parse_event(event.body)
        except Refused as refused:
            self.refuse(event.ack_id, "event", refused)
            return
        self.perform(operation, event.ack_id, event.attachments)

    def _other(self, incoming: Incoming) -> None:
        if isinstance(incoming, Connect):
            self._connect(incoming)
        elif isinstance(incoming, Disconnect) and incoming.namespace == socketio.ROOT:
            self._leave()

    def _leave(self) -> None:
        """The client leaves for good; its Engine.IO session may go on, and CONNECT again."""
        if self._is_signing_in:
            # No stock client takes a CONNECT back that has no answer yet: not worth the states.
            self.close(CloseCode.NORMAL, "left before it was let in", can_resume=False)
            return
        self.can_resume = False
        self.edge.sign_out(self)
        self.can_resume = True
        # Whoever comes next has not set it.
        self.status = "online"

    # Sign-in --------------------------------------------------------------------------------

    def _connect(self, connect: Connect) -> None:
        if connect.namespace != socketio.ROOT:
            self._session.refuse(connect.namespace)
            reply = socketio.encode_connect_error("Invalid namespace", connect.namespace)
            self.transport.send((reply,))
            return
        if self.is_busy:
            raise BadPacket("an operation is under way")
        auth = _parse_auth(connect.auth)
        edge = self.edge
        try:
            if edge.is_draining:
                raise Refused(RefusalCode.DRAINING, "this edge is going away")
            identity = edge.authenticator.verify(auth.token)
            if auth.pid is None and edge.memory is not None and isinstance(identity, Identity):
                # It waits for nobody: no task and no coroutines, a fifth of what it would cost.
                edge.sign_in.admit(self, identity)
                self._take(auth)
                record = edge.sign_in.new_record(identity)
                edge.sign_in.begin_at_once(self, record, edge.memory)
                self._accept(record, self._cursor_packets())
                return
        except Refused as refused:
            self._refuse_connect(refused)
            return
        self.run(self._sign_in(identity, auth))
        self._is_signing_in = True

    def _take(self, auth: _Auth) -> None:
        self.follow(auth.traceparent)
        if isinstance(auth.recovery, bool):
            self.wire = Wire.CURSOR if auth.recovery else Wire.PLAIN

    async def _sign_in(self, identity: Identity | Awaitable[Identity], auth: _Auth) -> None:
        try:
            await self._try_sign_in(identity, auth)
        finally:
            self._is_signing_in = False

    async def _try_sign_in(self, identity: Identity | Awaitable[Identity], auth: _Auth) -> None:
        try:
            if not isinstance(identity, Identity):
                identity = await identity
            if self.is_closed:
                return
            self.edge.sign_in.admit(self, identity)
        except Refused as refused:
            self._refuse_connect(refused)
            return
        self._take(auth)
        try:
            await self._begin(identity, auth)
        except Refused as refused:
            self.transport.close(close_code_of(refused), refused.sentence)

    def _refuse_connect(self, refused: Refused) -> None:
        self.edge.statistics.refused_sign_ins += 1
        logger.info("sign-in refused", extra={"code": refused.code, "why": refused.sentence})
        self._session.refuse(socketio.ROOT)
        code = close_code_of(refused)
        if code in (CloseCode.RESTART, CloseCode.TRY_AGAIN):
            # After CONNECT_ERROR stock clients stay away for good, after a close they come back.
            self.transport.close(code, refused.code)
            return
        is_auth = code is CloseCode.UNAUTHORIZED
        sentence = "Authentication failed" if is_auth else refused.sentence
        self.transport.send((socketio.encode_connect_error(sentence),))

    async def _begin(self, identity: Identity, auth: _Auth) -> None:
        sign_in = self.edge.sign_in
        # If one that is told no pid has one, its offset may be anybody's words.
        wants_recovery = self.is_told_pid and isinstance(auth.pid, str)
        holes: list[RoomId] = []
        if wants_recovery and isinstance(auth.offset, str):
            record = await self._load(auth.pid, identity)
            if record is not None:
                if await self._resume(record, auth.offset, holes):
                    self.edge.statistics.resumed += 1
                    return
        record = sign_in.new_record(identity)
        await sign_in.begin(self, record)
        if self.is_closed:
            return
        if wants_recovery:
            self._accept(record)
            self.edge.statistics.not_resumed += 1
            self.notify("recovery-failed", {"holes": holes})
            self.tell_cursor()
        else:
            self._accept(record, self._cursor_packets())

    def _accept(self, record: SessionRecord, more: Sequence[bytes] = ()) -> None:
        self._session.accept(socketio.ROOT)
        pid = record.pid if self.is_told_pid else None
        self.transport.send((socketio.encode_connect(record.sid, pid), *more))

    async def _load(self, pid: str, identity: Identity) -> SessionRecord | None:
        if not is_clean(pid):
            return None
        record = await self.edge.shards.load_session(pid)
        return record if record is not None and record.user == identity.user else None

    async def _resume(self, record: SessionRecord, cursor: str, holes: list[RoomId]) -> bool:
        """Take up the session of *record*; False if it cannot be, with the rooms that lack."""
        self.edge.replace(record)
        refused = await self.edge.sign_in.rooms_refused(self, record)
        for room in refused:
            del record.rooms[room]
        # It is kept with this, as it is from now on.
        if not await self.edge.sign_in.take(record):
            # Its rooms and its record are those of who was first.
            return False
        if self.is_closed:
            raise Refused(RefusalCode.OVERLOADED, "the connection is gone")
        self.record = record
        try:
            resumption = Resumption(self.edge, self, cursor)
            await resumption.run(record.rooms, lambda: self._accept(record))
        except Hole as hole:
            holes += [room for room in hole.rooms if not room.startswith("user:")]
            if self.is_signed_in:
                raise Refused(RefusalCode.OVERLOADED, "the log moved on during replay") from hole
            self.record = None
            self.edge.abandon(record)
            return False
        await self.edge.sign_in.resumed(self, record)
        for room in refused:
            self.refuse(None, "resume", not_allowed(room))
        self.tell_cursor()
        return True

    # Answers --------------------------------------------------------------------------------

    def reply(self, token: bytes, body: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Send the ack with id *token*."""
        if not attachments:
            self.transport.send((b"43%b[%b]" % (token, body),))
            return
        ack = socketio.encode_ack(token, b"[%b]" % body, attachments=len(attachments))
        self.transport.send((ack, *map(Binary, attachments)))

    def close(self, code: CloseCode, reason: str, *, can_resume: bool = True) -> None:
        """Close; a client that must not come back by itself is told DISCONNECT first."""
        if not can_resume and self.is_signed_in:
            self.transport.send((socketio.encode_disconnect(),))
        super().close(code, reason, can_resume=can_resume)
