"""
WebSocket frames as a server writes them: unmasked, whole, encoded once and sent to many.

Source: RFC 6455 section 5.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from roomful.protocol.engineio import Binary

__all__ = ["PING", "close_frame", "frame", "frames"]

PING: Final = b"\x89\x00"
_head_of_16_bits = struct.Struct(">BBH").pack
_SHORT_TEXT: Final = tuple(bytes((0x81, length)) for length in range(126))


def frame(message: bytes) -> bytes:
    """Give the frame of one message: binary for Binary, text (valid UTF-8) for other bytes."""
    length = len(message)
    if type(message) is bytes:
        if length < 126:
            return _SHORT_TEXT[length] + message
        if length < 1 << 16:
            return _head_of_16_bits(0x81, 126, length) + message
    opcode = 0x82 if type(message) is Binary else 0x81
    if length < 126:
        return b"%c%c%b" % (opcode, length, message)
    if length < 1 << 16:
        return b"%c\x7e%b%b" % (opcode, length.to_bytes(2, "big"), message)
    return b"%c\x7f%b%b" % (opcode, length.to_bytes(8, "big"), message)


def frames(messages: Iterable[bytes]) -> bytes:
    """Give the frames of *messages*, joined."""
    return b"".join(map(frame, messages))


def close_frame(code: int, reason: str) -> bytes:
    """Give a close frame; *reason* is cut to what a control frame holds, between characters."""
    text = reason.encode(errors="replace")[:123].decode(errors="ignore")
    payload = code.to_bytes(2, "big") + text.encode()
    return b"\x88%c%b" % (len(payload), payload)
