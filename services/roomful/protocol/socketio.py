"""
Socket.IO v5 codec: packets with their namespace, ack id and attachments.

A packet is `<type>[<attachments>-][<namespace>,][<ack id>][JSON]`; the bytes here are without
the Engine.IO digit on the way in, and with it on the way out (`42[...]`), because what goes out
is built once and sent many times.

Source: socket.io-protocol v5, "Packet encoding".
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import msgspec

from roomful.protocol.errors import BadPacket

__all__ = [
    "MAX_DEPTH",
    "ROOT",
    "Packet",
    "PacketType",
    "check_placeholders",
    "decode",
    "encode_ack",
    "encode_connect",
    "encode_connect_error",
    "encode_disconnect",
    "encode_event",
    "inline_attachments",
]

ROOT: Final = "/"
MAX_DEPTH: Final = 100
"""Levels of a content with attachments."""


class PacketType(IntEnum):
    """The digit behind the Engine.IO MESSAGE digit."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One packet, its JSON not looked at yet."""

    type: PacketType
    namespace: str
    ack_id: bytes | None
    """Digits, as they came: they only go back."""
    body: bytes
    attachments: int = 0
    """How many binary packets follow and belong to this one."""


_HEAD = re.compile(
    rb"(?P<type>[0-6])(?:(?P<count>[0-9]{1,6})-)?(?:(?P<nsp>/[^,]{0,255}),)?(?P<ack>[0-9]{1,18})?"
)
# `1/admin` and `0/admin`: without a body the comma may be missing.
_BARE = re.compile(rb"(?P<type>[01])(?P<nsp>/[^,]{0,255})")


def decode(payload: bytes) -> Packet:
    """
    Read the head of a packet; *payload* is valid UTF-8.

    Raises:
        BadPacket: unknown type, a head that is none, or a body of the wrong kind: an object for
            CONNECT, an array for events and acks, none for DISCONNECT.
    """
    if bare := _BARE.fullmatch(payload):
        return Packet(PacketType(int(bare["type"])), bare["nsp"].decode(), None, b"")
    head = _HEAD.match(payload)
    if head is None:
        raise BadPacket("not a Socket.IO packet")
    kind = PacketType(int(head["type"]))
    body = payload[head.end() :]
    is_binary = kind in (PacketType.BINARY_EVENT, PacketType.BINARY_ACK)
    if is_binary != (head["count"] is not None):
        raise BadPacket("an attachment count belongs to binary packets, and only to them")
    namespace = (head["nsp"] or b"/").decode()
    packet = Packet(kind, namespace, head["ack"], body, int(head["count"] or 0))
    _check_body(packet)
    return packet


def _check_body(packet: Packet) -> None:
    first = packet.body[:1]
    if packet.type is PacketType.CONNECT:
        if packet.ack_id is not None or first not in (b"", b"{"):
            raise BadPacket("the body of CONNECT is an object")
    elif packet.type is PacketType.DISCONNECT:
        if packet.ack_id is not None or first:
            raise BadPacket("DISCONNECT has no body")
    elif packet.type is PacketType.CONNECT_ERROR:
        raise BadPacket("CONNECT_ERROR is not for clients to send")
    elif first != b"[":
        raise BadPacket("the body of an event or ack is an array")
    elif packet.ack_id is None and packet.type in (PacketType.ACK, PacketType.BINARY_ACK):
        raise BadPacket("an ack needs its id")


def _namespace(namespace: str) -> bytes:
    return b"" if namespace == ROOT else namespace.encode() + b","


def encode_connect(sid: str, pid: str | None = None, namespace: str = ROOT) -> bytes:
    """Give the CONNECT reply; with *pid* the client may resume later (JS clients from 4.6)."""
    body = {"sid": sid} if pid is None else {"sid": sid, "pid": pid}
    return b"40" + _namespace(namespace) + msgspec.json.encode(body)


def encode_connect_error(sentence: str, namespace: str = ROOT) -> bytes:
    """Give the CONNECT_ERROR reply."""
    return b"44" + _namespace(namespace) + msgspec.json.encode({"message": sentence})


def encode_disconnect(namespace: str = ROOT) -> bytes:
    """Give DISCONNECT: the client leaves *namespace* and does not come back by itself."""
    return b"41" + _namespace(namespace).removesuffix(b",")


def encode_event(body: bytes, *, attachments: int = 0, namespace: str = ROOT) -> bytes:
    """Give an event packet around *body*, a JSON array that begins with the event's name."""
    head = b"45%d-" % attachments if attachments else b"42"
    return head + _namespace(namespace) + body


def encode_ack(ack_id: bytes, body: bytes, *, attachments: int = 0, namespace: str = ROOT) -> bytes:
    """Give the ack packet for *ack_id* around *body*, a JSON array."""
    head = b"46%d-" % attachments if attachments else b"43"
    return head + _namespace(namespace) + ack_id + body


def check_placeholders(content: bytes, attachments: int) -> None:
    """
    Check that *content* names each of its *attachments* exactly once.

    A placeholder with a number out of range makes stock clients drop their connection, so it
    must not reach them. Nor may it be nested deeper than MAX_DEPTH: readers inline attachments
    on whatever stack they have.

    Raises:
        BadPacket: it does not.
    """
    numbers: list[int] = []
    _walk(msgspec.json.decode(content), numbers.append, MAX_DEPTH)
    if sorted(numbers) != list(range(attachments)):
        raise BadPacket("the placeholders do not fit the attachments")


def inline_attachments(content: bytes, attachments: Sequence[bytes]) -> bytes:
    """Give *content* with each placeholder as `{"$binary": "<base64>"}`, for JSON-only readers."""
    if not attachments:
        return content

    def inline(number: int) -> dict[str, str]:
        return {"$binary": b64encode(attachments[number]).decode()}

    return msgspec.json.encode(_walk(msgspec.json.decode(content), inline, 2 * MAX_DEPTH))


def _walk(value: Any, replace: Any, depth: int) -> Any:
    if not depth:
        raise BadPacket("nested too deep")
    if isinstance(value, list):
        return [_walk(item, replace, depth - 1) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            number = value.get("num")
            if type(number) is not int or number < 0:
                raise BadPacket("a placeholder has no number")
            return replace(number)
        return {key: _walk(item, replace, depth - 1) for key, item in value.items()}
    return value
