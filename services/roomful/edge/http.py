"""
uvicorn's HTTP protocol, with bounds: on the time and size of a request's head, on the time of its
body, on the number of connections and on how fast they come.

uvicorn waits for a head or a body as long as the peer likes and keeps a head however long it gets;
a timer over all waiting connections ends that (slow-loris), for each request of a connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from roomful.edge.forward import passed_on
from roomful.edge.handshake import BODY_HEADERS, UpgradeRequest
from roomful.edge.splice import Splice
from roomful.edge.websocket import EdgeProtocol

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = [
    "BUSY",
    "HEAD_LIMIT",
    "AwaitsHead",
    "BodyTimer",
    "EdgeHttpProtocol",
    "HeadTimer",
    "reject",
]

HEAD_LIMIT = 32 * 1024
"""Bytes of a request's head: a token of 8 KiB fits, with room for cookies."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\n"
_BAD = b"HTTP/1.1 400 Bad Request\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\n"
_END = b"content-length: 0\r\nconnection: close\r\n\r\n"


def reject(transport: asyncio.Transport, head: bytes) -> None:
    """Answer with *head* (status line and headers so far) and hang up."""
    if not transport.is_closing():
        transport.write(head + _END)
        transport.close()


class AwaitsHead(Protocol):
    """A connection whose request's head has not come yet."""

    def reject(self, head: bytes) -> None:
        """Answer with *head* and hang up."""


class HeadTimer:
    """Closes connections whose request's head does not come in time."""

    # Mutable state: connections that wait for a head, by their deadline, the oldest first.
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waiting: dict[AwaitsHead, float] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, protocol: AwaitsHead) -> None:
        """Expect a head on *protocol*."""
        # Asking which loop runs is a system call (getpid).
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self._waiting[protocol] = loop.time() + self._timeout_s
        if self._handle is None:
            self._handle = loop.call_later(self._timeout_s, self._expire)

    def end(self, protocol: AwaitsHead) -> None:
        """The head came, or the connection is gone."""
        self._waiting.pop(protocol, None)

    def _expire(self) -> None:
        self._handle = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for protocol, deadline in tuple(self._waiting.items()):
            if deadline > now:
                self._handle = loop.call_at(deadline, self._expire)
                return
            del self._waiting[protocol]
            protocol.reject(_TIMEOUT)


class BodyTimer(HeadTimer):
    """Closes connections whose request's body does not come whole in time."""

    # So that whoever reads a body, with the same limit, can say by itself that it was too slow.
    GRACE_S = 1.0

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s + self.GRACE_S)


class EdgeHttpProtocol(HttpToolsProtocol):
    """A connection that is not plainly a WebSocket's (front.py); the edge counts it already."""

    # Mutable state: bytes of the head so far (-1: it came, and its body not whole), and whether the
    # edge counts us.
    def __init__(self, edge: Edge, address: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._edge = edge
        self._head_bytes = 0
        self._address = address
        self._is_counted = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_timers()
        self._uncount()
        super().connection_lost(exc)

    def _end_timers(self) -> None:
        self._edge.head_timer.end(self)
        self._edge.body_timer.end(self)

    def _uncount(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._edge.counts.leave(self._address)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head above HEAD_LIMIT is refused."""
        if self._head_bytes == 0:
            # uvicorn's keep-alive timer has watched over the connection until now.
            self._edge.head_timer.begin(self)
        if self._head_bytes >= 0:
            end = data.find(b"\r\n\r\n")
            self._head_bytes += len(data) if end < 0 else end
            if self._head_bytes > HEAD_LIMIT:
                self.reject(_TOO_LARGE)
                return
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade() and self._is_bare():
                # uvicorn drops what came in one piece with the request.
                self._hand_over(data[upgrade.args[0] :])
            else:
                self.reject(_BAD)
        except httptools.HttpParserError:
            self.reject(_BAD)

    def on_headers_complete(self) -> None:
        """The head came; the body has its own time, also when the answer does not wait for it."""
        self._head_bytes = -1
        self._edge.head_timer.end(self)
        self._edge.body_timer.begin(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request came whole: what comes now is the next one's head."""
        self._head_bytes = 0
        self._edge.body_timer.end(self)
        super().on_message_complete()

    def _is_bare(self) -> bool:
        """Whether the request is as RFC 6455 section 4.1 has it."""
        has_body = any(name.decode("latin-1") in BODY_HEADERS for name, _ in self.headers)
        return (self.scope["method"], self.scope["http_version"], has_body) == ("GET", "1.1", False)

    def _hand_over(self, rest: bytes) -> None:
        """Hand the connection over to a WebSocket, which is counted until it is gone."""
        self._end_timers()
        self.connections.discard(self)
        if not self._is_counted:
            return
        self._is_counted = False
        if b"sid=" in self.url and (owner := self._edge.upgrade.owner_of(self.url, self.headers)):
            self._splice(owner, rest)
        else:
            headers: dict[str, str] = {}
            for name, value in self.headers:
                headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
            request = UpgradeRequest(self.url.decode("latin-1"), headers)
            EdgeProtocol(self._edge, self._address, request).begin(
                self.transport, request.head() + rest
            )
        # The parser and this object know each other, and collections are rare: what an idle
        # WebSocket does not need must not wait for one.
        self.parser = self.flow = self.transport = None  # type: ignore[assignment]

    def _splice(self, owner: str, rest: bytes) -> None:
        """Hand the connection over to the edge that has the session it names."""
        head = [b"GET ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            head += (name, b": ", value, b"\r\n")
        client = self.client[0] if self.client else ""
        for name, value in passed_on(self.headers, self._edge.peers.name, client):
            head += (name, b": ", value, b"\r\n")
        splice = Splice(self._edge, self._address, self.transport)
        self._edge.spawn(splice.run(owner, b"".join((*head, b"\r\n", rest))))

    def reject(self, head: bytes) -> None:
        """Answer with *head* and hang up; only hang up where the request has an answer already."""
        has_answer = self._head_bytes < 0 and self.cycle is not None and self.cycle.response_started
        if has_answer:
            self.transport.close()
        else:
            reject(self.transport, head)
