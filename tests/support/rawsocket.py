"""HTTP and WebSocket byte by byte, for peers that do what no library would let them do."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum

from support.deadline import DEADLINE_S, within

__all__ = ["Opcode", "RawSocket", "Response", "build_frame", "close_payload"]

_GONE = (ConnectionError, asyncio.IncompleteReadError)


class Opcode(IntEnum):
    """RFC 6455, section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


def build_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """
    Build one frame.

    Args:
        reserved: the three reserved bits, 0 to 7.
        length: what the header claims; the payload's length when None.
    """
    claimed = len(payload) if length is None else length
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if claimed < 126:
        head += bytes([mask_bit | claimed])
    elif claimed < 1 << 16:
        head += bytes([mask_bit | 126]) + claimed.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + claimed.to_bytes(8, "big")
    # A mask of zeros is allowed, and leaves the payload readable in a dump.
    return head + (b"\x00" * 4 if masked else b"") + payload


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """Build the payload of a close frame."""
    return code.to_bytes(2, "big") + reason


class RawSocket:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def dial(cls, port: int) -> AsyncIterator[RawSocket]:
        """Connect; the connection is aborted at the end of the block."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    @classmethod
    @asynccontextmanager
    async def websocket(cls, port: int, path: str) -> AsyncIterator[RawSocket]:
        """Connect and do a correct WebSocket handshake."""
        async with cls.dial(port) as raw:
            response = await raw.upgrade(path)
            assert response.status == 101, response
            yield raw

    async def send(self, data: bytes) -> None:
        """Send bytes; that the peer does not want them any more is for the reading side to see."""
        try:
            self.writer.write(data)
            await within(self.writer.drain())
        except ConnectionError:
            pass

    async def request(self, method: str, path: str, *headers: str, body: bytes = b"") -> Response:
        """Send a request with exactly these headers (and a Host) and return the response."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
        await self.send("\r\n".join(lines).encode("latin-1") + body)
        return await self.response()

    async def upgrade(self, path: str, *headers: str) -> Response:
        """Ask for a WebSocket, with more *headers*."""
        key = base64.b64encode(os.urandom(16)).decode()
        return await self.request(
            "GET",
            path,
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *headers,
        )

    async def response(self) -> Response:
        """Read one HTTP response (Content-Length or chunked)."""
        head = (await within(self.reader.readuntil(b"\r\n\r\n"))).decode("latin-1")
        status_line, *lines = head.rstrip().split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        status = int(status_line.split()[1])
        if headers.get("transfer-encoding") == "chunked":
            return Response(status, headers, await self._read_chunks())
        size = int(headers.get("content-length", "0"))
        return Response(status, headers, await within(self.reader.readexactly(size)))

    async def _read_chunks(self) -> bytes:
        body = b""
        while size := int((await within(self.reader.readline())).split(b";")[0], 16):
            body += (await within(self.reader.readexactly(size + 2)))[:-2]
        await within(self.reader.readline())
        return body

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame of the server: opcode and payload."""
        first, second = await within(self.reader.readexactly(2))
        assert second & 0x80 == 0, "a server does not mask"
        size = second
        if second == 126:
            size = int.from_bytes(await within(self.reader.readexactly(2)), "big")
        elif second == 127:
            size = int.from_bytes(await within(self.reader.readexactly(8)), "big")
        return first & 0x0F, await within(self.reader.readexactly(size))

    async def close_code(self, *, seconds: float = DEADLINE_S) -> int | None:
        """Read frames until the close frame and return its code; None if there was none."""
        async with asyncio.timeout(seconds):
            try:
                while True:
                    opcode, payload = await self.frame()
                    if opcode == Opcode.CLOSE:
                        return int.from_bytes(payload[:2], "big")
            except _GONE:
                return None

    async def wait_eof(self, *, seconds: float = DEADLINE_S) -> bytes:
        """Read until the server has closed the connection, and return what it said."""
        said = b""
        async with asyncio.timeout(seconds):
            try:
                while data := await self.reader.read(65536):
                    said += data
            except ConnectionError:
                pass
        return said
