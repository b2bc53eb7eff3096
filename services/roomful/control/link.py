"""
One connection to a server, on which everything goes that the controller asks of it or orders.

It is never opened again by itself: when it is gone, so is the lead over the server that it
carried (lead.py), and what was decided with it must be decided anew.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis
from redis.exceptions import ResponseError

from roomful.cluster.topology import Address
from roomful.protocol.errors import RoomfulError

__all__ = ["BadCertificates", "Credentials", "Link", "ServerUnreachable"]

READ_BYTES: Final = 65_536
NAMES: Final = ("USERNAME", "PASSWORD")
Words = tuple[str | int | bytes, ...]


class ServerUnreachable(RoomfulError):
    """A server did not answer in time, or closed the connection; an order may have arrived."""

    def __init__(self, address: Address, why: str) -> None:
        super().__init__(f"{address}: {why}")
        self.address = address
        self.why = why


class BadCertificates(RoomfulError):
    """The certificates that are to be trusted cannot be read."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to sign in to the servers."""

    password: str | None = field(default=None, repr=False)
    username: str | None = None
    previous: str | None = field(default=None, repr=False)
    """The password before this one: a server may not know yet that it was changed."""
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    """How to speak TLS to them; None: without."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Credentials:
        """
        Read those of a command: ROOMFUL_REDIS_USERNAME, _PASSWORD, and _TLS_CA for TLS.

        Raises:
            BadCertificates: the file cannot be read.
        """
        name, password = (environment.get(f"ROOMFUL_REDIS_{one}") for one in NAMES)
        authorities = environment.get("ROOMFUL_REDIS_TLS_CA")
        tls = None
        if authorities:
            try:
                tls = ssl.create_default_context(cafile=authorities)
            except (OSError, ssl.SSLError) as exc:
                raise BadCertificates(f"ROOMFUL_REDIS_TLS_CA {authorities}: {exc}") from exc
        return cls(password or None, name or None, tls=tls)


class Link:
    """
    A connection to one server; commands go out in the order in which they are given.

    All methods raise ServerUnreachable, and the link is closed by then.
    """

    # Mutable state: the streams, the reply parser, and whether it is over.
    def __init__(
        self,
        address: Address,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        timeout_s: float,
    ) -> None:
        self.address = address
        self._reader, self._writer = streams
        self._timeout_s = timeout_s
        self._replies = hiredis.Reader(protocolError=ResponseError, replyError=ResponseError)
        self._turn = asyncio.Lock()
        self.is_closed = False

    @classmethod
    async def open(cls, address: Address, credentials: Credentials, timeout_s: float) -> Link:
        """Connect to *address* and sign in."""
        try:
            async with asyncio.timeout(timeout_s):
                streams = await asyncio.open_connection(
                    address.host, address.port, ssl=credentials.tls
                )
        except UnicodeError as exc:
            raise ServerUnreachable(address, "no host can have this name") from exc
        except OSError as exc:  # TimeoutError is one
            # asyncio puts words of its own into strerror.
            why = os.strerror(exc.errno) if exc.errno else f"no connection in {timeout_s:g} s"
            if isinstance(exc, ssl.SSLError):
                why = f"no TLS: {exc.reason or exc}"
            if isinstance(exc, socket.gaierror):  # its numbers are others
                why = exc.strerror or why
            raise ServerUnreachable(address, why) from exc
        link = cls(address, streams, timeout_s)
        await link._sign_in(credentials)
        return link

    async def _sign_in(self, credentials: Credentials) -> None:
        name = (credentials.username,) if credentials.username else ()
        tried = (credentials.password, credentials.previous)
        refusal: ResponseError | None = None
        for password in (one for one in tried if one is not None):
            try:
                await self.execute_command("AUTH", *name, password)
            except ResponseError as exc:
                refusal = refusal or exc
            else:
                return
        if refusal is not None:
            self.close()
            who = f" as {name[0]}" if name else ""
            raise ServerUnreachable(self.address, f"sign-in{who} failed: {refusal}") from refusal

    async def execute_command(self, *words: str | int | bytes) -> Any:
        """
        Give the reply of one command.

        Raises:
            redis.exceptions.ResponseError: the server refused it.
        """
        (reply,) = await self.pipeline([words])
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Words], *, patience_s: float = 0.0) -> list[Any]:
        """
        Give the reply of each command, refusals among them, in one round trip.

        Args:
            patience_s: how long the server may take on purpose, as WAIT does.
        """
        if self.is_closed:
            raise ServerUnreachable(self.address, "the connection is closed")
        # The annotation of hiredis allows one word only.
        packed = b"".join(hiredis.pack_command(words) for words in commands)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(self._timeout_s + patience_s), self._turn:
                self._writer.write(packed)
                return [await self._read() for _ in commands]
        except TimeoutError as exc:
            self.close()
            raise ServerUnreachable(self.address, "no answer in time") from exc
        except (OSError, EOFError) as exc:
            self.close()
            raise ServerUnreachable(self.address, str(exc) or "connection lost") from exc
        except asyncio.CancelledError:
            # Replies that nobody waits for would be taken for those of the next command.
            self.close()
            raise

    def close(self) -> None:
        """Be done; repeating it does nothing."""
        self.is_closed = True
        self._writer.transport.abort()

    async def _read(self) -> Any:
        while (reply := self._replies.gets()) is False:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError("the server closed the connection")
            self._replies.feed(data)
        return reply
