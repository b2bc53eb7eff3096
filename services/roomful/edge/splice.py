"""
Carrying a WebSocket to the edge that has its session: bytes go both ways as they come.

A client on polling upgrades through whatever edge the load balancer picks. That one sends the
request on to the owner and from then on is a wire: it reads from one side only while the other
side's buffer is low, so a slow client is slow for its owner too, which closes it by its own rules.
When either side ends, so does the other. Heartbeats go through, and their timeouts at both ends
also end what was cut off silently.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from roomful.edge.forward import CONNECT_TIMEOUT_S
from roomful.protocol.engineio import BadHandshake, HandshakeFault

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["Splice"]

ANSWER_TIMEOUT_S = 10.0
"""How long the owner may take for the first byte of its answer to the upgrade."""
CLOSE_WAIT_S = 5.0
"""How long a side may take to read what is left for it."""
BUFFER_BYTES = 64 * 1024
"""What is held for each side before the other is read no more."""


class _Side(asyncio.Protocol):
    """One of the two connections."""

    # Mutable state: its transport while it is open, the other side, and whether anything came.
    def __init__(self, splice: Splice) -> None:
        self._splice = splice
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.has_spoken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin on *transport*."""
        # What uvloop calls a TCPTransport is no subclass of it.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Pass *data* to the other side."""
        self.has_spoken = True
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """This side reads slowly: read no more from the other."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side has caught up."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and so is the splice."""
        self.transport = None
        self._splice.close()

    def finish(self) -> None:
        """Close once what was written is read, or after CLOSE_WAIT_S."""
        if (transport := self.transport) is not None:
            transport.close()
            asyncio.get_running_loop().call_later(CLOSE_WAIT_S, transport.abort)


class Splice:
    """A client's connection and one to its session's edge, joined."""

    # Mutable state: the two sides, and whether it is over.
    def __init__(self, edge: Edge, address: str, transport: asyncio.Transport) -> None:
        """Take over *transport*, which is counted for *address* until it is gone."""
        self._edge = edge
        self._address = address
        self._client = _Side(self)
        self._owner = _Side(self)
        self._is_over = False
        # Nothing can be lost before the other side is there: it is not read.
        transport.pause_reading()
        transport.set_protocol(self._client)
        self._client.connection_made(transport)
        edge.passing.add(self)
        edge.statistics.splices += 1

    async def run(self, owner: str, request: bytes) -> None:
        """Connect to the edge *owner*, send it *request* and join the two."""
        loop = asyncio.get_running_loop()
        address = await self._edge.peers.find(owner)
        if address is None:
            self._refuse()
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, _ = await loop.create_connection(lambda: self._owner, *address)
        except (OSError, TimeoutError):
            self._edge.peers.forget(owner)
            self._refuse()
            return
        client = self._client.transport
        if self._is_over or client is None:
            transport.close()
            return
        self._client.other, self._owner.other = self._owner, self._client
        transport.write(request)
        client.resume_reading()
        loop.call_later(ANSWER_TIMEOUT_S, self._check)

    def _check(self) -> None:
        if not self._owner.has_spoken:
            self._refuse()

    def _refuse(self) -> None:
        """Answer as an edge that knows no such session, and hang up."""
        if self._client.transport is not None and not self._is_over:
            self._edge.statistics.forwards_failed += 1
            refused = BadHandshake(HandshakeFault.UNKNOWN_SID)
            head = (
                f"HTTP/1.1 {refused.status} Bad Request\r\ncontent-type: application/json\r\n"
                f"content-length: {len(refused.body)}\r\nconnection: close\r\n\r\n"
            )
            self._client.transport.write(head.encode() + refused.body)
        self.close()

    def close(self) -> None:
        """End both sides."""
        if self._is_over:
            return
        self._is_over = True
        self._edge.passing.discard(self)
        self._edge.counts.leave(self._address)
        self._client.finish()
        self._owner.finish()
        self._client.other = self._owner.other = None
