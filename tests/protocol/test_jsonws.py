"""The plain JSON codec: refs, acks, events, and anything at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.strategies import ANY_TEXT, JSON_VALUES, NOT_QUITE, JsonValue, json_objects
from roomful.protocol.errors import BadPacket, RefusalCode
from roomful.protocol.jsonws import RefusedWithRef, encode_ack, encode_event, parse
from roomful.protocol.operations import Operation, SetPresence


@given(JSON_VALUES)
def test_a_ref_comes_back_as_it_was(ref: JsonValue) -> None:
    """Any JSON may be a ref, null too; the ack has it byte by byte."""
    text = json.dumps(ref).encode()
    operation, came = parse(b'{"type":"presence","status":"s","ref":%b}' % text)
    assert isinstance(operation, SetPresence)
    assert came == text
    ack = json.loads(encode_ack(came, b'{"success":true}'))
    assert ack == {"type": "ack", "ref": json.loads(text), "success": True}


def test_without_ref_no_ack_is_wanted() -> None:
    """`ref: null` is a ref, none is none."""
    assert parse(b'{"type":"presence","status":"s"}')[1] is None
    assert parse(b'{"type":"presence","status":"s","ref":null}')[1] == b"null"


@given(ref=JSON_VALUES, name=st.sampled_from(["presence", "nonsense"]))
def test_a_refusal_has_the_ref(ref: JsonValue, name: str) -> None:
    """Whether the operation is unknown or its fields are wrong."""
    with pytest.raises(RefusedWithRef) as caught:
        parse(json.dumps({"type": name, "ref": ref, "status": 1}).encode())
    assert caught.value.ref is not None
    assert json.loads(caught.value.ref) == ref
    expected = RefusalCode.BAD_REQUEST if name == "presence" else RefusalCode.UNKNOWN_EVENT
    assert caught.value.code is expected


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        pytest.param(b"NaN", b"null", id="not a number"),
        pytest.param(b'"\\ud800"', None, id="half a surrogate pair"),
    ],
)
def test_a_ref_that_cannot_be_sent_back(ref: bytes, told: bytes | None) -> None:
    """The refusal still comes, as an event if it has to."""
    with pytest.raises(RefusedWithRef) as caught:
        parse(b'{"type":"presence","status":1,"ref":%b}' % ref)
    assert caught.value.ref == told


def test_a_refusal_without_ref() -> None:
    """There is no ack to send."""
    with pytest.raises(RefusedWithRef) as caught:
        parse(b'{"type":"nonsense"}')
    assert caught.value.ref is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b"1", b'"message"', b"null", b'{"type":1}', b'{"type":null}', b'{"type"'],
)
def test_what_is_no_message(payload: bytes) -> None:
    """A message is an object with a string `type`: else the connection cannot go on."""
    with pytest.raises(BadPacket):
        parse(payload)


@settings(max_examples=400)
@given(
    st.binary(max_size=60) | ANY_TEXT | NOT_QUITE | json_objects().map(json.dumps).map(str.encode)
)
def test_any_payload_is_an_operation_or_said_no_to(payload: bytes) -> None:
    """Nothing else is raised, and a refusal's ref is JSON."""
    try:
        operation, ref = parse(payload)
    except BadPacket:
        return
    except RefusedWithRef as refused:
        ref = refused.ref
    else:
        assert isinstance(operation, Operation)
    if ref is not None:
        json.loads(ref)


@given(name=st.text(max_size=20), body=json_objects())
def test_events(name: str, body: dict[str, JsonValue]) -> None:
    """The members of the body beside the name; an empty body too."""
    body.pop("type", None)
    data = json.dumps(body, separators=(",", ":")).encode()
    assert json.loads(encode_event(name, data)) == {"type": name, **body}
