"""Socket.IO v5: the codec against the examples of the protocol document, and against anything."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.strategies import ANY_TEXT, JSON_VALUES, NOT_QUITE, JsonValue
from roomful.protocol import socketio
from roomful.protocol.errors import BadPacket
from roomful.protocol.socketio import (
    MAX_DEPTH,
    Packet,
    PacketType,
    check_placeholders,
    decode,
    inline_attachments,
)

# socket.io-protocol v5, "Packet types".
TYPES = {
    "connect": 0,
    "disconnect": 1,
    "event": 2,
    "ack": 3,
    "connect_error": 4,
    "binary_event": 5,
    "binary_ack": 6,
}
P = PacketType
PLACEHOLDER = b'{"_placeholder":true,"num":0}'

# "Packet encoding": every example that a client may send, and what the grammar allows besides.
PACKETS = [
    pytest.param(b"0", Packet(P.CONNECT, "/", None, b""), id="CONNECT"),
    pytest.param(b'0{"a":1}', Packet(P.CONNECT, "/", None, b'{"a":1}'), id="CONNECT with auth"),
    pytest.param(b"0/admin,", Packet(P.CONNECT, "/admin", None, b""), id="CONNECT /admin"),
    pytest.param(b"0/admin", Packet(P.CONNECT, "/admin", None, b""), id="CONNECT without comma"),
    pytest.param(
        b'0/admin,{"token":"123"}',
        Packet(P.CONNECT, "/admin", None, b'{"token":"123"}'),
        id="CONNECT /admin with auth",
    ),
    pytest.param(
        b"0/a?x=1&y=2,", Packet(P.CONNECT, "/a?x=1&y=2", None, b""), id="namespace with a query"
    ),
    pytest.param(
        "0/ü,".encode(), Packet(P.CONNECT, "/ü", None, b""), id="namespace that is no ASCII"
    ),
    pytest.param(b'2["foo"]', Packet(P.EVENT, "/", None, b'["foo"]'), id="EVENT"),
    pytest.param(
        b'2/admin,["bar"]', Packet(P.EVENT, "/admin", None, b'["bar"]'), id="EVENT in /admin"
    ),
    pytest.param(b'2/,["bar"]', Packet(P.EVENT, "/", None, b'["bar"]'), id="EVENT in / named"),
    pytest.param(b'212["foo"]', Packet(P.EVENT, "/", b"12", b'["foo"]'), id="EVENT with ack"),
    pytest.param(b'20["foo"]', Packet(P.EVENT, "/", b"0", b'["foo"]'), id="EVENT with ack 0"),
    pytest.param(b'2/admin,13["foo"]', Packet(P.EVENT, "/admin", b"13", b'["foo"]'), id="both"),
    pytest.param(
        b'51-["baz",%b]' % PLACEHOLDER,
        Packet(P.BINARY_EVENT, "/", None, b'["baz",%b]' % PLACEHOLDER, 1),
        id="BINARY_EVENT",
    ),
    pytest.param(
        b'52-/admin,["baz",1]',
        Packet(P.BINARY_EVENT, "/admin", None, b'["baz",1]', 2),
        id="BINARY_EVENT in /admin",
    ),
    pytest.param(
        b'51-/admin,7["baz"]',
        Packet(P.BINARY_EVENT, "/admin", b"7", b'["baz"]', 1),
        id="BINARY_EVENT with all",
    ),
    pytest.param(b'3/admin,13["bar"]', Packet(P.ACK, "/admin", b"13", b'["bar"]'), id="ACK"),
    pytest.param(b"315[]", Packet(P.ACK, "/", b"15", b"[]"), id="ACK of nothing"),
    pytest.param(
        b'61-15["bar",%b]' % PLACEHOLDER,
        Packet(P.BINARY_ACK, "/", b"15", b'["bar",%b]' % PLACEHOLDER, 1),
        id="BINARY_ACK",
    ),
    pytest.param(b"1", Packet(P.DISCONNECT, "/", None, b""), id="DISCONNECT"),
    pytest.param(b"1/admin,", Packet(P.DISCONNECT, "/admin", None, b""), id="DISCONNECT /admin"),
    pytest.param(b"1/admin", Packet(P.DISCONNECT, "/admin", None, b""), id="DISCONNECT, no comma"),
]
BAD_PACKETS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"abc", id="no type"),
    pytest.param(b"7[]", id="unknown type"),
    pytest.param(b"0[1]", id="CONNECT with an array"),
    pytest.param(b"012{}", id="CONNECT with an ack id"),
    pytest.param(b'0"a"', id="CONNECT with a string"),
    pytest.param(b"1{}", id="DISCONNECT with a body"),
    pytest.param(b"15", id="DISCONNECT with an ack id"),
    pytest.param(b"2", id="EVENT without a body"),
    pytest.param(b"2{}", id="EVENT with an object"),
    pytest.param(b"2abc[]", id="EVENT with letters for an ack id"),
    pytest.param(b"2-1[]", id="EVENT with a negative ack id"),
    pytest.param(b"2/admin[]", id="EVENT with a namespace that does not end"),
    pytest.param(b'21-["a"]', id="EVENT with attachments"),
    pytest.param(b"2" + b"1" * 19 + b'["a"]', id="ack id too long"),
    pytest.param(b"3[]", id="ACK without an id"),
    pytest.param(b"31{}", id="ACK with an object"),
    pytest.param(b'4{"message":"no"}', id="CONNECT_ERROR"),
    pytest.param(b"4", id="CONNECT_ERROR without a body"),
    pytest.param(b'5["a"]', id="BINARY_EVENT without a count"),
    pytest.param(b'5-["a"]', id="BINARY_EVENT with an empty count"),
    pytest.param(b'51["a"]', id="BINARY_EVENT with an ack id for a count"),
    pytest.param(b'59999999-["a"]', id="count too long"),
    pytest.param(b'61-["a"]', id="BINARY_ACK without an id"),
    pytest.param(b"2/" + b"n" * 256 + b',["a"]', id="namespace too long"),
    pytest.param("2٣[]".encode(), id="digits of another script"),
]


def test_packet_types_are_those_of_the_document() -> None:
    """Seven types, by their numbers."""
    assert {kind.name.lower(): kind.value for kind in PacketType} == TYPES


@pytest.mark.parametrize(("payload", "packet"), PACKETS)
def test_packets(payload: bytes, packet: Packet) -> None:
    """Each example decodes to its parts."""
    assert decode(payload) == packet


@pytest.mark.parametrize("payload", BAD_PACKETS)
def test_bad_packets(payload: bytes) -> None:
    """What is not the protocol is BadPacket."""
    with pytest.raises(BadPacket):
        decode(payload)


NAMESPACES = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), max_size=60)
ACK_IDS = st.none() | st.integers(0, 10**18 - 1)


@given(
    kind=st.sampled_from([P.EVENT, P.ACK, P.BINARY_EVENT, P.BINARY_ACK]),
    namespace=NAMESPACES,
    number=ACK_IDS,
    count=st.integers(0, 999_999),
    arguments=st.lists(JSON_VALUES, max_size=3),
)
def test_events_and_acks_round_trip(
    kind: PacketType, namespace: str, number: int | None, count: int, arguments: list[JsonValue]
) -> None:
    """A packet written by the document's grammar is read back, part by part."""
    namespace = "/" + namespace
    is_binary = kind in (P.BINARY_EVENT, P.BINARY_ACK)
    if kind in (P.ACK, P.BINARY_ACK) and number is None:
        number = 0
    body = json.dumps(arguments, ensure_ascii=False).encode()
    text = b"%d" % kind
    text += b"%d-" % count if is_binary else b""
    text += b"" if namespace == "/" else namespace.encode() + b","
    text += b"" if number is None else b"%d" % number
    ack_id = None if number is None else b"%d" % number
    assert decode(text + body) == Packet(kind, namespace, ack_id, body, count if is_binary else 0)


@settings(max_examples=400)
@given(ANY_TEXT | NOT_QUITE)
def test_any_text_decodes_or_is_a_bad_packet(payload: bytes) -> None:
    """Nothing else is raised, and a packet's parts are all parts of what came."""
    try:
        packet = decode(payload)
    except BadPacket:
        return
    assert payload.endswith(packet.body)
    assert packet.namespace.startswith("/")
    assert packet.ack_id is None or packet.ack_id.isdigit()
    assert packet.type is not P.CONNECT_ERROR
    assert (packet.attachments > 0) <= (packet.type in (P.BINARY_EVENT, P.BINARY_ACK))


# What goes out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        pytest.param(socketio.encode_connect("s"), b'40{"sid":"s"}', id="CONNECT"),
        pytest.param(
            socketio.encode_connect("s", "p"), b'40{"sid":"s","pid":"p"}', id="CONNECT with pid"
        ),
        pytest.param(
            socketio.encode_connect("s", namespace="/admin"), b'40/admin,{"sid":"s"}', id="/admin"
        ),
        pytest.param(
            socketio.encode_connect_error("Not authorized"),
            b'44{"message":"Not authorized"}',
            id="CONNECT_ERROR",
        ),
        pytest.param(
            socketio.encode_connect_error("Invalid namespace", "/a"),
            b'44/a,{"message":"Invalid namespace"}',
            id="CONNECT_ERROR in /a",
        ),
        pytest.param(socketio.encode_disconnect(), b"41", id="DISCONNECT"),
        pytest.param(socketio.encode_disconnect("/admin"), b"41/admin", id="DISCONNECT /admin"),
        pytest.param(socketio.encode_event(b'["foo"]'), b'42["foo"]', id="EVENT"),
        pytest.param(
            socketio.encode_event(b'["bar"]', namespace="/admin"),
            b'42/admin,["bar"]',
            id="EVENT in /admin",
        ),
        pytest.param(
            socketio.encode_event(b'["baz",%b]' % PLACEHOLDER, attachments=1),
            b'451-["baz",%b]' % PLACEHOLDER,
            id="BINARY_EVENT",
        ),
        pytest.param(
            socketio.encode_event(b'["baz"]', attachments=2, namespace="/admin"),
            b'452-/admin,["baz"]',
            id="BINARY_EVENT in /admin",
        ),
        pytest.param(
            socketio.encode_ack(b"13", b'["bar"]', namespace="/admin"),
            b'43/admin,13["bar"]',
            id="ACK",
        ),
        pytest.param(
            socketio.encode_ack(b"15", b'["bar",%b]' % PLACEHOLDER, attachments=1),
            b'461-15["bar",%b]' % PLACEHOLDER,
            id="BINARY_ACK",
        ),
    ],
)
def test_encoders(packet: bytes, expected: bytes) -> None:
    """With the Engine.IO digit in front, as the document's examples."""
    assert packet == expected


# Attachments -----------------------------------------------------------------------------------


def nest(value: Any, depth: int) -> Any:
    """Wrap *value* into *depth* lists."""
    for _ in range(depth):
        value = [value]
    return value


def placeholder(number: Any) -> dict[str, Any]:
    """Give what stands for an attachment."""
    return {"_placeholder": True, "num": number}


@pytest.mark.parametrize(
    ("content", "attachments"),
    [
        pytest.param(placeholder(0), 1, id="alone"),
        pytest.param([placeholder(1), {"a": placeholder(0)}], 2, id="out of order, nested"),
        pytest.param({"num": 5, "_placeholder": False}, 0, id="not a placeholder"),
        pytest.param({"_placeholder": 1, "num": 0}, 0, id="true is true alone"),
        pytest.param([1, "a", None, {}], 0, id="none"),
        pytest.param(nest(placeholder(0), MAX_DEPTH - 2), 1, id="deep"),
    ],
)
def test_placeholders_that_fit(content: Any, attachments: int) -> None:
    """Each attachment is named exactly once, wherever."""
    check_placeholders(json.dumps(content).encode(), attachments)


@pytest.mark.parametrize(
    ("content", "attachments"),
    [
        pytest.param([], 1, id="not named"),
        pytest.param([placeholder(0), placeholder(0)], 1, id="twice"),
        pytest.param([placeholder(0), placeholder(0)], 2, id="twice, and one not"),
        pytest.param(placeholder(1), 1, id="out of range"),
        pytest.param(placeholder(-1), 1, id="negative"),
        pytest.param(placeholder(0.0), 1, id="a float"),
        pytest.param(placeholder("0"), 1, id="a string"),
        pytest.param(placeholder(True), 2, id="a boolean"),
        pytest.param(placeholder(None), 1, id="null"),
        pytest.param({"_placeholder": True}, 1, id="no number"),
        pytest.param(placeholder(10**30), 1, id="a huge number"),
        pytest.param(nest(placeholder(0), MAX_DEPTH), 1, id="too deep"),
        pytest.param(nest(placeholder(0), 450), 1, id="as deep as this stack, not another, allows"),
    ],
)
def test_placeholders_that_do_not_fit(content: Any, attachments: int) -> None:
    """Anything else must not reach other clients: they would drop their connection."""
    with pytest.raises(BadPacket):
        check_placeholders(json.dumps(content).encode(), attachments)


@given(shape=JSON_VALUES, blobs=st.lists(st.binary(max_size=9), min_size=1, max_size=3))
def test_inlined_attachments_are_in_place(shape: JsonValue, blobs: list[bytes]) -> None:
    """Where a placeholder was there is `$binary` with its base64, and nothing else changes."""
    content = [shape, *(placeholder(number) for number in range(len(blobs)))]
    data = json.dumps(content).encode()
    check_placeholders(data, len(blobs))
    inlined = json.loads(inline_attachments(data, blobs))
    assert inlined[0] == json.loads(json.dumps(shape))
    for blob, one in zip(blobs, inlined[1:], strict=True):
        assert list(one) == ["$binary"]
        assert base64.b64decode(one["$binary"], validate=True) == blob


def test_content_without_attachments_is_not_touched() -> None:
    """Not even read: numbers that do not fit anywhere stay what they are."""
    content = b' {"a" : 1e999, "_placeholder":true} '
    assert inline_attachments(content, ()) is content


def test_what_passed_the_check_can_be_inlined_in_a_message() -> None:
    """The envelope adds a level or two; that must not be what breaks its readers."""
    content = json.dumps(nest(placeholder(0), MAX_DEPTH - 2)).encode()
    check_placeholders(content, 1)
    assert b"$binary" in inline_attachments(b'{"content":[%b]}' % content, [b"x"])
