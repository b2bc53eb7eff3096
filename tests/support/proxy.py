"""A TCP proxy that breaks: it resets, stops reading, or goes silent, when a test says so."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["Proxy"]

_CHUNK_BYTES = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards to one port; every connection through it can be cut or frozen."""

    # State: the two ends of each connection, whether bytes pass (an event that is set while they
    # do), and how many connections there have been.
    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        self._pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]]
        self._pairs = {}
        self._flowing = asyncio.Event()
        self._flowing.set()

    @classmethod
    @asynccontextmanager
    async def before(cls, port: int) -> AsyncIterator[Proxy]:
        """Run a proxy in front of *port* for the length of the block."""
        proxy = cls(port)
        listener = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            listener.close()
            tasks = list(proxy._pairs)
            proxy.cut()
            if tasks:
                await asyncio.wait(tasks)

    @property
    def url(self) -> str:
        """Where clients of HTTP go."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """Where clients of WebSockets go."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._pairs)

    def cut(self) -> int:
        """Reset every connection on both sides (RST, bytes on their way are lost); how many."""
        pairs = dict(self._pairs)
        for task, writers in pairs.items():
            for writer in writers:
                _reset(writer)
            task.cancel()
        return len(pairs)

    def freeze(self) -> None:
        """Let no byte pass any more and close nothing: both sides look at a half-open socket."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let bytes pass again."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        self._pairs[task] = (writer, there_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, there_writer))
                group.create_task(self._forward(there_reader, writer))
        except asyncio.CancelledError:
            pass  # cut() did it; nobody awaits this task
        finally:
            del self._pairs[task]
            writer.close()
            there_writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST instead of a FIN."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
