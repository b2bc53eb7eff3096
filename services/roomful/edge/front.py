"""
What a TCP connection is before its first request is known: a WebSocket's or any other's.

Nearly all connections come to be WebSockets, and their whole request comes in one piece. Those go
to picows at once; an HTTP parser, and all that uvicorn keeps for a connection, would be made only
to be thrown away (a third of the price of a connection). Whatever is the least unusual about a
request goes to uvicorn's protocol as before, so this one needs to know only what is plain.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from roomful.edge.handshake import BODY_HEADERS, UpgradeRequest
from roomful.edge.http import BUSY, HEAD_LIMIT, EdgeHttpProtocol, reject
from roomful.edge.websocket import EdgeProtocol
from roomful.protocol.errors import Refused

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["FrontProtocol", "parse_plain_upgrade"]

# RFC 6455 section 4.2.1, as clients write it: no body, no folded lines, each header a token.
_PLAIN: Final = re.compile(
    rb"GET /[!-~]* HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+\r\n"
)
_CONNECTION: Final = re.compile(r"\bupgrade\b", re.IGNORECASE)
_KEY: Final = re.compile(r"[0-9A-Za-z+/]{22}==")
_UNUSUAL: Final = BODY_HEADERS | {"expect"}
_PROBE: Final = re.compile(
    rb"GET (/livez|/readyz|/metrics|/api/ws/(?:health|stats)) HTTP/1\.[01]\r\n"
)
_SHED: Final = b"POST /api/edge/shed HTTP/1.1\r\n"
_SHORT: Final = b"GET %b HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n"
SPARE: Final = 16
"""
Connections of a full edge that may say whether they are a probe, or the order to send clients away.

A full edge is alive: were its probes refused like everybody, it would be killed for having clients.
"""


class FrontProtocol(asyncio.Protocol):
    """The first protocol of each connection (uvicorn.Config.http)."""

    # Mutable state: the transport until another protocol has it, and whether the edge counts us; of
    # a full edge it does not, and the oldest in edge.spare gives way to the next.
    __slots__ = ("_address", "_arguments", "_edge", "_is_counted", "_transport")

    def __init__(self, edge: Edge, **arguments: Any) -> None:
        self._edge = edge
        self._arguments = arguments
        self._address = ""
        self._is_counted = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or refuse it."""
        self._transport = transport
        edge = self._edge
        try:
            self._address = edge.address_of(transport)
            edge.counts.enter(self._address)
        except Refused:
            if len(edge.spare) >= SPARE:
                next(iter(edge.spare)).refuse()
            edge.spare[self] = None
        else:
            self._is_counted = True
        self._arguments["server_state"].connections.add(self)
        edge.head_timer.begin(self)

    def data_received(self, data: bytes) -> None:
        """Let the one who can take the request go on with the connection."""
        if not self._is_counted:
            probe = _PROBE.match(data)
            if not ((probe or data.startswith(_SHED)) and self._is_let_in()):
                self.refuse()
                return
            if probe is not None:
                data = _SHORT % probe[1]
        transport = self._leave()
        if transport is None or transport.is_closing():
            return
        self._is_counted = False
        plain = parse_plain_upgrade(data)
        if plain is not None:
            request, end = plain
            websocket = EdgeProtocol(self._edge, self._address, request)
            websocket.begin(transport, request.head() + data[end:])
        else:
            http = EdgeHttpProtocol(self._edge, self._address, **self._arguments)
            transport.set_protocol(http)
            http.connection_made(transport)
            http.data_received(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the connection."""
        self._leave()
        if self._is_counted:
            self._is_counted = False
            self._edge.counts.leave(self._address)

    def _leave(self) -> asyncio.Transport | None:
        """The connection is another's from now on, or nobody's; gives it."""
        transport, self._transport = self._transport, None
        self._arguments["server_state"].connections.discard(self)
        self._edge.head_timer.end(self)
        self._edge.spare.pop(self, None)
        return transport

    def _is_let_in(self) -> bool:
        try:
            self._edge.counts.enter(self._address, spare=SPARE)
        except Refused:
            return False
        self._is_counted = True
        return True

    def refuse(self) -> None:
        """The edge is full."""
        self._edge.spare.pop(self, None)
        self._edge.statistics.refused_connections += 1
        self.reject(BUSY)

    def reject(self, head: bytes) -> None:
        """Answer with *head*, or that the edge is full, and hang up."""
        if self._transport is not None:
            reject(self._transport, head if self._is_counted else BUSY)

    def shutdown(self) -> None:
        """Hang up: uvicorn stops."""
        if self._transport is not None:
            self._transport.close()


def parse_plain_upgrade(data: bytes) -> tuple[UpgradeRequest, int] | None:
    """
    Parse one whole and plain request to upgrade to a WebSocket; gives also its length in bytes.

    What comes behind it belongs to the WebSocket. None: *data* does not begin with such a one.
    """
    plain = _PLAIN.match(data)
    if plain is None or plain.end() > HEAD_LIMIT:
        return None
    end = plain.end()
    line, *lines = data[: end - 4].decode("latin-1").split("\r\n")
    # A session that began on polling may be another edge's (forward.py).
    if "sid=" in line:
        return None
    headers = {}
    for one in lines:
        name, _, value = one.partition(":")
        headers[name.lower()] = value.strip(" \t")
    if (
        len(headers) != len(lines)
        or headers.get("upgrade", "").lower() != "websocket"
        or _CONNECTION.search(headers.get("connection", "")) is None
        or _KEY.fullmatch(headers.get("sec-websocket-key", "")) is None
        or not _UNUSUAL.isdisjoint(headers)
    ):
        return None
    return UpgradeRequest(line.split(" ")[1], headers), end
