"""
A pipelined connection to Redis or Valkey: the hot path, past redis-py (design.md section 7).

RESP3, so that one connection can both subscribe and ask: publications come as pushes, apart from
the replies, which come in the order of the requests. A request is bytes that are ready to be
written and one callback for each reply it gets: no task, no future, no lock. call() is the same
as a coroutine, for what is not hot.

A connection is used until it is lost, and never heals: whoever uses it opens another, at the pace
of Backoff. When it is lost each callback that waits hears LostConnection, once and in order, and
then *on_lost* is called, once. A reply that does not come in *timeout_s* loses the connection:
what comes after it could not be told from what does not.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import hiredis

from roomful.cluster.topology import Address
from roomful.protocol.errors import RoomfulError

__all__ = [
    "Backoff",
    "Callback",
    "LostConnection",
    "Login",
    "Push",
    "ReplyError",
    "RespConnection",
    "SignInRefused",
    "connect",
    "pack",
]

ReplyError = hiredis.ReplyError
"""What the server refuses a command with; it comes as a reply, also inside of one."""

Callback = Callable[[Any], None]
"""
Hears a reply (bytes, int, float, bool, None, list or dict), ReplyError or LostConnection.

Must not raise.
"""

Push = Callable[[list[Any]], None]
"""Hears a push: `[b"message", channel, payload]`, `[b"subscribe", channel, count]`. As Callback."""

OUTPUT_BYTES: Final = 64 << 20
_NOTHING: Final = object()
_NO_ENTRY: Final = ("NOAUTH", "WRONGPASS", "NOPERM")


class LostConnection(RoomfulError):
    """The connection to the server is gone; whether it did what was asked of it is not known."""


class SignInRefused(LostConnection):
    """The server takes neither this user nor this password, or they may not do even that."""


class Login(NamedTuple):
    """How to sign in to a server."""

    username: str = "default"
    password: str | None = None
    tls: ssl.SSLContext | None = None


def pack(*words: bytes | str | int) -> bytes:
    """Give a command as it goes over the wire; several may be joined."""
    # Its annotation means a tuple of one.
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return packed


@dataclass(slots=True)
class Backoff:
    """Seconds to wait before trying again: doubled each time, with a full jitter."""

    first_s: float = 0.05
    most_s: float = 2.0
    _failures: int = 0

    def next_s(self) -> float:
        """Give how long to wait after one more failure."""
        most: float = min(self.most_s, self.first_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Not a secret; edges shall not come back in step.
        return most * (0.25 + 0.75 * random.random())  # noqa: S311

    def reset(self) -> None:
        """It worked."""
        self._failures = 0


class RespConnection(asyncio.Protocol):
    """One connection; made by connect()."""

    # Mutable state: what waits for replies (oldest first, with the time by which they are due),
    # the timer that watches the oldest, and whether the connection is lost.
    def __init__(self, timeout_s: float, on_push: Push | None, on_lost: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._on_push = on_push
        self._on_lost = on_lost
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[tuple[Callback, float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._why = "closed"
        self.is_lost = False
        self.received_bytes = 0
        """Bytes that came since the connection was made."""

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else f"{len(self._waiting)} replies due"
        return f"<RespConnection {state}>"

    @property
    def why(self) -> str:
        """Why it was lost."""
        return self._why

    # Asking ---------------------------------------------------------------------------------

    def send(self, commands: bytes, *callbacks: Callback) -> None:
        """
        Write *commands* (pack(), joined); *callbacks*, one for each reply, hear in order.

        On a lost connection they hear LostConnection in this call. SUBSCRIBE and the like have no
        reply, but pushes.
        """
        transport = self._transport
        if self.is_lost or transport is None:
            for callback in callbacks:
                callback(LostConnection(f"not connected: {self._why}"))
            return
        due = self._loop.time() + self._timeout_s
        for callback in callbacks:
            self._waiting.append((callback, due))
        if self._watch is None and callbacks:
            self._watch = self._loop.call_at(due, self._look)
        transport.write(commands)
        if transport.get_write_buffer_size() > OUTPUT_BYTES:
            self.abort("the server does not read")

    async def call(self, *words: bytes | str | int) -> Any:
        """
        Send one command and give its reply.

        Raises:
            ReplyError: the server refused it.
            LostConnection: no reply came.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()

        def settle(reply: Any) -> None:
            if answer.cancelled():
                return
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

        self.send(pack(*words), settle)
        return await answer

    def _look(self) -> None:
        """Lose the connection if the oldest reply is overdue."""
        self._watch = None
        if not self._waiting:
            return
        due = self._waiting[0][1]
        if due <= self._loop.time():
            self.abort(f"no reply in {self._timeout_s:g} s")
        else:
            self._watch = self._loop.call_at(due, self._look)

    def buffered(self) -> int:
        """Give the bytes that are written and not sent."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self, why: str = "closed") -> None:
        """Lose the connection now: nothing that is called back later is a reply."""
        if self._transport is not None:
            self._transport.abort()
        self._lose(why)

    # asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        # uvloop sets it, asyncio too; a proxy's socket type may not have it.
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Hand out what came."""
        if self.is_lost:
            return
        self.received_bytes += len(data)
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if type(reply) is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                elif waiting:
                    waiting.popleft()[0](reply)
                else:
                    self.abort("a reply that nobody asked for")
                if self.is_lost:
                    return
        except hiredis.ProtocolError as exc:
            self.abort(f"not RESP: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer or the network ended it."""
        self._lose(str(exc) if exc is not None else "the server closed the connection")

    def _lose(self, why: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self._why = why
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        waiting, self._waiting = self._waiting, deque()
        for callback, _ in waiting:
            callback(LostConnection(why))
        self._on_lost()


async def connect(
    address: Address,
    *,
    timeout_s: float,
    login: Login | None = None,
    on_push: Push | None = None,
    on_lost: Callable[[], None] | None = None,
) -> RespConnection:
    """
    Open a connection that is signed in and speaks RESP3.

    Args:
        timeout_s: seconds for the whole opening, and later for each reply.
        on_lost: called once when the connection is lost later, whoever ended it; not when it
            could not be opened.

    Raises:
        LostConnection: it could not be opened in time.
        SignInRefused: the server said no.
    """
    login = login or Login()
    is_open = False

    def lost() -> None:
        if is_open and on_lost is not None:
            on_lost()

    connection: RespConnection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: RespConnection(timeout_s, on_push, lost),
                address.host,
                address.port,
                ssl=login.tls,
            )
            words: list[str | int] = ["HELLO", 3]
            if login.password is not None:
                words += ["AUTH", login.username, login.password]
            await connection.call(*words)
    except (OSError, UnicodeError, ReplyError, LostConnection) as exc:
        if connection is not None:
            connection.abort()
        if isinstance(exc, ReplyError) and str(exc).startswith(_NO_ENTRY):
            who = f"refuses the user {login.username}" if login.password else "wants a sign-in"
            raise SignInRefused(f"{address}: {who} ({exc})") from exc
        raise LostConnection(f"{address}: {str(exc) or 'no answer in time'}") from exc
    except BaseException:
        if connection is not None:
            connection.abort()
        raise
    is_open = True
    return connection
