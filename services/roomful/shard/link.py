"""
A connection to a shard's primary that is kept up, wherever that is.

What is lost with a connection is the user's to do again, when it hears *on_up*.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from roomful.cluster.topology import Address
from roomful.shard.resp import (
    Backoff,
    Login,
    LostConnection,
    ReplyError,
    RespConnection,
    connect,
)

__all__ = ["Link"]

logger = logging.getLogger("roomful.shard")


class Link:
    """Keeps a connection to the address of retarget(), while run() runs."""

    # Mutable state: where to, the connection, the one that is being opened, and the pace of trying.
    def __init__(
        self,
        purpose: str,
        *,
        timeout_s: float,
        login: Login | None = None,
        on_up: Callable[[], None] | None = None,
    ) -> None:
        """
        Make a link that is down.

        Args:
            purpose: for logs and for CLIENT LIST on the server.
            timeout_s: for the opening and for each reply.
            on_up: called when there is a new connection.
        """
        self._purpose = purpose
        self._timeout_s = timeout_s
        self._login = login
        self._on_up = on_up
        self._backoff = Backoff()
        self._changed = asyncio.Event()
        self._opening: asyncio.Future[RespConnection] | None = None
        self.address: Address | None = None
        self.connection: RespConnection | None = None
        """The one that is open; None while there is none."""
        self.failures = 0
        """Tries that failed and connections that were lost, since the start."""
        self.why = "not connected yet"
        """Why there is no connection."""
        self.since = float("-inf")
        """Since when there is a connection, or none; by the loop's time."""

    def __repr__(self) -> str:
        state = "down" if self.connection is None else "up"
        return f"<Link {self._purpose} to {self.address}, {state}>"

    def retarget(self, address: Address, why: str = "the shard is elsewhere") -> None:
        """Connect to *address* from now on, anew if it is another."""
        if address != self.address:
            self.address = address
            self.reconnect(why)

    def reconnect(self, why: str) -> None:
        """End the connection, if there is one, and try at once."""
        self._backoff.reset()
        self._changed.set()
        if self.connection is not None:
            self.connection.abort(why)
        elif self._opening is not None:
            # It may hang for as long as a reply may take: that server is not asked any more.
            self._opening.cancel()

    async def run(self) -> None:
        """Keep a connection, for ever; to be cancelled."""
        while True:
            self._changed.clear()
            if self.address is not None:
                try:
                    await self._serve(self.address)
                except LostConnection as exc:
                    if self.why != str(exc):
                        self.why = str(exc)
                        logger.warning(
                            "no connection", extra={"link": self._purpose, "why": self.why}
                        )
                self.failures += 1
            try:
                async with asyncio.timeout(self._backoff.next_s() if self.address else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _serve(self, address: Address) -> None:
        ended = asyncio.Event()

        loop = asyncio.get_running_loop()

        def on_lost() -> None:
            if self.connection is not None:
                self.connection, self.since = None, loop.time()
            ended.set()

        # Of its own, so that reconnect() can end it.
        opening = self._opening = asyncio.ensure_future(self._open(address, on_lost))
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.cancel()
            # It may be there already, and nobody else knows of it.
            opening.add_done_callback(_abandon)
            raise
        finally:
            self._opening = None
        if opening.cancelled():
            raise LostConnection("the shard is elsewhere")
        connection = opening.result()
        try:
            if connection.is_lost or address != self.address:
                return
            self.connection, self.since = connection, loop.time()
            self._backoff.reset()
            self.why = "connected"
            if self._on_up is not None:
                self._on_up()
            await ended.wait()
        finally:
            connection.abort()

    async def _open(self, address: Address, on_lost: Callable[[], None]) -> RespConnection:
        connection = await connect(
            address, timeout_s=self._timeout_s, login=self._login, on_lost=on_lost
        )
        try:
            await connection.call("CLIENT", "SETNAME", self._purpose)
        except ReplyError as exc:
            # A server that is busy with a script lets clients in, and does nothing for them.
            connection.abort()
            raise LostConnection(f"{address}: {exc}") from exc
        except BaseException:
            connection.abort()
            raise
        return connection

    async def call(self, *words: bytes | str | int) -> Any:
        """
        Ask the server; nothing is sent while there is no connection.

        Raises:
            ReplyError: the server refused it.
            LostConnection: no reply came.
        """
        if self.connection is None:
            raise LostConnection(self.why)
        return await self.connection.call(*words)


def _abandon(opening: asyncio.Future[RespConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
