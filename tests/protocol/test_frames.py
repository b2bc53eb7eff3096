"""WebSocket frames of a server, read back by a parser of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.protocol.engineio import Binary
from roomful.protocol.frames import PING, close_frame, frame, frames

TEXT, BINARY, CLOSE, PING_OPCODE = 1, 2, 8, 9


def read_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Give opcode and payload of each frame; fails on what RFC 6455 forbids a server."""
    found = []
    while data:
        assert data[0] & 0b1111_0000 == 0b1000_0000, "not final, or a reserved bit"
        length, head = data[1], 2
        assert length < 128, "a server does not mask"
        if length == 126:
            length, head = int.from_bytes(data[2:4], "big"), 4
            assert length > 125, "not the shortest length"
        elif length == 127:
            length, head = int.from_bytes(data[2:10], "big"), 10
            assert length > 65535, "not the shortest length"
        assert len(data) >= head + length
        found.append((data[0] & 15, data[head : head + length]))
        data = data[head + length :]
    return found


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
@pytest.mark.parametrize(("kind", "opcode"), [(bytes, TEXT), (Binary, BINARY)])
def test_lengths(kind: type[bytes], opcode: int, length: int) -> None:
    """Each length has its own form, and only Binary is a binary frame."""
    message = kind(b"x" * length)
    assert read_frames(frame(message)) == [(opcode, message)]


MESSAGES = st.binary(max_size=300) | st.binary(max_size=300).map(Binary)


@given(st.lists(MESSAGES, max_size=6))
def test_frames_are_those_of_each(messages: list[bytes]) -> None:
    """Joined frames are the messages, in order, each with its kind."""
    expected = [(BINARY if type(one) is Binary else TEXT, bytes(one)) for one in messages]
    assert read_frames(frames(messages)) == expected
    assert frames(messages) == b"".join(map(frame, messages))


def test_ping() -> None:
    """Empty."""
    assert read_frames(PING) == [(PING_OPCODE, b"")]


@given(code=st.integers(1000, 4999), reason=st.text(st.characters(), max_size=200))
def test_close_frames(code: int, reason: str) -> None:
    """A close frame has its code, at most 125 bytes, and a reason that is valid UTF-8."""
    ((opcode, payload),) = read_frames(close_frame(code, reason))
    assert opcode == CLOSE
    assert len(payload) <= 125
    assert int.from_bytes(payload[:2], "big") == code
    told = payload[2:].decode()
    clean = reason.encode(errors="replace").decode()
    assert clean.startswith(told)
    if len(clean.encode()) <= 123:
        assert told == clean


def test_a_reason_is_cut_between_characters() -> None:
    """Half a character would make the client close with 1007 instead."""
    ((_, payload),) = read_frames(close_frame(4000, "x" + "€" * 60))
    assert payload[2:] == ("x" + "€" * 40).encode()
