"""What members hear, on each wire: every packet parsed by a parser that is not ours."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.strategies import JSON_VALUES, JsonValue
from roomful.edge.encoding import Wire, encode_cast, encode_entry, encode_notice, page_json
from roomful.edge.envelopes import build_direct, build_event, build_message
from roomful.protocol.engineio import Binary
from roomful.shard.base import Page
from roomful.shard.message import Cast, Entry, Envelope, RoomId, UserId

CURSOR = b"a.1f-b.2"
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
WIRES = st.sampled_from(Wire)
SOCKET_WIRES = st.sampled_from([Wire.CURSOR, Wire.PLAIN])
EVENTS = st.sampled_from(["message", "direct-message", "score", "ü "])
BLOBS = st.lists(st.binary(max_size=6), max_size=3)


def make_entry(
    event: str, content: JsonValue, blobs: list[bytes], *, room: str = "r", user: str = "alice"
) -> tuple[Entry, Any]:
    """Give a stored entry, with its blobs behind its content, and that content."""
    value: Any = content
    if blobs:
        value = [content, *({"_placeholder": True, "num": n} for n in range(len(blobs)))]
    place, sender, raw = RoomId(room), UserId(user), msgspec.Raw(json.dumps(value).encode())
    if event == "message":
        envelope = build_message(place, sender, raw, "id-1", blobs)
    elif event == "direct-message":
        envelope = build_direct(place, sender, UserId("bob"), raw, "id-1", blobs)
    else:
        envelope = build_event(place, sender, event, raw, "id-1", blobs)
    return Entry(31, envelope), json.loads(json.dumps(value))


def inlined(value: Any, blobs: list[bytes]) -> Any:
    """Give what JSON readers see in the place of *value*."""
    if not blobs:
        return value
    return [value[0], *({"$binary": base64.b64encode(blob).decode()} for blob in blobs)]


def fields_of(entry: Entry, event: str, content: Any) -> dict[str, Any]:
    """Give the members of an event as docs/wire.md has them."""
    envelope = entry.envelope
    common = {"id": "id-1", "userId": envelope.user, "timestamp": envelope.timestamp, "offset": 31}
    if event == "message":
        return {**common, "roomId": envelope.room, "content": content}
    if event == "direct-message":
        return {**common, "to": "bob", "content": content}
    return {**common, "roomId": envelope.room, "event": event, "data": content}


@given(wire=SOCKET_WIRES, event=EVENTS, content=JSON_VALUES, blobs=BLOBS, room=NAMES, user=NAMES)
def test_socketio_members(
    wire: Wire, event: str, content: JsonValue, blobs: list[bytes], room: str, user: str
) -> None:
    """An event with one argument, with the cursor behind it if wanted, and its attachments."""
    entry, value = make_entry(event, content, blobs, room=room, user=user)
    text, *binary = encode_entry(wire, entry, CURSOR)
    assert binary == blobs
    assert all(type(packet) is Binary for packet in binary)
    head = f"45{len(blobs)}-" if blobs else "42"
    assert text.decode().startswith(head + "[")
    name, argument, *more = json.loads(text[len(head) :])
    fields = fields_of(entry, event, value)
    assert name == event
    assert argument == (fields if event in ("message", "direct-message") else value)
    assert more == ([CURSOR.decode()] if wire is Wire.CURSOR else [])


@given(event=EVENTS, content=JSON_VALUES, blobs=BLOBS, room=NAMES, user=NAMES)
def test_plain_json_members(
    event: str, content: JsonValue, blobs: list[bytes], room: str, user: str
) -> None:
    """One object with the cursor as a field, and binary inside it as base64."""
    entry, value = make_entry(event, content, blobs, room=room, user=user)
    (text,) = encode_entry(Wire.JSON, entry, CURSOR)
    kind = event if event in ("message", "direct-message") else "event"
    fields = fields_of(entry, event, inlined(value, blobs))
    assert json.loads(text) == {"type": kind, "cursor": CURSOR.decode(), **fields}


@given(
    items=st.lists(st.tuples(EVENTS, JSON_VALUES, BLOBS), max_size=3),
    following=st.none() | st.integers(0, 2**53),
)
def test_pages_of_history(
    items: list[tuple[str, JsonValue, list[bytes]]], following: int | None
) -> None:
    """Each entry as plain JSON members heard it, without type and cursor."""
    made = [(event, blobs, *make_entry(event, content, blobs)) for event, content, blobs in items]
    page = Page([entry for _, _, entry, _ in made], following)
    assert json.loads(b"{%b}" % page_json(page)) == {
        "messages": [
            fields_of(entry, event, inlined(value, blobs)) for event, blobs, entry, value in made
        ],
        "next": following,
    }


@given(wire=WIRES, event=NAMES, body=st.dictionaries(NAMES, JSON_VALUES, max_size=3))
def test_events_that_are_not_stored(wire: Wire, event: str, body: dict[str, JsonValue]) -> None:
    """They end in an object: a stock client takes any string at the end for a cursor."""
    body.pop("type", None)
    data = json.dumps(body, separators=(",", ":")).encode()
    packet = encode_cast(wire, Cast(RoomId("r"), event, data))
    assert packet == encode_notice(wire, event, data)
    expected = json.loads(data)
    if wire is Wire.JSON:
        assert json.loads(packet) == {"type": event, **expected}
    else:
        assert packet.startswith(b"42")
        assert json.loads(packet[2:]) == [event, expected]


@pytest.mark.parametrize("wire", [Wire.CURSOR, Wire.PLAIN, Wire.JSON])
def test_numbers_keep_their_digits(wire: Wire) -> None:
    """What goes through unread is not rounded on the way."""
    digits = b"[12345678901234567890123,0.1000000000000000055511151231257827,1e999]"
    envelope = build_message(RoomId("r"), UserId("u"), msgspec.Raw(digits), None)
    (packet,) = encode_entry(wire, Entry(1, envelope), CURSOR)
    assert digits in packet


def test_attachments_are_stored_as_plain_bytes() -> None:
    """A log encodes bytes; what a polling client's payload is decoded to is a kind of its own."""
    content = msgspec.Raw(b'{"_placeholder":true,"num":0}')
    envelope = build_message(RoomId("r"), UserId("u"), content, None, (Binary(b"\x00\xff"),))

    assert [type(one) for one in envelope.attachments] == [bytes]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(envelope), type=Envelope) == envelope
