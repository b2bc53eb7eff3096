"""
Socket.IO v5 over WebSocket as bytes: what a load client has to write and read, and no more.

A library would cost the load's core more than the server costs its own. So frames are built and
taken apart here by hand: `FrameReader` reads all that a server says (for the connections that
check), `MarkerCounter` counts deliveries in the raw stream without taking it apart (for the
others). The second is exact, not an estimate; `tests/test_wire.py` holds it to the first.
"""

from __future__ import annotations

import os
from base64 import b64encode
from functools import cache

import msgspec

__all__ = [
    "CONNECTED",
    "MESSAGE_MARK",
    "OPEN",
    "PING",
    "PONG_FRAME",
    "FrameReader",
    "MarkerCounter",
    "ProtocolFault",
    "build_connect",
    "build_event",
    "build_frame",
    "build_upgrade",
    "encode",
]

OPEN = b"0{"  # Engine.IO v4, "open" packet
PING = b"2"  # Engine.IO v4, heartbeat: the server asks, the client answers "3"
CONNECTED = b"40{"  # Socket.IO v5, CONNECT reply of the main namespace

# The beginning of a delivery. Inside a JSON string its quotes would be escaped, and no WebSocket
# header is as long: so it occurs in a server's stream once per delivery and nowhere else.
MESSAGE_MARK = b'["message",'

_PING_FRAME = b"\x81\x01" + PING
_LONGEST_MARK = max(len(MESSAGE_MARK), len(_PING_FRAME))
_RIGHT_BRACKET = 0x5D  # ends each Socket.IO packet; in neither mark

encode = msgspec.json.Encoder().encode

_MASK = bytes(byte | 1 for byte in os.urandom(4))  # never zero: `ws` does not unmask a zero key


class ProtocolFault(Exception):
    """The server said something that a client of this protocol must not hear."""


@cache
def _frame_of(size: int) -> tuple[bytes, int]:
    """Give what stands before a payload of *size* bytes, and what masks it."""
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 1 << 16:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return head + _MASK, int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")


def build_frame(payload: bytes) -> bytes:
    """Build the client's WebSocket text frame around *payload*, masked."""
    size = len(payload)
    head, pad = _frame_of(size)
    return head + (int.from_bytes(payload, "big") ^ pad).to_bytes(size, "big")


PONG_FRAME = build_frame(b"3")


def build_upgrade(host: str, port: int) -> bytes:
    """Build the HTTP request that opens Engine.IO v4 on a WebSocket."""
    key = b64encode(os.urandom(16)).decode()
    return (
        f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def build_connect(token: str, pid: str | None = None, offset: str | None = None) -> bytes:
    """Build the frame of CONNECT to the main namespace with *token*; *pid* at *offset* resumes."""
    auth = {"token": token} if pid is None else {"pid": pid, "offset": offset, "token": token}
    return build_frame(b"40" + encode(auth))


def build_event(name: str, argument: object, ack_id: int) -> bytes:
    """Build the frame of event *name* with one *argument*, asking for an ack."""
    return build_frame(b"42%d%b" % (ack_id, encode([name, argument])))


class FrameReader:
    """
    Takes a server's stream apart into the payloads of its text frames, however it was cut.

    Nothing is read behind a close frame. Other control frames, fragments and binary frames are a
    ProtocolFault: no server needs them here.
    """

    __slots__ = ("_rest", "is_closed")

    def __init__(self) -> None:
        self._rest = b""
        self.is_closed = False
        """Whether a close frame came."""

    @property
    def is_between_frames(self) -> bool:
        """Whether all that was fed so far has been given out."""
        return not self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; give the payloads that they complete, in order."""
        if self._rest:
            data = self._rest + data
        # Nearly always: one frame and all of it.
        elif (size := len(data)) > 4 and data[0] == 0x81:
            if data[1] == 126 and (data[2] << 8 | data[3]) == size - 4:
                return [data[4:]]
            if data[1] < 126 and data[1] == size - 2:
                return [data[2:]]
        payloads: list[bytes] = []
        position, end = 0, len(data)
        while end - position >= 2:
            if data[position] != 0x81:
                if data[position] == 0x88:
                    self.is_closed = True
                    position = end
                    break
                raise ProtocolFault(f"unexpected frame {data[position : position + 40]!r}")
            size, start = data[position + 1], position + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                if end < start + width:
                    break
                size, start = int.from_bytes(data[start : start + width], "big"), start + width
            if end < start + size:
                break
            position = start + size
            payloads.append(data[start:position])
        self._rest = data[position:]
        return payloads


class MarkerCounter:
    """
    Counts deliveries and heartbeats in a server's stream without taking it apart.

    Exact for any cut of the stream: a mark over a cut is found in the kept tail plus the next
    bytes. Most reads end where a packet ends, with a bracket that is in no mark: no tail then.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def count(self, buffer: bytearray, size: int) -> tuple[int, int]:
        """Count (deliveries, heartbeats) that the first *size* bytes of *buffer* complete."""
        if not self._tail and buffer[size - 1] == _RIGHT_BRACKET:
            # Looking for the one byte first takes a twentieth of looking for the whole heartbeat.
            has_heartbeat = buffer.find(b"\x01", 0, size) >= 0
            heartbeats = buffer.count(_PING_FRAME, 0, size) if has_heartbeat else 0
            return buffer.count(MESSAGE_MARK, 0, size), heartbeats
        return self._count_over_cut(self._tail + buffer[:size])

    def _count_over_cut(self, data: bytes | bytearray) -> tuple[int, int]:
        # What follows the last whole mark, and is too short to hold another one, is the next tail.
        ends = [
            data.rfind(mark) + len(mark) for mark in (MESSAGE_MARK, _PING_FRAME) if mark in data
        ]
        rest = bytes(data[max(*ends, len(data) - _LONGEST_MARK + 1, 0) :])
        self._tail = b"" if rest.endswith(b"]") else rest
        return data.count(MESSAGE_MARK), data.count(_PING_FRAME)
