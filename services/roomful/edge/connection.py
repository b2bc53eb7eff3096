"""
One signed-in client: who it is, which rooms it is in, and its operations, one after another.

Most operations are done in the call that brings them. One that has to wait (a join, a page of
history, an access webhook) runs in a task, and until it is done what the client sends next waits
behind it, so that `join` and then `message` means what it says. The queue is bounded: past
BACKLOG operations nothing more is read from the client's socket.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from roomful.edge.encoding import Wire, encode_notice
from roomful.edge.room import Carrier, Outbox
from roomful.protocol.errors import BadPacket, CloseCode, RefusalCode, Refused
from roomful.protocol.operations import Operation
from roomful.shard.base import SessionRecord
from roomful.shard.message import RoomId, UserId

if TYPE_CHECKING:
    from roomful.edge.auth import Identity
    from roomful.edge.edge import Edge
    from roomful.edge.message_rates import MessageRate

__all__ = ["Connection", "Transport", "close_code_of"]

logger = logging.getLogger("roomful.edge")

BACKLOG = 64

Answer = Coroutine[Any, Any, None]


class Transport(Protocol):
    """What carries a connection: a WebSocket, or an Engine.IO session on any transport."""

    @property
    def carrier(self) -> Carrier:
        """How packets go out now; it changes with an upgrade."""

    @property
    def outbox(self) -> Outbox | None:
        """Where ready WebSocket frames go; only while the carrier is SOCKET."""

    def send(self, packets: Sequence[bytes]) -> None:
        """Send packets: Binary as binary messages, other bytes as text."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Close with *code* where the transport has codes."""

    def buffered(self) -> int:
        """Give the bytes that wait for the client to read them."""

    async def drained(self) -> None:
        """Wait until (nearly) nothing waits for the client."""

    def pause_reading(self) -> None:
        """Read no more from the client for a while, if that can be."""

    def resume_reading(self) -> None:
        """Read on."""


def close_code_of(refused: Refused) -> CloseCode:
    """Give how to close a connection that cannot sign in now: may it come back, and when?"""
    match refused.code:
        case RefusalCode.DRAINING:
            return CloseCode.RESTART
        case RefusalCode.RATE_LIMITED:
            return CloseCode.LIMIT
        case code if code.is_retryable:
            return CloseCode.TRY_AGAIN
        case _:
            return CloseCode.UNAUTHORIZED


class _NoTransport:
    """What a closed connection has for a transport: nothing goes anywhere."""

    carrier = Carrier.POLL
    outbox = None

    def send(self, packets: Sequence[bytes]) -> None:
        """Drop *packets*."""

    def close(self, code: CloseCode, reason: str) -> None:
        """It is closed."""

    def buffered(self) -> int:
        """Nothing waits."""
        return 0

    async def drained(self) -> None:
        """Nothing waits."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


NO_TRANSPORT: Transport = _NoTransport()


class Connection(ABC):
    """A client that is signed in, on any wire. Implements Listener and Timed."""

    # Mutable state: the identity (a fresh token swaps it), the record of rooms that survives the
    # connection, the task of the operation that waits and what has queued up behind it.
    __slots__ = (
        "__weakref__",
        "_backlog",
        "_is_paused",
        "_runner",
        "address",
        "can_resume",
        "credit",
        "edge",
        "identity",
        "is_closed",
        "is_due",
        "is_traced",
        "may_send",
        "rate",
        "record",
        "status",
        "tells_expiry",
        "timer_at",
        "traceparent",
        "transport",
        "wire",
    )

    def __init__(self, edge: Edge, transport: Transport, wire: Wire, address: str) -> None:
        self.edge = edge
        self.transport = transport
        self.wire = wire
        self.address = address
        self.identity: Identity | None = None
        self.record: SessionRecord | None = None
        self.rate: MessageRate | None = None
        self.credit = 0
        """Operations that were taken from the rate's buckets ahead."""
        self.may_send: dict[RoomId, RoomId] | None = None
        """
        Joined rooms in which the token itself allows to send: no need to ask again. Each by its
        name, so that of what is kept for every message the name of its room is always the same.
        """
        self.status = "online"
        self.is_closed = False
        self.can_resume = True
        self.tells_expiry = False
        self.timer_at = 0.0
        """When its timer comes (loop time); what the wheel calls before that is out of date."""
        self.traceparent: str | None = None
        """The trace that its messages are part of, when they do not say."""
        self.is_traced = False
        """Whether its next message is traced; all are while its traceparent is sampled."""
        self.is_due = False
        """Whether the first operation behind its credit is a traced one."""
        self._runner: asyncio.Task[None] | None = None
        self._backlog: deque[Callable[[], Answer | None]] | None = None
        self._is_paused = False
        edge.connections.add(self)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"{len(self.rooms)} rooms"
        return f"<{type(self).__name__} {state}>"

    # Listener -------------------------------------------------------------------------------

    @property
    def user(self) -> UserId:
        """Whose connection it is; nobody's while not signed in."""
        return self.record.user if self.record is not None else UserId("")

    @property
    def rooms(self) -> dict[RoomId, int]:
        """The joined rooms, with the shard's offset at the join."""
        return self.record.rooms if self.record is not None else {}

    @property
    def carrier(self) -> Carrier:
        """How packets go out now."""
        return self.transport.carrier

    @property
    def outbox(self) -> Outbox | None:
        """Where ready frames go, on a WebSocket."""
        return self.transport.outbox

    def queue(self, packets: Sequence[bytes]) -> None:
        """Send *packets*."""
        self.transport.send(packets)

    @property
    def is_congested(self) -> bool:
        """Whether the client reads slower than it is sent to."""
        return self.transport.buffered() > 0

    def interrupt(self, *, can_resume: bool) -> None:
        """Close, because what was sent to it is not what its rooms' shard has."""
        self.close(CloseCode.GAP, "messages were missed", can_resume=can_resume)

    def follow(self, traceparent: object) -> None:
        """Take what the client says of its trace, if there is something to be traced."""
        tracing = self.edge.tracing
        if tracing is not None and traceparent is not None:
            self.traceparent = tracing.accept(traceparent) or self.traceparent
            self.is_traced = self.traceparent is not None

    # Answers --------------------------------------------------------------------------------

    @abstractmethod
    def reply(self, token: bytes, body: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Send the ack of the operation that came with *token*; *body* is a JSON object."""

    def notify(self, event: str, body: object) -> None:
        """Send an event of the server's own to this connection."""
        self.transport.send((encode_notice(self.wire, event, msgspec.json.encode(body)),))

    @property
    def is_told_pid(self) -> bool:
        """
        Whether a pid is given to it: who gets the cursor behind each event.

        With one, stock clients take the last string of any event for a cursor. Plain JSON resumes
        by the cursor and the rooms that it names.
        """
        return self.wire is Wire.CURSOR and self.edge.settings.recovery

    def tell_cursor(self) -> None:
        """Send the cursor by itself: a client that has heard no message can resume too."""
        if packets := self._cursor_packets():
            self.transport.send(packets)

    def _cursor_packets(self) -> tuple[bytes, ...]:
        if self.wire is Wire.PLAIN or not self.edge.settings.recovery:
            return ()
        cursor = self.edge.fanout.vector.encode()
        if self.wire is Wire.CURSOR:
            return (b'42["cursor","%b"]' % cursor,)
        return (b'{"type":"cursor","cursor":"%b"}' % cursor,)

    def refuse(self, token: bytes | None, operation: str, refused: Refused) -> None:
        """Say no: by the ack if one was asked for, else by an `error` event."""
        self.edge.statistics.refusals[refused.code] += 1
        error: dict[str, object] = {
            "code": refused.code,
            "message": refused.sentence,
            "retryable": refused.code.is_retryable,
        }
        if token is not None:
            self.reply(token, msgspec.json.encode({"success": False, "error": error}))
        else:
            self.notify("error", {**error, "operation": refused.operation or operation})

    # Operations -----------------------------------------------------------------------------

    def perform(
        self, operation: Operation, token: bytes | None, attachments: Sequence[bytes] = ()
    ) -> None:
        """Do *operation* now, or behind what is under way."""
        if self._runner is None:
            if (answer := self._start(operation, token, attachments)) is not None:
                self._runner = self.edge.spawn(self._run(answer))
            return
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(partial(self._start, operation, token, attachments))
        if len(self._backlog) >= BACKLOG and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    @property
    def is_busy(self) -> bool:
        """Whether an operation is under way that later ones have to wait for."""
        return self._runner is not None

    def run(self, answer: Answer) -> None:
        """Run something of the server's own before all operations that come later."""
        if self._runner is None:
            self._runner = self.edge.spawn(self._run(answer))
        else:
            answer.close()
            raise BadPacket("an operation is under way")

    def _start(
        self, operation: Operation, token: bytes | None, attachments: Sequence[bytes]
    ) -> Answer | None:
        try:
            if self.record is None:
                raise Refused(RefusalCode.UNAUTHORIZED, "sign in first")
            answer = self.edge.handlers[type(operation)](self, operation, token, attachments)
        except Refused as refused:
            self.refuse(token, operation.wire_name, refused)
            return None
        if answer is None:
            return None
        return self._guard(answer, operation, token)

    async def _guard(self, answer: Answer, operation: Operation, token: bytes | None) -> None:
        name = operation.wire_name
        try:
            await answer
        except Refused as refused:
            self.refuse(token, name, refused)
        except Exception:
            # The top of a task: a bug must not take the client's other operations with it.
            logger.exception("operation failed", extra={"operation": name})
            self.refuse(token, name, Refused(RefusalCode.INTERNAL, "this failed on our side"))

    async def _run(self, answer: Answer) -> None:
        try:
            await answer
            while self._backlog and not self.is_closed:
                if (next_answer := self._backlog.popleft()()) is not None:
                    await next_answer
                if self._is_paused and len(self._backlog) < BACKLOG // 2:
                    self._is_paused = False
                    self.transport.resume_reading()
        finally:
            self._runner = None
            self._backlog = None
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()

    # Life -----------------------------------------------------------------------------------

    def close(self, code: CloseCode, reason: str, *, can_resume: bool = True) -> None:
        """Close from our side; with *can_resume* the client may take up its session again."""
        self.can_resume = can_resume
        self.transport.close(code, reason)

    def on_closed(self) -> None:
        """The transport is gone: leave the rooms, with grace if the client may be back."""
        if not self.is_closed:
            self.is_closed = True
            self.edge.sign_out(self)
            self.edge.connections.discard(self)
            # A timer may keep this object for a while; it need not keep the rest.
            self.transport = NO_TRANSPORT

    def on_timer(self, now: float) -> float | None:
        """Keep the session record, and enforce the token's expiry."""
        return None if self.is_closed else self.edge.sign_in.on_timer(self, now)
