"""
Engine.IO v4 codec: packets, polling payloads, the open packet and the handshake's query.

Bytes in, values out; no state (that is session.py) and no I/O. A text packet is its type digit
and its data; a binary packet has no digit, its type is always MESSAGE.

Source: engine.io-protocol v4.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from roomful.protocol.errors import BadPacket, RoomfulError

__all__ = [
    "BadHandshake",
    "Binary",
    "Handshake",
    "HandshakeFault",
    "PacketType",
    "Pace",
    "decode_payload",
    "encode_open",
    "encode_payload",
    "packet_type",
    "parse_handshake",
]

SEPARATOR = b"\x1e"


class PacketType(IntEnum):
    """The digit in front of a text packet."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


class Binary(bytes):
    """The data of a binary packet, where text packets are plain bytes with their digit."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """What the open packet tells the client about time and size."""

    ping_interval_ms: int = 25_000
    ping_timeout_ms: int = 20_000
    max_payload: int = 1_000_000
    """Bytes of one packet, and of one polling body."""


class HandshakeFault(IntEnum):
    """The `code` of the JSON body of a refused HTTP request, as in the reference server."""

    UNKNOWN_TRANSPORT = 0
    UNKNOWN_SID = 1
    BAD_HANDSHAKE_METHOD = 2
    BAD_REQUEST = 3
    FORBIDDEN = 4
    UNSUPPORTED_PROTOCOL_VERSION = 5


_SENTENCES = {
    HandshakeFault.UNKNOWN_TRANSPORT: "Transport unknown",
    HandshakeFault.UNKNOWN_SID: "Session ID unknown",
    HandshakeFault.BAD_HANDSHAKE_METHOD: "Bad handshake method",
    HandshakeFault.BAD_REQUEST: "Bad request",
    HandshakeFault.FORBIDDEN: "Forbidden",
    HandshakeFault.UNSUPPORTED_PROTOCOL_VERSION: "Unsupported protocol version",
}


class BadHandshake(RoomfulError):
    """An HTTP request that opens or continues no session; answered with *status* and `body`."""

    def __init__(self, fault: HandshakeFault, sentence: str | None = None) -> None:
        self.fault = fault
        self.sentence = sentence or _SENTENCES[fault]
        super().__init__(self.sentence)

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return 403 if self.fault is HandshakeFault.FORBIDDEN else 400

    @property
    def body(self) -> bytes:
        """The JSON body of the answer: {code, message}."""
        return msgspec.json.encode({"code": int(self.fault), "message": self.sentence})


@dataclass(frozen=True, slots=True)
class Handshake:
    """The query of a request under the Engine.IO path, checked."""

    transport: str
    """`polling` or `websocket`."""
    sid: str | None
    is_strict_arity: bool
    """
    The client's event handlers take exactly the event's arguments, so no cursor may be appended.

    python-engineio alone writes `transport` before `EIO` in the query; the clients that know
    recovery (engine.io-client) write it after. Source: docs/adr/0003-who-gets-the-cursor.md
    """
    traceparent: str | None = None
    """The trace that the client says it is in, unchecked."""


def parse_handshake(query: Mapping[str, str], traceparent: str | None = None) -> Handshake:
    """
    Check the query of a request.

    Args:
        traceparent: of the request's header; one in the query is the client's own, and counts.

    Raises:
        BadHandshake: another protocol version than 4, or an unknown transport.
    """
    transport = query.get("transport")
    if transport not in ("polling", "websocket"):
        raise BadHandshake(HandshakeFault.UNKNOWN_TRANSPORT)
    if query.get("EIO") != "4":
        raise BadHandshake(HandshakeFault.UNSUPPORTED_PROTOCOL_VERSION)
    first = next(name for name in query if name in ("transport", "EIO"))
    traceparent = query.get("traceparent", traceparent)
    return Handshake(transport, query.get("sid"), first == "transport", traceparent)


def encode_open(sid: str, *, upgrades: bool, pace: Pace) -> bytes:
    """Give the open packet; its JSON has exactly the five keys of the protocol."""
    return b"0" + msgspec.json.encode(
        {
            "sid": sid,
            "upgrades": ["websocket"] if upgrades else [],
            "pingInterval": pace.ping_interval_ms,
            "pingTimeout": pace.ping_timeout_ms,
            "maxPayload": pace.max_payload,
        }
    )


def packet_type(packet: bytes) -> PacketType:
    """
    Give the type of a text packet.

    Raises:
        BadPacket: empty, or the first byte is not a digit from 0 to 6.
    """
    if not packet or not 0x30 <= packet[0] <= 0x36:
        raise BadPacket("not an Engine.IO packet")
    return PacketType(packet[0] - 0x30)


def decode_payload(body: bytes) -> list[bytes]:
    r"""
    Split the body of a polling POST into packets: bytes with a digit, or Binary.

    Raises:
        BadPacket: an empty packet, or bad base64 behind `b`.

    Source: engine.io-protocol v4, "HTTP long-polling": packets are joined by \x1e, and a binary
    packet is base64 behind the letter b.
    """
    packets: list[bytes] = []
    for part in body.split(SEPARATOR):
        if part[:1] == b"b":
            try:
                packets.append(Binary(binascii.a2b_base64(part[1:], strict_mode=True)))
            except binascii.Error as exc:
                raise BadPacket("a binary packet is not base64") from exc
        else:
            packet_type(part)
            packets.append(part)
    return packets


def encode_payload(packets: Iterable[bytes]) -> bytes:
    """Join *packets* into the body of a poll's answer."""
    return SEPARATOR.join(
        b"b" + b64encode(packet) if isinstance(packet, Binary) else packet for packet in packets
    )
