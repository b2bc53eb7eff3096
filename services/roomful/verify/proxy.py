"""
A way to a database that can be closed: what goes through loses its connections, and gets no others.

That is what a crash and an outage look like to those who use it, and it needs no right over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final
from urllib.parse import SplitResult, urlsplit

from roomful.edge.settings import BadSettings

__all__ = ["Proxy", "proxy_to"]

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 5432
CONNECT_S: Final = 5.0
PIECE: Final = 64 << 10


class Proxy:
    """Passes connections on to a server of PostgreSQL, in a thread of its own."""

    # Mutable state: whether connections are passed on, and those that there are.
    def __init__(self, url: str) -> None:
        """
        Be a way to the server of *url*.

        Raises:
            BadSettings: it does not name one host.
        """
        self._url = urlsplit(url)
        self._host, self._server_port = _place(self._url)
        self._loop = asyncio.new_event_loop()
        self._is_open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The same database, through here; certificates are checked for its own host's name."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._url.netloc.rpartition("@")
        host = f"[{self._host}]" if ":" in self._host else self._host
        query = "&".join(filter(None, (self._url.query, f"hostaddr={HOST}")))
        return self._url._replace(netloc=f"{user}{at}{host}:{port}", query=query).geturl()

    def close(self) -> None:
        """Cut all connections, and pass no more on."""
        self._loop.call_soon_threadsafe(self._close)

    def open(self) -> None:
        """Pass connections on again."""
        self._loop.call_soon_threadsafe(setattr, self, "_is_open", True)

    def _close(self) -> None:
        self._is_open = False
        for writer in self._writers:
            writer.transport.abort()

    async def listen(self) -> None:
        """Take connections from now on; to be run on this proxy's loop, as all below."""
        self._server = await asyncio.start_server(self._pass, HOST, 0)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._is_open:
                async with asyncio.timeout(CONNECT_S):
                    to_server = await asyncio.open_connection(self._host, self._server_port)
                await self._join(reader, writer, *to_server)
        except OSError:
            pass  # The one who asked for it sees that there is no connection.
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self._writers.add(server_writer)
        try:
            if self._is_open:
                ways = (_copy(reader, server_writer), _copy(server_reader, writer))
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        finally:
            self._writers.discard(server_writer)
            server_writer.transport.abort()

    def run(self) -> None:
        """Run the loop until it is stopped."""
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """What it works on."""
        return self._loop


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await reader.read(PIECE):
            writer.write(some)
            await writer.drain()


def _place(url: SplitResult) -> tuple[str, int]:
    try:
        host, port = url.hostname, url.port or DEFAULT_PORT
    except ValueError as exc:
        raise BadSettings([f"--archive: {exc}"]) from exc
    if not host or "," in url.netloc:
        raise BadSettings(["--archive: name one host: postgresql://user:password@host/database"])
    return host, port


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """
    Run a proxy to the database of *url* for the length of a `with` block.

    Raises:
        BadSettings: as Proxy.
    """
    proxy = Proxy(url)
    proxy.loop.run_until_complete(proxy.listen())
    thread = Thread(target=proxy.run, name="proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.loop.call_soon_threadsafe(proxy.loop.stop)
        thread.join()
