"""
What is fuzzed: each target takes any bytes, and raises only if a promise of the code is broken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import msgspec

from roomful.cluster.cursor import BadCursor, decode_cursor, encode_cursor
from roomful.protocol import engineio, jsonws, socketio
from roomful.protocol.errors import BadPacket, ClientFault, Refused
from roomful.protocol.frames import close_frame, frames
from roomful.protocol.operations import Operation, parse_event
from roomful.protocol.session import SocketLimits, SocketSession

__all__ = ["TARGETS"]


def fuzz_payload(data: bytes) -> None:
    """A polling body decodes to packets that encode to what decodes the same."""
    try:
        packets = engineio.decode_payload(data)
    except BadPacket:
        return
    assert engineio.decode_payload(engineio.encode_payload(packets)) == packets
    assert frames(packets)


def fuzz_session(data: bytes) -> None:
    """A session that is sent anything gives values and faults; what it keeps is bounded."""
    session = SocketSession(SocketLimits(attachments=3, namespaces=3, payload_bytes=200))
    session.receive_text(b"0")
    session.accept("/")
    for part in data.split(b"\xff"):
        try:
            if part[:1] == b"\xfe":
                session.receive_binary(part)
            else:
                session.receive_text(part.decode(errors="ignore").encode())
        except ClientFault:
            return


def fuzz_operation(data: bytes) -> None:
    """An operation, by either wire, is what every reader of JSON reads in it."""
    for body in (data, b'["message",{"roomId":"r","content":%b}]' % data):
        try:
            operation = parse_event(body)
        except (BadPacket, Refused):
            continue
        check_operation(operation)
    try:
        operation, ref = jsonws.parse(data)
    except jsonws.RefusedWithRef as refused:
        ref = refused.ref
    except BadPacket:
        return
    else:
        check_operation(operation)
    if ref is not None:
        assert json.loads(jsonws.encode_ack(ref, b'{"success":true}'))["success"] is True


def check_operation(operation: Operation) -> None:
    """What an operation carries unread can be read."""
    for name in operation.__struct_fields__:
        value = getattr(operation, name)
        if isinstance(value, msgspec.Raw):
            json.loads(bytes(value).decode(), parse_int=str)


def fuzz_attachments(data: bytes) -> None:
    """What passes the check of placeholders can be inlined, wherever it goes."""
    count = data[0] % 4 if data else 0
    content = data[1:]
    try:
        socketio.check_placeholders(content, count)
    except (BadPacket, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return
    blobs = [b"%d" % number for number in range(count)]
    inlined = socketio.inline_attachments(b'{"content":%b}' % content, blobs)
    assert inlined.count(b"$binary") >= count


def fuzz_cursor(data: bytes) -> None:
    """A cursor is refused, or says the same when it is written again."""
    text = data.decode("latin-1")
    try:
        positions = decode_cursor(text)
    except BadCursor:
        return
    assert decode_cursor(encode_cursor(positions)) == positions


def fuzz_close_reason(data: bytes) -> None:
    """A close frame's reason is valid UTF-8 and fits."""
    frame = close_frame(4000, data.decode(errors="surrogateescape"))
    assert len(frame) == 2 + frame[1] <= 127
    frame[4:].decode()


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "payload": fuzz_payload,
    "session": fuzz_session,
    "operation": fuzz_operation,
    "attachments": fuzz_attachments,
    "cursor": fuzz_cursor,
    "close-reason": fuzz_close_reason,
}
