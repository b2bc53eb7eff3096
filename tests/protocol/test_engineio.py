"""Engine.IO v4: the codec against the tables of the protocol document, and against anything."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.strategies import ANY_TEXT, NOT_QUITE
from roomful.protocol.engineio import (
    BadHandshake,
    Binary,
    Handshake,
    HandshakeFault,
    Pace,
    PacketType,
    decode_payload,
    encode_open,
    encode_payload,
    packet_type,
    parse_handshake,
)
from roomful.protocol.errors import BadPacket

# engine.io-protocol v4, "Packet types" and "Packet encoding".
TYPES = {"open": 0, "close": 1, "ping": 2, "pong": 3, "message": 4, "upgrade": 5, "noop": 6}
PAYLOADS = [
    pytest.param(b"4hello", [b"4hello"], id="one message"),
    pytest.param(b"4hello\x1e2\x1e4world", [b"4hello", b"2", b"4world"], id="the document's"),
    pytest.param(
        b"4hello\x1ebAQIDBA==", [b"4hello", Binary(b"\x01\x02\x03\x04")], id="with binary"
    ),
    pytest.param(b"b", [Binary(b"")], id="empty binary"),
    pytest.param(b"2probe", [b"2probe"], id="probe"),
    pytest.param("4€".encode(), ["4€".encode()], id="UTF-8"),
    pytest.param(b"4", [b"4"], id="empty message"),
]
BAD_PAYLOADS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"abc", id="no digit"),
    pytest.param(b"7", id="unknown type"),
    pytest.param(b"/", id="before the digits"),
    pytest.param(b"4a\x1e", id="separator at the end"),
    pytest.param(b"\x1e4a", id="separator at the start"),
    pytest.param(b"4a\x1e\x1e4b", id="empty packet"),
    pytest.param(b"bAQID*", id="no base64"),
    pytest.param(b"bAQI", id="cut base64, three letters"),
    pytest.param(b"bAQIDBA=", id="base64 with too little padding"),
    pytest.param(b"bAQIDBA===", id="base64 with too much padding"),
    pytest.param(b"bAQ==ID", id="padding inside base64"),
    pytest.param(b"b AQID", id="space in base64"),
    pytest.param(b"bAQ\nID", id="line break in base64"),
    pytest.param(b"bAQI-_w==", id="base64 for URLs"),
    pytest.param("4a\x1e€".encode(), id="no digit, no ASCII"),
]


def kinds(packets: Sequence[bytes]) -> list[type[bytes]]:
    """Give which packets are binary."""
    return [type(packet) for packet in packets]


def test_packet_types_are_those_of_the_document() -> None:
    """Seven types, by their numbers."""
    assert {kind.name.lower(): kind.value for kind in PacketType} == TYPES
    for kind in PacketType:
        assert packet_type(b"%ddata" % kind) is kind


@pytest.mark.parametrize(("body", "packets"), PAYLOADS)
def test_payloads(body: bytes, packets: list[bytes]) -> None:
    """Each example decodes to its packets, and those encode to it."""
    decoded = decode_payload(body)
    assert decoded == packets
    assert kinds(decoded) == kinds(packets)
    assert encode_payload(packets) == body


@pytest.mark.parametrize("body", BAD_PAYLOADS)
def test_bad_payloads(body: bytes) -> None:
    """What is not the protocol is BadPacket."""
    with pytest.raises(BadPacket):
        decode_payload(body)


TEXT_PACKETS = st.tuples(st.sampled_from(b"0123456"), st.text(max_size=20)).map(
    lambda pair: bytes([pair[0]]) + pair[1].replace("\x1e", "").encode()
)
BINARY_PACKETS = st.binary(max_size=40).map(Binary)


@given(st.lists(TEXT_PACKETS | BINARY_PACKETS, min_size=1, max_size=8))
def test_payload_round_trip(packets: list[bytes]) -> None:
    """Whatever the packets, decoding gives back what was encoded, binary as binary."""
    decoded = decode_payload(encode_payload(packets))
    assert decoded == packets
    assert kinds(decoded) == kinds(packets)


@settings(max_examples=300)
@given(st.binary(max_size=60) | ANY_TEXT | NOT_QUITE)
def test_any_body_decodes_or_is_a_bad_packet(body: bytes) -> None:
    """Nothing else is raised, and what decodes is what came."""
    try:
        packets = decode_payload(body)
    except BadPacket:
        return
    assert packets
    assert decode_payload(encode_payload(packets)) == packets


@given(st.binary(max_size=4))
def test_type_of_anything(packet: bytes) -> None:
    """A digit from 0 to 6 says the type, all else is BadPacket."""
    if packet[:1] in [b"%d" % number for number in range(7)]:
        assert packet_type(packet) == int(packet[:1])
    else:
        with pytest.raises(BadPacket):
            packet_type(packet)


# Handshake -------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrades", [True, False])
def test_open_packet_has_the_five_keys(upgrades: bool) -> None:
    """Exactly those of the document, with the upgrades that are left."""
    packet = encode_open("lv_VI97HAXpY6yYWAAAC", upgrades=upgrades, pace=Pace(25000, 5000, 1000))
    assert packet_type(packet) is PacketType.OPEN
    assert json.loads(packet[1:]) == {
        "sid": "lv_VI97HAXpY6yYWAAAC",
        "upgrades": ["websocket"] if upgrades else [],
        "pingInterval": 25000,
        "pingTimeout": 5000,
        "maxPayload": 1000,
    }


GOOD_QUERIES = [
    pytest.param("EIO=4&transport=polling", Handshake("polling", None, False), id="polling"),
    pytest.param("EIO=4&transport=websocket", Handshake("websocket", None, False), id="websocket"),
    pytest.param("transport=polling&EIO=4", Handshake("polling", None, True), id="python-engineio"),
    pytest.param(
        "token=x&EIO=4&t=1&transport=polling&sid=abc",
        Handshake("polling", "abc", False),
        id="with more",
    ),
    pytest.param(
        "x=transport&transport=websocket&y=EIO&EIO=4",
        Handshake("websocket", None, True),
        id="names as values",
    ),
]
BAD_QUERIES = [
    pytest.param("", HandshakeFault.UNKNOWN_TRANSPORT, id="nothing"),
    pytest.param("EIO=4", HandshakeFault.UNKNOWN_TRANSPORT, id="no transport"),
    pytest.param("EIO=4&transport=abc", HandshakeFault.UNKNOWN_TRANSPORT, id="another transport"),
    pytest.param("EIO=4&transport=Polling", HandshakeFault.UNKNOWN_TRANSPORT, id="capital"),
    pytest.param("transport=polling", HandshakeFault.UNSUPPORTED_PROTOCOL_VERSION, id="no version"),
    pytest.param(
        "EIO=3&transport=polling", HandshakeFault.UNSUPPORTED_PROTOCOL_VERSION, id="version 3"
    ),
    pytest.param(
        "EIO=abc&transport=polling", HandshakeFault.UNSUPPORTED_PROTOCOL_VERSION, id="no number"
    ),
    pytest.param(
        "EIO=04&transport=polling", HandshakeFault.UNSUPPORTED_PROTOCOL_VERSION, id="leading zero"
    ),
]


def read_query(query: str) -> dict[str, str]:
    """Give a query's fields, in their order."""
    return dict(part.split("=") for part in query.split("&")) if query else {}


@pytest.mark.parametrize(("query", "handshake"), GOOD_QUERIES)
def test_handshakes(query: str, handshake: Handshake) -> None:
    """Transport, sid, and from the order of the fields who is asking."""
    assert parse_handshake(read_query(query)) == handshake


@pytest.mark.parametrize(("query", "fault"), BAD_QUERIES)
def test_bad_handshakes(query: str, fault: HandshakeFault) -> None:
    """Refused as the reference server refuses them: 400 with a number and a sentence."""
    with pytest.raises(BadHandshake) as caught:
        parse_handshake(read_query(query))
    assert caught.value.fault is fault
    assert caught.value.status == 400
    body = json.loads(caught.value.body)
    assert body == {"code": fault.value, "message": str(caught.value)}


def test_handshake_sentences_are_those_of_the_reference() -> None:
    """Clients show them; an own sentence takes the place of the general one."""
    sentences = {fault.value: BadHandshake(fault).sentence for fault in HandshakeFault}
    assert sentences == {
        0: "Transport unknown",
        1: "Session ID unknown",
        2: "Bad handshake method",
        3: "Bad request",
        4: "Forbidden",
        5: "Unsupported protocol version",
    }
    assert BadHandshake(HandshakeFault.FORBIDDEN).status == 403
    own = BadHandshake(HandshakeFault.BAD_REQUEST, "too late")
    assert json.loads(own.body) == {"code": 3, "message": "too late"}


FIELDS = st.sampled_from(["EIO", "transport", "sid", "t", ""])
VALUES = st.sampled_from(["4", "3", "polling", "websocket", "", "x"]) | st.text(max_size=5)


@given(st.dictionaries(FIELDS, VALUES))
def test_any_query_is_a_handshake_or_refused(query: dict[str, str]) -> None:
    """Nothing else is raised; what is taken says version 4 and a transport that is known."""
    try:
        handshake = parse_handshake(query)
    except BadHandshake:
        return
    assert query["EIO"] == "4"
    assert handshake.transport == query["transport"]
    assert handshake.transport in ("polling", "websocket")
    assert handshake.sid == query.get("sid")
