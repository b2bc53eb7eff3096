"""
Passing polling requests on to the edge that has their session, over kept connections.

A poll waits at its edge for up to a ping interval, so each has a connection of its own meanwhile;
idle ones are kept for a while, a few per edge.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import httptools

from roomful.edge.peers import FORWARDED, Address

__all__ = ["Answer", "Forwarder", "Outgoing", "PeerLost", "passed_on"]

CONNECT_TIMEOUT_S = 2.0
IDLE_S = 20.0
"""Below the 30 s after which an edge closes an idle connection, so that none is lost midway."""
MAX_IDLE = 64
"""Idle connections kept per edge."""
READ_BYTES = 64 * 1024

Headers = Iterable[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1: these are about one connection, not about the message.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"date",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        FORWARDED,
    }
)


class PeerLost(Exception):
    """The other edge cannot be reached, or hung up in the middle of its answer."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request for another edge."""

    method: str
    target: bytes
    """Path and query as the client wrote them."""
    headers: Headers
    body: bytes = b""


@dataclass(slots=True)
class Answer:
    """What the other edge said; headers of the connection itself are left out."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def passed_on(headers: Headers, edge_name: str, client: str) -> list[tuple[bytes, bytes]]:
    """Give the headers that a request has at the next edge, to be added to the client's own."""
    seen = [value for name, value in headers if name == b"x-forwarded-for"]
    seen.append(client.encode("latin-1", "replace"))
    return [
        (b"x-forwarded-for", b", ".join(value for value in seen if value)),
        (FORWARDED, edge_name.encode()),
    ]


class Forwarder:
    """Sends requests to other edges and gives their answers."""

    # Mutable state: idle connections by address, each with when it became idle, oldest first; and
    # the timer that closes those that stay so.
    def __init__(self, edge_name: str, max_answer_bytes: int) -> None:
        self._edge_name = edge_name
        self._max_answer_bytes = max_answer_bytes
        self._idle: defaultdict[Address, list[tuple[float, _Link]]] = defaultdict(list)
        self._closing: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        """Connections that are kept for the next request."""
        return sum(map(len, self._idle.values()))

    async def send(
        self, to: Address, request: Outgoing, *, client: str, timeout_s: float
    ) -> Answer:
        """
        Send *request* to the edge at *to*, once.

        Args:
            client: the address that the request came from.
            timeout_s: seconds for the answer, after the connection is there.

        Raises:
            PeerLost: nobody is there, or it hung up midway.
            TimeoutError: it did not answer in time.
        """
        link = self._take(to) or await _Link.open(to)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await link.exchange(self._pack(request, client), self._max_answer_bytes)
        except BaseException:
            # What is left of the answer must not become the next one's.
            link.close()
            raise
        if link.is_reusable:
            self._keep(to, link)
        else:
            link.close()
        return answer

    def close(self) -> None:
        """Close all idle connections."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        for links in self._idle.values():
            for _, link in links:
                link.close()
        self._idle.clear()

    def _pack(self, request: Outgoing, client: str) -> bytes:
        own = tuple(request.headers)
        head = [request.method.encode(), b" ", request.target, b" HTTP/1.1\r\n"]
        for name, value in own:
            if name not in _HOP_BY_HOP and name != b"x-forwarded-for":
                head += (name, b": ", value, b"\r\n")
        for name, value in passed_on(own, self._edge_name, client):
            head += (name, b": ", value, b"\r\n")
        if request.method == "POST":
            head.append(b"content-length: %d\r\n" % len(request.body))
        return b"".join((*head, b"\r\n", request.body))

    def _take(self, to: Address) -> _Link | None:
        links = self._idle.get(to)
        since = asyncio.get_running_loop().time() - IDLE_S
        while links:
            idle_at, link = links.pop()
            if idle_at >= since and link.is_alive:
                return link
            link.close()
        self._idle.pop(to, None)
        return None

    def _keep(self, to: Address, link: _Link) -> None:
        links = self._idle[to]
        if len(links) >= MAX_IDLE:
            links.pop(0)[1].close()
        loop = asyncio.get_running_loop()
        links.append((loop.time(), link))
        if self._closing is None:
            self._closing = loop.call_later(IDLE_S, self._close_old)

    def _close_old(self) -> None:
        """Close what nobody wanted for long, also of edges that are gone and not asked again."""
        loop = asyncio.get_running_loop()
        since = loop.time() - IDLE_S
        for to, links in tuple(self._idle.items()):
            while links and links[0][0] <= since:
                links.pop(0)[1].close()
            if not links:
                del self._idle[to]
        is_empty = not self._idle
        self._closing = None if is_empty else loop.call_later(IDLE_S / 2, self._close_old)


class _Link:
    """One HTTP connection to another edge, for one exchange at a time."""

    # Mutable state: the answer that is being read, and whether all of it is there.
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = Answer()
        self._parts: list[bytes] = []
        self._is_whole = False
        self._parser: httptools.HttpResponseParser | None = None
        self.is_reusable = False

    @classmethod
    async def open(cls, to: Address) -> _Link:
        """Connect to the edge at *to*; raises PeerLost."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return cls(*await asyncio.open_connection(to.host, to.port))
        except (OSError, TimeoutError) as exc:
            raise PeerLost(f"no edge at {to}") from exc

    @property
    def is_alive(self) -> bool:
        """Whether the other side has not hung up."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def exchange(self, request: bytes, max_bytes: int) -> Answer:
        """Write *request* and read the answer; raises PeerLost."""
        self._answer, self._parts, self._is_whole = Answer(), [], False
        self.is_reusable = False
        parser = self._parser = httptools.HttpResponseParser(self)
        size = 0
        try:
            self._writer.write(request)
            await self._writer.drain()
            while not self._is_whole:
                data = await self._reader.read(READ_BYTES)
                size += len(data)
                if not data or size > max_bytes:
                    raise PeerLost("the edge hung up, or said too much")
                parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as exc:
            raise PeerLost("the connection to the edge broke") from exc
        self._answer.status = parser.get_status_code()
        self._answer.body = b"".join(self._parts)
        return self._answer

    # From the parser ------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        if name.lower() not in _HOP_BY_HOP:
            self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        """Some of the answer's body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._is_whole = True
        # Afterwards the parser has forgotten what the answer's head said.
        self.is_reusable = self._parser is not None and self._parser.should_keep_alive()
