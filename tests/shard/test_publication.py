"""What a shard sends, read back: whole, or entry by entry when something in it is foreign."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.shard.message import Entry, Envelope, RoomId, UserId
from roomful.shard.publication import (
    CastMessage,
    Found,
    Publication,
    decode_message,
    decode_read,
)
from shard.recording import make_envelope

_encode = msgspec.msgpack.encode
offsets = st.integers(1, 2**53 - 1)
envelopes = st.builds(
    Envelope,
    st.text().map(RoomId),
    st.text(),
    st.text(),
    st.text().map(UserId),
    st.integers(0, 2**53),
    st.binary(),
    st.lists(st.binary(), max_size=3).map(tuple),
)
messages = st.builds(
    Publication, offsets, st.lists(st.builds(Entry, offsets, envelopes))
) | st.builds(CastMessage, st.text(), st.binary(), st.none() | st.text(), st.booleans())


@given(messages)
def test_what_is_sent_is_read(message: Publication | CastMessage) -> None:
    """Every kind, whatever is in it."""
    assert decode_message(_encode(message)) == (message, 0)


@given(st.lists(st.builds(Found, offsets, st.integers(0, 1000), envelopes)))
def test_what_is_found_is_read(found: list[Found]) -> None:
    """The entries of a page."""
    assert decode_read(_encode(found)) == (found, 0)


@given(st.binary())
def test_anything_else_is_no_message(data: bytes) -> None:
    """Whatever somebody publishes on a room's channel: it is counted, and nothing is raised."""
    message, unreadable = decode_message(data)
    assert message is not None or unreadable == 1


@pytest.mark.parametrize("foreign", [None, 7, ["a"], {"room": "a"}, [1, 2, 3, 4, 5, 6]])
def test_one_foreign_entry_costs_only_itself(foreign: object) -> None:
    """In a publication and in a page: the others are there, and the bad one is counted."""
    good = make_envelope("a", "1")
    message, unreadable = decode_message(_encode([0, 5, [[6, foreign], [7, good]]]))
    assert (message, unreadable) == (Publication(5, [Entry(7, good)]), 1)
    found, unreadable = decode_read(_encode([[6, 0, good], [7, 1, foreign]]))
    assert (found, unreadable) == ([Found(6, 0, good)], 1)


@pytest.mark.parametrize("data", [b"", b"\xc1", _encode(7), _encode([[1]])])
def test_what_is_no_page_raises(data: bytes) -> None:
    """It was a reply to something else."""
    with pytest.raises(ValueError, match="not the reply of a read"):
        decode_read(data)
