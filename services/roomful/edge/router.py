"""
Operations to effects: what docs/wire.md says each of them does.

Handlers that store something (message, publish, direct-message) and typing are plain calls: the
hot path. The others are coroutines, because they wait for a shard. Both raise Refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from roomful.edge.connection import Answer, Connection, close_code_of
from roomful.edge.encoding import Wire, page_json
from roomful.edge.envelopes import (
    PublishCall,
    build_direct,
    build_event,
    build_message,
    check_content,
    check_event_name,
    check_room_name,
    now_ms,
)
from roomful.edge.grants import Right
from roomful.edge.publish_span import begin_span
from roomful.edge.take_up import BrokenOff, take_up
from roomful.protocol.errors import RefusalCode, Refused
from roomful.protocol.operations import (
    Auth,
    Direct,
    GetPresence,
    History,
    Join,
    Leave,
    Message,
    Publish,
    Resume,
    SetPresence,
    Typing,
    is_clean,
)
from roomful.shard.base import Members, Settle, Stored
from roomful.shard.message import Cast, Envelope, RoomId, UserId, user_room

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["HISTORY_LIMIT", "PublishCall", "Router"]

HISTORY_LIMIT = 100

Attachments = Sequence[bytes]
Handler = Callable[[Connection, Any, bytes | None, Attachments], Answer | None]

_json = msgspec.json.Encoder().encode


class _StoredBody(msgspec.Struct, gc=False):
    success: bool
    id: str
    offset: int
    timestamp: int


class _Handlers(dict[type, Handler]):
    """A plain JSON operation is a subclass, with its ref, of the one that has the handler."""

    def __missing__(self, kind: type) -> Handler:
        handler = self[kind] = self[kind.__bases__[0]]
        return handler


class Router:
    """Performs operations for the connections of one edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.handlers: dict[type, Handler] = _Handlers(
            {
                Message: self._message,
                Publish: self._publish,
                Direct: self._direct,
                Typing: self._typing,
                Join: self._join,
                Leave: self._leave,
                SetPresence: self._set_presence,
                GetPresence: self._get_presence,
                History: self._history,
                Auth: self._auth,
                Resume: self._resume,
            }
        )
        """By the type of operation: does it, or gives the coroutine that does; raises Refused."""

    # Storing --------------------------------------------------------------------------------

    def _message(
        self, connection: Connection, op: Message, token: bytes | None, attachments: Attachments
    ) -> Answer | None:
        may_send = connection.may_send
        if may_send is not None and (known := may_send.get(RoomId(op.room_id))) is not None:
            self._send_message(connection, known, op, token, attachments)
            return None
        return self._first_message(connection, op, token, attachments)

    def _first_message(
        self, connection: Connection, op: Message, token: bytes | None, attachments: Attachments
    ) -> Answer | None:
        # Not in _message: what a lambda uses is put into cells at each call, also where it is not.
        room = self._joined(connection, op.room_id)
        return self._when_allowed(
            connection, room, lambda: self._send_message(connection, room, op, token, attachments)
        )

    def _send_message(
        self,
        connection: Connection,
        room: RoomId,
        op: Message,
        token: bytes | None,
        attachments: Attachments,
    ) -> None:
        content = op.content
        check_content(content, attachments)
        envelope = build_message(room, connection.user, content, op.id, attachments)
        self._store(connection, envelope, token, op, self._edge.shards.publish)

    def _publish(
        self, connection: Connection, op: Publish, token: bytes | None, attachments: Attachments
    ) -> Answer | None:
        check_event_name(op.event)
        room = self._joined(connection, op.room_id)
        check_content(op.data, attachments)

        def send() -> None:
            envelope = build_event(room, connection.user, op.event, op.data, op.id, attachments)
            self._store(connection, envelope, token, op, self._edge.shards.publish)

        return self._when_allowed(connection, room, send)

    def _when_allowed(
        self, connection: Connection, room: RoomId, send: Callable[[], None]
    ) -> Answer | None:
        assert connection.identity is not None
        asked = self._edge.access.check(connection.identity, room, Right.SEND)
        if asked is None:
            if self._edge.access.is_static:
                connection.may_send = connection.may_send or {}
                connection.may_send[room] = room
            send()
            return None
        return self._then(asked, send)

    async def _then(self, asked: Awaitable[None], send: Callable[[], None]) -> None:
        await asked
        send()

    def _joined(self, connection: Connection, name: str) -> RoomId:
        room = RoomId(name)
        if room not in connection.rooms or name.startswith("user:"):
            raise Refused(RefusalCode.NOT_JOINED, "join the room first")
        return room

    def _store(
        self,
        connection: Connection,
        envelope: Envelope,
        token: bytes | None,
        op: Message | Publish | Direct,
        publish: PublishCall,
    ) -> None:
        """Store *envelope*, and answer the sender when it is safe, or refused."""
        message_id, operation = envelope.id, op.wire_name

        def answer(outcome: Stored | Refused) -> None:
            if connection.is_closed:
                return
            if isinstance(outcome, Refused):
                connection.refuse(token, operation, outcome)
            elif token is not None:
                body = _StoredBody(True, message_id, outcome.offset, outcome.timestamp)
                connection.reply(token, _json(body))

        settle: Settle = answer
        if op.traceparent is not None or connection.is_traced:
            envelope, settle = begin_span(connection, envelope, settle, op.traceparent)
        publish(envelope, settle, is_named=op.id is not None)

    def _direct(
        self, connection: Connection, op: Direct, token: bytes | None, attachments: Attachments
    ) -> None:
        if not is_clean(op.user_id):
            raise Refused(RefusalCode.BAD_REQUEST, "a user's name has no control characters")
        check_content(op.content, attachments)
        to = UserId(op.user_id)
        envelope = build_direct(user_room(to), connection.user, to, op.content, op.id, attachments)
        self._store(connection, envelope, token, op, self.send_direct)

    def send_direct(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """
        Store a direct message in the recipient's room, and then in the sender's.

        *settle* hears of it when both are stored; a retry with the same id completes what an
        earlier attempt began and doubles nothing.
        """
        copy = msgspec.structs.replace(envelope, room=user_room(envelope.user))

        def then(outcome: Stored | Refused) -> None:
            if isinstance(outcome, Refused) or copy.room == envelope.room:
                settle(outcome)
                return
            self._edge.shards.publish(
                copy,
                lambda second: settle(second if isinstance(second, Refused) else outcome),
                is_named=is_named,
            )

        self._edge.shards.publish(envelope, then, is_named=is_named)

    def _typing(
        self, connection: Connection, op: Typing, _token: bytes | None, _more: Attachments
    ) -> Answer | None:
        room = self._joined(connection, op.room_id)
        user = connection.user

        def send() -> None:
            body = _json(
                {
                    "roomId": room,
                    "userId": user,
                    "isTyping": op.is_typing,
                    "timestamp": now_ms(),
                }
            )
            cast = Cast(room, "typing", body, except_user=user, is_volatile=True)
            self._edge.shards.cast(cast)

        return self._when_allowed(connection, room, send)

    # Rooms ----------------------------------------------------------------------------------

    async def _join(
        self, connection: Connection, op: Join, token: bytes | None, _more: Attachments
    ) -> None:
        members = await self.join(connection, op.room_id)
        if token is not None:
            body = {"success": True, "roomId": op.room_id, **_members(members)}
            connection.reply(token, _json(body))
        connection.tell_cursor()

    async def join(self, connection: Connection, name: str, *, is_live: bool = True) -> Members:
        """
        Let *connection* into the room *name*; unless *is_live*, its replay sees to what it hears.

        Raises:
            Refused: BAD_REQUEST, ROOM_LIMIT, FORBIDDEN, RESERVED_ROOM, ..._UNAVAILABLE.
        """
        check_room_name(name)
        room, edge = RoomId(name), self._edge
        limit = edge.settings.limits.rooms_per_connection
        # The user's own room does not count.
        if room not in connection.rooms and len(connection.rooms) > limit:
            raise Refused(RefusalCode.ROOM_LIMIT, f"at most {limit} rooms a connection")
        await self.allow_join(connection, room)
        record = connection.record
        assert record is not None
        is_new = room not in record.rooms
        if is_live:
            await edge.fanout.enter(connection, room)
        try:
            joined = await edge.shards.join(room, record.user, record.sid, connection.status)
        except BaseException:
            if is_new:
                edge.fanout.leave(connection, room)
            raise
        if connection.record is not record:
            edge.fanout.leave(connection, room)
            await edge.shards.leave(room, record.user, record.sid, with_grace=True)
            raise Refused(RefusalCode.OVERLOADED, "the connection is gone")
        record.rooms.setdefault(room, joined.offset)
        try:
            await edge.sign_in.keep(connection)
        except Refused:
            # Who is refused is not in the room; one that is gone has left all of its rooms.
            if is_new and connection.record is record:
                del record.rooms[room]
                edge.fanout.leave(connection, room)
                await edge.shards.leave(room, record.user, record.sid, with_grace=False)
            raise
        return joined.members

    async def allow_join(self, connection: Connection, room: RoomId) -> None:
        """
        Check that *connection* may be in *room*.

        Raises:
            Refused: FORBIDDEN, RESERVED_ROOM, ACCESS_UNAVAILABLE; OVERLOADED if it went away.
        """
        if connection.identity is None:
            raise Refused(RefusalCode.OVERLOADED, "the connection is gone")
        asked = self._edge.access.check(connection.identity, room, Right.JOIN)
        if inspect.isawaitable(asked):
            await asked

    async def _leave(
        self, connection: Connection, op: Leave, token: bytes | None, _more: Attachments
    ) -> None:
        room = self._joined(connection, op.room_id)
        await self.leave(connection, room)
        if token is not None:
            connection.reply(token, _json({"success": True, "roomId": room}))

    async def leave(self, connection: Connection, room: RoomId) -> None:
        """Let *connection* leave *room*, which it is in."""
        record = connection.record
        assert record is not None
        del record.rooms[room]
        if connection.may_send is not None:
            connection.may_send.pop(room, None)
        self._edge.fanout.leave(connection, room)
        await self._edge.shards.leave(room, record.user, record.sid, with_grace=False)
        await self._edge.sign_in.keep(connection)

    async def _set_presence(
        self, connection: Connection, op: SetPresence, token: bytes | None, _more: Attachments
    ) -> None:
        connection.status = op.status
        user = connection.user
        for room in tuple(connection.rooms):
            if room.startswith("user:"):
                continue
            await self._edge.shards.set_status(room, user, op.status)
            body = {"userId": user, "status": op.status, "roomId": room, "timestamp": now_ms()}
            self._edge.shards.cast(Cast(room, "presence", _json(body), except_user=user))
        if token is not None:
            connection.reply(token, b'{"success":true}')

    async def _get_presence(
        self, connection: Connection, op: GetPresence, token: bytes | None, _more: Attachments
    ) -> None:
        room = RoomId(op.room_id)
        await self._may_read(connection, room)
        members = await self._edge.shards.members(room)
        if token is not None:
            body = {"success": True, "roomId": room, **_members(members)}
            connection.reply(token, _json(body))

    async def _may_read(self, connection: Connection, room: RoomId) -> None:
        if room not in connection.rooms:
            check_room_name(room)
            await self.allow_join(connection, room)

    async def _history(
        self, connection: Connection, op: History, token: bytes | None, _more: Attachments
    ) -> None:
        room = RoomId(op.room_id)
        await self._may_read(connection, room)
        limit = min(op.limit, HISTORY_LIMIT)
        page = await self._edge.history.page(room, before=op.before, after=op.after, limit=limit)
        if token is not None:
            connection.reply(token, b'{"success":true,%b}' % page_json(page))

    # Sessions -------------------------------------------------------------------------------

    async def _auth(
        self, connection: Connection, op: Auth, token: bytes | None, _more: Attachments
    ) -> None:
        identity = await self._edge.sign_in.swap(connection, op.token)
        if token is not None:
            expires = identity.expires_at
            expires_ms = None if expires is None else int(expires * 1000)
            connection.reply(token, _json({"success": True, "expiresAt": expires_ms}))

    async def _resume(
        self, connection: Connection, op: Resume, token: bytes | None, _more: Attachments
    ) -> None:
        if connection.wire is not Wire.JSON:
            raise Refused(RefusalCode.UNKNOWN_EVENT, "resume is for plain JSON clients")
        try:
            recovered, holes = await take_up(self._edge, connection, op)
        except BrokenOff as broken:
            # Some of it may have been sent: only a new connection can take up from there.
            connection.refuse(token, op.wire_name, broken.refused)
            connection.close(close_code_of(broken.refused), broken.refused.sentence)
            return
        if token is not None:
            rooms = [room for room in connection.rooms if not room.startswith("user:")]
            body = {"success": True, "recovered": recovered, "rooms": rooms, "holes": holes}
            connection.reply(token, _json(body))
        connection.tell_cursor()


def _members(members: Members) -> dict[str, object]:
    return {"members": members.members, "count": members.count}
