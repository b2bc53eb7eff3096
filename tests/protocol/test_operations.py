"""Operations: each one's good and bad forms, and data that goes through untouched."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.strategies import ANY_TEXT, JSON_VALUES, NOT_QUITE, JsonValue
from roomful.protocol import jsonws
from roomful.protocol.errors import BadPacket, RefusalCode, Refused
from roomful.protocol.operations import (
    RESERVED_EVENTS,
    Auth,
    Direct,
    GetPresence,
    History,
    Join,
    Leave,
    Message,
    Operation,
    Publish,
    Resume,
    SetPresence,
    Typing,
    is_clean,
    parse_event,
)

RAW = msgspec.Raw(b'{"a":1}')
DATA = {"a": 1}

# docs/wire.md, "Operations": name, fields, what is understood.
GOOD: list[tuple[str, dict[str, Any], Operation]] = [
    ("join-room", {"roomId": "r"}, Join("r")),
    ("join-room", {"roomId": "r" * 255}, Join("r" * 255)),
    ("leave-room", {"roomId": "r"}, Leave("r")),
    ("message", {"roomId": "r", "content": DATA}, Message("r", RAW)),
    ("message", {"roomId": "r", "content": DATA, "id": "i" * 128}, Message("r", RAW, "i" * 128)),
    ("message", {"roomId": "r", "content": DATA, "id": None}, Message("r", RAW)),
    ("message", {"content": DATA, "more": [1], "roomId": "r"}, Message("r", RAW)),
    ("direct-message", {"userId": "u", "content": DATA}, Direct("u", RAW)),
    ("direct-message", {"userId": "u", "content": DATA, "id": "i"}, Direct("u", RAW, "i")),
    ("publish", {"roomId": "r", "event": "e", "data": DATA}, Publish("r", "e", RAW)),
    (
        "publish",
        {"roomId": "r", "event": "e", "data": DATA, "id": "i"},
        Publish("r", "e", RAW, "i"),
    ),
    ("typing", {"roomId": "r"}, Typing("r")),
    ("typing", {"roomId": "r", "isTyping": False}, Typing("r", False)),
    ("presence", {"status": "away"}, SetPresence("away")),
    ("get-presence", {"roomId": "r"}, GetPresence("r")),
    ("history", {"roomId": "r"}, History("r", None, None, 50)),
    ("history", {"roomId": "r", "before": 9, "limit": 5}, History("r", 9, None, 5)),
    ("history", {"roomId": "r", "after": 0, "limit": 10**9}, History("r", None, 0, 10**9)),
    ("history", {"roomId": "r", "after": 2**53}, History("r", None, 2**53)),
    ("auth", {"token": "t"}, Auth("t")),
]
RESUME = ("resume", {"cursor": "a.1", "rooms": ["r"]}, Resume("a.1", ["r"]))

BAD: list[tuple[str, Any]] = [
    ("join-room", {}),
    ("join-room", {"roomId": ""}),
    ("join-room", {"roomId": "r" * 256}),
    ("join-room", {"roomId": 1}),
    ("join-room", {"roomId": None}),
    ("join-room", {"roomId": ["r"]}),
    ("join-room", {"room_id": "r"}),
    ("leave-room", {"roomId": ""}),
    ("message", {"roomId": "r"}),
    ("message", {"content": 1}),
    ("message", {"roomId": "r", "content": 1, "id": ""}),
    ("message", {"roomId": "r", "content": 1, "id": "i" * 129}),
    ("message", {"roomId": "r", "content": 1, "id": 7}),
    ("direct-message", {"content": 1}),
    ("direct-message", {"userId": "", "content": 1}),
    ("direct-message", {"userId": "u" * 129, "content": 1}),
    ("publish", {"roomId": "r", "data": 1}),
    ("publish", {"roomId": "r", "event": "", "data": 1}),
    ("publish", {"roomId": "r", "event": "e" * 129, "data": 1}),
    ("publish", {"roomId": "r", "event": "e"}),
    ("typing", {"isTyping": True}),
    ("typing", {"roomId": "r", "isTyping": "yes"}),
    ("typing", {"roomId": "r", "isTyping": 1}),
    ("presence", {}),
    ("presence", {"status": ""}),
    ("presence", {"status": "s" * 65}),
    ("get-presence", {}),
    ("history", {"roomId": "r", "limit": 0}),
    ("history", {"roomId": "r", "limit": -1}),
    ("history", {"roomId": "r", "limit": "5"}),
    ("history", {"roomId": "r", "limit": 1.5}),
    ("history", {"roomId": "r", "before": -1}),
    ("history", {"roomId": "r", "before": 2**53 + 1}),
    ("history", {"roomId": "r", "after": "0"}),
    ("auth", {}),
    ("auth", {"token": None}),
]


def emit(name: str, *arguments: object) -> bytes:
    """Write an event as Socket.IO has it."""
    return json.dumps([name, *arguments], separators=(",", ":")).encode()


def refusal(body: bytes) -> Refused:
    """Give why an event is refused."""
    with pytest.raises(Refused) as caught:
        parse_event(body)
    return caught.value


@pytest.mark.parametrize(("name", "fields", "operation"), GOOD)
def test_good_events(name: str, fields: dict[str, Any], operation: Operation) -> None:
    """Each operation as Socket.IO sends it; what is not known is the app's and ignored."""
    parsed = parse_event(emit(name, fields))
    assert parsed == operation
    assert parsed.wire_name == name
    assert parse_event(emit(name, fields, "more", {})) == operation


@pytest.mark.parametrize(("name", "fields", "operation"), [*GOOD, RESUME])
def test_good_objects(name: str, fields: dict[str, Any], operation: Operation) -> None:
    """Each operation as plain JSON sends it, `type` wherever it is."""
    for whole in ({"type": name, **fields}, {**fields, "type": name}):
        parsed, ref = jsonws.parse(json.dumps(whole, separators=(",", ":")).encode())
        assert ref is None
        assert isinstance(parsed, type(operation))
        assert parsed.wire_name == name
        for field in operation.__struct_fields__:
            assert getattr(parsed, field) == getattr(operation, field)


@pytest.mark.parametrize(
    ("name", "operation"),
    [("join-room", Join("r")), ("leave-room", Leave("r")), ("get-presence", GetPresence("r"))],
)
def test_a_room_may_be_a_plain_string(name: str, operation: Operation) -> None:
    """For the three operations that have no other field."""
    assert parse_event(emit(name, "r")) == operation


@pytest.mark.parametrize("name", ["message", "typing", "history", "publish"])
def test_other_operations_are_no_strings(name: str) -> None:
    """For the others a string says too little."""
    assert refusal(emit(name, "r")).code is RefusalCode.BAD_REQUEST


@pytest.mark.parametrize(("name", "fields"), BAD)
def test_bad_events(name: str, fields: Any) -> None:
    """BAD_REQUEST, naming the operation and in the sentence what is wrong."""
    refused = refusal(emit(name, fields))
    assert (refused.code, refused.operation) == (RefusalCode.BAD_REQUEST, name)
    assert refused.sentence.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *BAD,
        ("resume", {"rooms": []}),
        ("resume", {"cursor": "", "rooms": "r"}),
        ("resume", {"cursor": "", "rooms": [""]}),
        ("resume", {"cursor": "", "rooms": ["r"] * 4097}),
    ],
)
def test_bad_objects(name: str, fields: Any) -> None:
    """The same from plain JSON, and the answer finds its way by `ref`."""
    with pytest.raises(jsonws.RefusedWithRef) as caught:
        jsonws.parse(json.dumps({"type": name, "ref": [1], **fields}).encode())
    refused = caught.value
    assert (refused.code, refused.operation, refused.ref) == ("BAD_REQUEST", name, b"[1]")


@pytest.mark.parametrize("arguments", [(), (1,), ("",), (None,), ([],), ({},), (True,)])
@pytest.mark.parametrize("name", sorted({name for name, _, _ in GOOD}))
def test_every_operation_needs_its_fields(name: str, arguments: tuple[Any, ...]) -> None:
    """None of them does anything with nothing."""
    assert refusal(emit(name, *arguments)).code is RefusalCode.BAD_REQUEST


@pytest.mark.parametrize("name", ["nonsense", "Message", "resume", "connect", "", "é" * 100])
def test_unknown_events(name: str) -> None:
    """UNKNOWN_EVENT, its name in the sentence in ASCII and cut; `resume` is plain JSON's."""
    refused = refusal(emit(name, {"cursor": "", "rooms": []}))
    assert refused.code is RefusalCode.UNKNOWN_EVENT
    assert refused.sentence.isascii()
    assert len(refused.sentence) < 1_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]",
        b"[1]",
        b"[null]",
        b"{}",
        b'"message"',
        b'["message"',
        b'[["message"]]',
        b"1",
    ],
)
def test_what_is_no_event(body: bytes) -> None:
    """An event is an array that begins with its name: else the connection cannot go on."""
    with pytest.raises(BadPacket):
        parse_event(body)


@pytest.mark.parametrize("value", [b'"\\ud800"', b"NaN", b"Infinity", b'"\\udc00\\ud800"'])
def test_what_only_lenient_readers_read_is_refused(value: bytes) -> None:
    """Other clients could not read it; its sender is told, and keeps its connection."""
    body = b'["message",{"roomId":"r","content":%b}]' % value
    refused = refusal(body)
    assert refused.code is RefusalCode.BAD_REQUEST
    assert ("half of a surrogate pair" in refused.sentence) is (b"\\u" in value)


# Data ------------------------------------------------------------------------------------------


@given(value=JSON_VALUES, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_data_goes_through_as_it_came(value: JsonValue, indent: int | None, is_ascii: bool) -> None:
    """Byte by byte: key order, spaces, escapes, digits of numbers."""
    data = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    parsed = parse_event(b'["message",{"content":%b,"roomId":"r"}]' % data)
    assert isinstance(parsed, Message)
    assert bytes(parsed.content) == data
    parsed, _ = jsonws.parse(b'{"type":"publish","data":%b,"roomId":"r","event":"e"}' % data)
    assert isinstance(parsed, Publish)
    assert bytes(parsed.data) == data


@settings(max_examples=500)
@given(data=st.binary(max_size=30) | ANY_TEXT | NOT_QUITE)
def test_data_that_is_taken_is_json(data: bytes) -> None:
    """It goes to others unread, so it must be JSON that any of them can read."""
    try:
        parsed = parse_event(b'["message",{"roomId":"r","content":%b}]' % data)
    except (BadPacket, Refused):
        return
    assert isinstance(parsed, Message)
    json.loads(bytes(parsed.content), parse_constant=pytest.fail)
    bytes(parsed.content).decode()


@settings(max_examples=400)
@given(st.binary(max_size=60) | ANY_TEXT | NOT_QUITE)
def test_any_event_is_an_operation_or_said_no_to(body: bytes) -> None:
    """Nothing else is raised."""
    try:
        operation = parse_event(body)
    except (BadPacket, Refused):
        return
    assert isinstance(operation, Operation)


@pytest.mark.parametrize("depth", [10, 400, 990, 5_000, 200_000])
def test_deep_data_never_fails_otherwise(depth: int) -> None:
    """However deep: taken, refused, or the end of the connection, but no bug of ours."""
    body = b'["message",{"roomId":"r","content":%b}]' % (b"[" * depth + b"]" * depth)
    try:
        parse_event(body)
    except (BadPacket, Refused):
        assert depth > 400


# Names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a b", "a\u00a0b", "東京\u3000駅", "\U0001f468\u200d\U0001f469", "ü", "__proto__", "\u2028"],
)
def test_clean_names(name: str) -> None:
    """What people write is a name."""
    assert is_clean(name)


@given(
    st.text(max_size=5),
    st.characters(categories=["Cc", "Cs"]),
    st.text(max_size=5),
)
def test_names_have_no_control_characters(before: str, bad: str, after: str) -> None:
    """Neither control characters nor halves of surrogate pairs, wherever in the name."""
    assert not is_clean(before + bad + after)


def test_reserved_events_cover_what_the_server_says() -> None:
    """No app's event can be taken for one of the server's, of Socket.IO's, or an operation."""
    operations = {name for name, _, _ in [*GOOD, RESUME]}
    ours = {
        *("user-joined", "user-left", "presence-count", "user-update", "cursor", "error"),
        *("reconnect", "recovery-failed", "token-expiring", "connected", "ack"),
    }
    stock = {"connect", "connect_error", "disconnect", "disconnecting"}
    stock |= {"newListener", "removeListener"}
    assert operations | ours | stock <= RESERVED_EVENTS
