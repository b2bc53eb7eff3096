"""The carrier of a connection whose peer a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from roomful.edge.room import Carrier
from roomful.protocol.engineio import Binary
from roomful.protocol.errors import CloseCode

__all__ = ["FakeTransport", "split_frames"]


def split_frames(data: bytes) -> list[bytes]:
    """Give the messages of unmasked WebSocket frames, without close and ping frames."""
    messages = []
    while data:
        opcode, length, head = data[0] & 15, data[1], 2
        if length == 126:
            length, head = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, head = int.from_bytes(data[2:10], "big"), 10
        payload, data = data[head : head + length], data[head + length :]
        assert len(payload) == length
        if opcode in (1, 2):
            messages.append(Binary(payload) if opcode == 2 else payload)
    return messages


class FakeTransport:
    """Implements Transport: keeps packets until the client reads them."""

    # Mutable state: what is unread, what a batch has for it that is not written yet, what
    # carries it, and who waits for it to be read.
    def __init__(self, carrier: Carrier = Carrier.SOCKET) -> None:
        self.unread: list[bytes] = []
        self.carrier = carrier
        self.closed_with: CloseCode | None = None
        self.out: bytes | None = None
        self.on_closed: Callable[[], None] = lambda: None
        self._drained: list[asyncio.Future[None]] = []

    @property
    def outbox(self) -> FakeTransport | None:
        """Where ready frames go."""
        return self if self.carrier is Carrier.SOCKET else None

    def flush(self) -> None:
        """Write what a batch had."""
        out, self.out = self.out, None
        if out is not None and self.closed_with is None:
            self.unread += split_frames(out)

    def send(self, packets: Sequence[bytes]) -> None:
        """Send packets, behind what a batch has already."""
        if self.closed_with is None:
            was_batch = self.out is not None
            self.flush()
            self.unread += packets
            self.out = b"" if was_batch else None

    def ping(self) -> None:
        """Nothing: time does not pass here."""

    def close(self, code: CloseCode, _reason: str) -> None:
        """Close, once."""
        if self.closed_with is None:
            self.closed_with = code
            self._wake()
            self.on_closed()

    def buffered(self) -> int:
        """Give what is unread."""
        return sum(map(len, self.unread))

    async def drained(self) -> None:
        """Wait until all is read."""
        while self.unread and self.closed_with is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
            await waiter

    def take(self, count: int) -> list[bytes]:
        """Read *count* packets."""
        taken, self.unread = self.unread[:count], self.unread[count:]
        if not self.unread:
            self._wake()
        return taken

    def _wake(self) -> None:
        waiters, self._drained = self._drained, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""
