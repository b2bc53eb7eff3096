"""
A WebSocket's opening handshake, without what picows does for its log and for answers of any kind.

Six socket options are set or asked for, each by a Python socket made for it; the answer is put
together header by header and written by itself. Together that was a sixth of what a connection
costs (200 us of CPU, then 167; `make bench ARGS="--only f"`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import picows

__all__ = ["BODY_HEADERS", "SILENT", "Accepted", "Underlying", "UpgradeRequest"]


BODY_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})
"""A request with one of these is for no WebSocket: it may have a body."""


class UpgradeRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a WebSocket: GET and HTTP/1.1, without a body."""

    target: str
    """Path and query as the client wrote them, latin-1."""
    headers: Mapping[str, str]
    """By their names in lower case; of a name that came twice the first."""

    def head(self) -> bytes:
        """Give the head for picows: it parses what was parsed already, so only what it asks for."""
        key = self.headers.get("sec-websocket-key", "")
        return (
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key.encode("latin-1")
        )


class _Silent:
    """
    A logger that says nothing: bad frames and lost peers are the client's doing, and are counted.

    Not of `logging`: picows makes a child of what is a Logger for each connection, and a
    LoggerAdapter costs a microsecond for each thing that is not said.
    """

    def isEnabledFor(self, _level: int) -> bool:
        """Say no."""
        return False

    def log(self, _level: int, message: str, *arguments: object) -> None:
        """Say nothing."""

    def info(self, message: str, *arguments: object) -> None:
        """Say nothing."""

    debug = warning = error = exception = info


SILENT: Final = _Silent()


class _Options:
    """The socket of a transport: uvloop has set its options (TCP_NODELAY) at its accept."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Give the file descriptor."""
        return self._descriptor

    def setsockopt(self, _level: int, _name: int, _value: int) -> None:
        """It is set."""

    def getsockopt(self, _level: int, _name: int) -> int:
        """Nobody reads it: it is for the log."""
        return 0


class Underlying:
    """A transport as picows sees it, which holds back what is written until it is `released`."""

    # Mutable state: what was written so far; None: it is released.
    __slots__ = ("_early", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport: Final = transport
        self._early: bytes | None = b""

    def released(self) -> bytes:
        """Give what was held back, which is the caller's to write; from now on nothing is."""
        early, self._early = self._early or b"", None
        return early

    def write(self, data: bytes) -> None:
        """Write *data*, or hold it back."""
        if self._early is None:
            self.transport.write(data)
        else:
            self._early += data

    def writelines(self, parts: list[bytes]) -> None:
        """Write *parts*."""
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        """Give the bytes that the peer has not read."""
        return self.transport.get_write_buffer_size()

    def close(self) -> None:
        """Write what was held back (a refusal), and hang up."""
        if early := self.released():
            self.transport.write(early)
        self.transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self.transport.abort()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Give what is more than a line in a log."""
        if name == "socket":
            return _Options(self.transport.get_extra_info("socket").fileno())
        if name == "ssl_object":
            return self.transport.get_extra_info(name, default)
        return default


class Accepted(picows.WSUpgradeResponse):
    """The 101 (RFC 6455 section 4.2.2)."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: str | None) -> None:
        self._protocol = protocol
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        self.headers: dict[str, str] = {}  # type: ignore[assignment]  # picows puts one there

    def to_bytes(self) -> bytearray:
        """Give the head; picows has put the key's answer into the headers."""
        more = "" if self._protocol is None else f"Sec-WebSocket-Protocol: {self._protocol}\r\n"
        answer = self.headers["Sec-WebSocket-Accept"]
        return bytearray(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (more.encode(), answer.encode())
        )
