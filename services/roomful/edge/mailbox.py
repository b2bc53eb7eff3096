"""What waits for a polling client, and the poll that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from roomful.protocol.engineio import Binary

__all__ = ["Mailbox"]


class Mailbox:
    """What waits for a polling client, bounded in bytes, and the poll that waits for it."""

    __slots__ = ("_limit_bytes", "_packets", "_poll", "_was_read", "size")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._packets: list[bytes] = []
        self._poll: asyncio.Future[None] | None = None
        self._was_read = asyncio.Event()
        self.size = 0

    def put(self, packets: Sequence[bytes]) -> bool:
        """Add *packets* and wake the poll; False when the client is too slow."""
        self._packets += packets
        self.size += sum(map(len, packets))
        self.wake()
        return self.size <= self._limit_bytes

    def wake(self) -> None:
        """Let the waiting poll return with what there is."""
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    @property
    def has_mail(self) -> bool:
        """Whether a poll would return at once."""
        return bool(self._packets)

    @property
    def is_polled(self) -> bool:
        """Whether a poll waits now."""
        return self._poll is not None

    async def wait(self) -> None:
        """Wait until there is something, or somebody calls wake()."""
        if self._packets:
            return
        self._poll = asyncio.get_running_loop().create_future()
        try:
            await self._poll
        finally:
            self._poll = None

    def take(self, max_bytes: int) -> list[bytes]:
        """Give what fits into one answer: as many packets as *max_bytes* hold, at least one."""
        size = count = 0
        for packet in self._packets:
            size += (4 * len(packet) // 3 + 4 if isinstance(packet, Binary) else len(packet)) + 1
            if size > max_bytes and count:
                break
            count += 1
        packets, self._packets = self._packets[:count], self._packets[count:]
        self.size -= sum(map(len, packets))
        self._was_read.set()
        return packets

    async def read(self) -> None:
        """Wait until the client has taken something."""
        self._was_read.clear()
        await self._was_read.wait()
