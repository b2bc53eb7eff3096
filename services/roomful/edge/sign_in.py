"""
Who a connection is: the token at sign-in, its expiry while connected, its swap, its end.

A token is checked once, at sign-in or swap; what can change later (expiry, revocation) is looked
at by the timer and by revoke(). The session's record is written here and after each join, so a
killed process loses no session that its shard keeps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import bucket_of
from roomful.edge.auth import Identity
from roomful.edge.secret_names import secret_name
from roomful.protocol.errors import CloseCode, RefusalCode, Refused
from roomful.shard.base import SessionRecord
from roomful.shard.message import RoomId, UserId, user_room

if TYPE_CHECKING:
    from roomful.edge.connection import Connection
    from roomful.edge.edge import Edge
    from roomful.shard.memory import MemoryShard

__all__ = ["SignIn", "not_allowed"]

logger = logging.getLogger("roomful.edge")

RENEW_S = 150.0
"""
How often the record of a connected session is kept anew; it outlives two of these and the window.
100,000 idle connections so cost their shards 670 writes a second; at 60 s it was 1,670.
"""
TELL_EXPIRY_S = 60.0
"""How long before its end a client is told that its token ends."""


def not_allowed(room: RoomId) -> Refused:
    """Give the refusal that tells a client that it is no longer in *room*."""
    return Refused(RefusalCode.FORBIDDEN, f"no longer allowed in {room}")


class SignIn:
    """Signs connections in and out of one edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._ttl_s = edge.settings.recovery_window_s + 2 * RENEW_S

    async def identify(self, token: object) -> Identity:
        """
        Check *token*.

        Raises:
            Refused: TOKEN_..., or AUTH_UNAVAILABLE.
        """
        identity = self._edge.authenticator.verify(token)
        return identity if isinstance(identity, Identity) else await identity

    def admit(self, connection: Connection, identity: Identity) -> None:
        """
        Count the connection as its user's; sign_out() undoes it.

        Raises:
            Refused: RATE_LIMITED, the user has too many connections.
        """
        if connection.is_closed:
            raise Refused(RefusalCode.OVERLOADED, "the connection is gone")
        self._edge.counts.enter_user(identity.user)
        connection.identity = identity

    def new_record(self, identity: Identity) -> SessionRecord:
        """Make the record of a session that begins."""
        user = UserId(identity.user)
        return SessionRecord(secret_name(24), secret_name(16), user, {})

    async def begin(self, connection: Connection, record: SessionRecord) -> None:
        """Let a new session into the room of its user, and keep its record."""
        connection.record = record
        room = user_room(record.user)
        await self._edge.fanout.enter(connection, room)
        if connection.record is not record:
            # It went away meanwhile, and what it had by then was undone; this it had not.
            self._edge.fanout.leave(connection, room)
            return
        record.rooms[room] = self._edge.shards.heard(room)
        self._watch(connection)
        await self.keep(connection)

    def begin_at_once(
        self, connection: Connection, record: SessionRecord, memory: MemoryShard
    ) -> None:
        """Do as begin() where nothing waits: the rooms are in this process, in *memory*."""
        connection.record = record
        room = user_room(record.user)
        self._edge.fanout.enter_at_once(connection, room)
        record.rooms[room] = memory.heard(room)
        self._watch(connection)
        if connection.is_told_pid:
            memory.keep_session(record, self._ttl_s)

    async def resumed(self, connection: Connection, record: SessionRecord) -> None:
        """Let a session that was taken up again be present in its rooms as before."""
        for room in record.rooms:
            if not room.startswith("user:"):
                await self._edge.shards.join(room, record.user, record.sid, connection.status)
            if connection.record is not record:
                # It went away meanwhile: this join may have come behind its leaving.
                self._edge.give_up(record)
                return
        # take() has kept the record.
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """The connection has its record: watch over it."""
        delay_s = self._next_timer_s(connection)
        connection.timer_at = self._edge.wheel.add(connection, delay_s) + delay_s

    def _watch_sooner(self, connection: Connection) -> None:
        """Its token is another one: if that ends before the timer comes, let it come earlier."""
        delay_s = self._next_timer_s(connection) + self._edge.settings.timer_tick_s
        if asyncio.get_running_loop().time() + delay_s < connection.timer_at:
            self._watch(connection)

    async def keep(self, connection: Connection) -> None:
        """Keep the session's record for another while, if its client could resume by it."""
        record = connection.record
        if record is None or not connection.is_told_pid:
            return
        is_kept = await self._edge.shards.save_session(record, self._ttl_s)
        if not is_kept and connection.record is record:
            # Resumed where this edge was not asked: its client is there now.
            connection.close(CloseCode.REPLACED, "resumed on another connection")

    async def take(self, record: SessionRecord) -> bool:
        """
        Make *record*, as it was loaded, the one that counts; False: somebody else was first.

        Whoever had the session before can no longer write it.
        """
        record.generation += 1
        return await self._edge.shards.save_session(record, self._ttl_s, is_taken=True)

    async def rejoin(self, shard: ShardName, bucket: int | None) -> None:
        """Let all who are in rooms of *shard* (or only a bucket's) be present again there."""
        shards = self._edge.shards
        for connection in tuple(self._edge.connections):
            record = connection.record
            for room in tuple(record.rooms if record is not None else ()):
                if room.startswith("user:") or shards.shard_of(room).name != shard:
                    continue
                if bucket is not None and bucket_of(room) != bucket:
                    continue
                if record is None or connection.record is not record or room not in record.rooms:
                    continue
                try:
                    await shards.join(room, record.user, record.sid, connection.status)
                except Refused as refused:
                    logger.warning("not joined again", extra={"room": room, "why": str(refused)})

    async def swap(self, connection: Connection, token: object) -> Identity:
        """
        Let a fresh token of the same user take over.

        Rooms that it does not allow are left.

        Raises:
            Refused: the token is bad, or another user's (FORBIDDEN).
        """
        identity = await self.identify(token)
        record = connection.record
        if record is None or identity.user != record.user:
            raise Refused(RefusalCode.FORBIDDEN, "the token is of another user")
        connection.identity = identity
        connection.may_send = None
        connection.tells_expiry = False
        self._watch_sooner(connection)
        self._edge.access.forget(identity.user)
        for room in await self.rooms_refused(connection, record):
            if connection.record is record:
                await self._edge.router.leave(connection, room)
                connection.refuse(None, "auth", not_allowed(room))
        return identity

    async def rooms_refused(self, connection: Connection, record: SessionRecord) -> list[RoomId]:
        """Ask again for each room of *record*; gives those that *connection* may not be in."""
        refused = []
        for room in tuple(record.rooms):
            if room.startswith("user:"):
                continue
            try:
                await self._edge.router.allow_join(connection, room)
            except Refused as exc:
                if not exc.code.is_retryable:
                    refused.append(room)
        return refused

    def close_revoked(self) -> int:
        """Close every connection whose token is revoked by now; gives how many."""
        closed = 0
        for connection in tuple(self._edge.connections):
            identity = connection.identity
            if identity is not None and self._edge.authenticator.is_revoked(identity):
                self._end(connection, RefusalCode.TOKEN_REVOKED, CloseCode.DISCONNECTED)
                closed += 1
        return closed

    def disconnect(self, user: UserId) -> int:
        """Close every connection of *user* on this edge for good; gives how many."""
        closed = 0
        for connection in tuple(self._edge.connections):
            if connection.record is not None and connection.record.user == user:
                connection.close(CloseCode.DISCONNECTED, "disconnected", can_resume=False)
                closed += 1
        return closed

    def on_timer(self, connection: Connection, now: float) -> float | None:
        """Serve the connection's timer at *now* (loop time); gives the seconds until the next."""
        identity = connection.identity
        if identity is None:
            return None
        # A call comes up to a tick early. One that is earlier still is of a place in the wheel
        # that _watch_sooner() has replaced.
        if now + 2 * self._edge.settings.timer_tick_s < connection.timer_at:
            return None
        left_s = self._left_s(identity)
        if left_s is not None and left_s <= 0:
            self._end(connection, RefusalCode.TOKEN_EXPIRED, CloseCode.TOKEN_EXPIRED)
            return None
        if left_s is not None and left_s <= TELL_EXPIRY_S and not connection.tells_expiry:
            connection.tells_expiry = True
            assert identity.expires_at is not None
            connection.notify("token-expiring", {"expiresAt": int(identity.expires_at * 1000)})
        self._edge.spawn(self.keep(connection))
        delay_s = self._next_timer_s(connection)
        connection.timer_at = now + delay_s
        return delay_s

    def _left_s(self, identity: Identity) -> float | None:
        if identity.expires_at is None:
            return None
        return identity.expires_at - time.time()

    def _next_timer_s(self, connection: Connection) -> float:
        assert connection.identity is not None
        left_s = self._left_s(connection.identity)
        if left_s is None:
            return RENEW_S
        if left_s > TELL_EXPIRY_S:
            return min(RENEW_S, left_s - TELL_EXPIRY_S)
        if not connection.tells_expiry:
            return 0.0
        # The wheel may be a tick early; a token must not be cut before its end.
        return min(RENEW_S, max(left_s, 0.0) + self._edge.settings.timer_tick_s)

    def _end(self, connection: Connection, code: RefusalCode, close: CloseCode) -> None:
        refused = Refused(code, "sign in again")
        connection.refuse(None, "auth", refused)
        connection.close(close, code, can_resume=code is RefusalCode.TOKEN_EXPIRED)
