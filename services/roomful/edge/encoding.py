"""
What members hear, as bytes: one envelope for three wires.

* CURSOR: Socket.IO with the cursor as one more string argument (recovery).
* PLAIN: Socket.IO without it, for clients whose handlers take exactly the event's arguments.
* JSON: plain JSON WebSocket, the cursor as a field.

`message` and `direct-message` come as a JSON object that still lacks its end, so that offset and
cursor are appended without parsing (shard/message.py, Envelope.body).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache

import msgspec

from roomful.protocol import jsonws, socketio
from roomful.protocol.engineio import Binary
from roomful.shard.base import Page
from roomful.shard.message import OPEN_EVENTS, Cast, Entry

__all__ = ["Wire", "encode_cast", "encode_entry", "encode_notice", "page_json"]


class Wire(IntEnum):
    """What a connection wants to hear."""

    CURSOR = 0
    PLAIN = 1
    JSON = 2


# Members are looked up once: in Python 3.11 that costs more than the comparison.
_CURSOR, _JSON = Wire.CURSOR, Wire.JSON


@lru_cache(maxsize=4096)
def _quoted(text: str) -> bytes:
    return msgspec.json.encode(text)


def encode_entry(wire: Wire, entry: Entry, cursor: bytes) -> Sequence[bytes]:
    """Give the packets of a stored entry: one, or with attachments one and those."""
    envelope = entry.envelope
    if wire is _JSON:
        return (_entry_json(entry, b',"cursor":"%b"' % cursor),)
    body = envelope.body
    if envelope.event == "message" and not envelope.attachments:
        # Nearly all that is sent, in one piece.
        if wire is _CURSOR:
            return (b'42["message",%b,"offset":%d},"%b"]' % (body, entry.offset, cursor),)
        return (b'42["message",%b,"offset":%d}]' % (body, entry.offset),)
    if envelope.event in OPEN_EVENTS:
        body = b'%b,"offset":%d}' % (body, entry.offset)
    tail = b',"%b"]' % cursor if wire is Wire.CURSOR else b"]"
    if not envelope.attachments:
        return (b"42[%b,%b%b" % (_quoted(envelope.event), body, tail),)
    event = b"[%b,%b%b" % (_quoted(envelope.event), body, tail)
    attachments = envelope.attachments
    text = socketio.encode_event(event, attachments=len(attachments))
    return (text, *map(Binary, attachments))


def _entry_json(entry: Entry, more: bytes = b"") -> bytes:
    """Give an entry as the JSON object that plain JSON members hear, *more* at its end."""
    envelope = entry.envelope
    if envelope.event in OPEN_EVENTS:
        body = envelope.body
        if envelope.attachments:
            body = socketio.inline_attachments(body + b"}", envelope.attachments)[:-1]
        return b'{"type":"%b",%b,"offset":%d%b}' % (
            envelope.event.encode(),
            body[1:],
            entry.offset,
            more,
        )
    return b'{"type":"event",%b%b}' % (_event_fields(entry), more)


def _event_fields(entry: Entry) -> bytes:
    envelope = entry.envelope
    head = msgspec.json.encode(
        {
            "id": envelope.id,
            "roomId": envelope.room,
            "userId": envelope.user,
            "event": envelope.event,
        }
    )
    data = socketio.inline_attachments(envelope.body, envelope.attachments)
    return b'%b,"data":%b,"timestamp":%d,"offset":%d' % (
        head[1:-1],
        data,
        envelope.timestamp,
        entry.offset,
    )


def page_json(page: Page) -> bytes:
    """Give the members `messages` and `next` of a history answer, without the braces."""
    messages: list[bytes] = []
    for entry in page.entries:
        envelope = entry.envelope
        if envelope.event in OPEN_EVENTS:
            body = b'%b,"offset":%d}' % (envelope.body, entry.offset)
            messages.append(socketio.inline_attachments(body, envelope.attachments))
        else:
            messages.append(b"{%b}" % _event_fields(entry))
    return b'"messages":[%b],"next":%b' % (b",".join(messages), msgspec.json.encode(page.next))


def encode_cast(wire: Wire, cast: Cast) -> bytes:
    """Give the packet of an event that is not stored; it ends in an object, never a string."""
    return encode_notice(wire, cast.event, cast.body)


def encode_notice(wire: Wire, event: str, body: bytes) -> bytes:
    """Give the packet of an event for one connection; *body* is a JSON object."""
    if wire is Wire.JSON:
        return jsonws.encode_event(event, body)
    return b"42[%b,%b]" % (_quoted(event), body)
