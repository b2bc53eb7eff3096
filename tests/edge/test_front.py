"""Which requests go to picows at once; the rest are uvicorn's, which knows all of HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.edge.front import parse_plain_upgrade

PLAIN = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        PLAIN + b"\x81\x80abcd",
        PLAIN.lower()
        .replace(b"get", b"GET")
        .replace(b"http/", b"HTTP/")
        .replace(b"eio", b"EIO")
        .replace(b"dghlihnhbxbszsbub25jzq", b"dGhlIHNhbXBsZSBub25jZQ"),
    ],
    ids=["as browsers write it", "with a frame behind it", "in lower case"],
)
def test_a_whole_upgrade_request_is_plain(data: bytes) -> None:
    """Whatever the case of names and values that have none, and whatever comes behind it."""
    parsed = parse_plain_upgrade(data)
    assert parsed is not None
    request, end = parsed
    assert data[:end].lower() == PLAIN.lower()
    assert request.target.lower() == "/socket.io/?eio=4&transport=websocket"
    assert request.headers["host"] == "localhost"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"\r\n\r\n", b"\r\n", id="not whole"),
        pytest.param(b"GET ", b"POST ", id="another method"),
        pytest.param(b"HTTP/1.1", b"HTTP/1.0", id="another version"),
        pytest.param(b"GET /", b"GET http://localhost/", id="an absolute target"),
        pytest.param(b"EIO=4&", b"EIO=4&sid=abc&", id="a session that began on polling"),
        pytest.param(b"Upgrade: WebSocket", b"Upgrade: h2c", id="another protocol"),
        pytest.param(b"Connection: keep-alive, Upgrade", b"Connection: close", id="no upgrade"),
        pytest.param(b"dGhlIHNhbXBsZSBub25jZQ==", b"short", id="a bad key"),
        pytest.param(b"Host: localhost", b"Content-Length: 3", id="a body"),
        pytest.param(b"Host: localhost", b"Transfer-Encoding: chunked", id="chunks"),
        pytest.param(b"Host: localhost", b" folded: x", id="a folded line"),
        pytest.param(b"Host: localhost", b"Host : localhost", id="a space before the colon"),
        pytest.param(b"Host: localhost", b"Host: a\r\nHost: b", id="a header twice"),
        pytest.param(b"Host: localhost", b"Host: a\x00b", id="a control character"),
        pytest.param(b"\r\n", b"\n", id="bare line feeds"),
        pytest.param(b"Host: localhost", b"X: " + b"x" * 32768, id="a head above the limit"),
    ],
)
def test_anything_unusual_is_not_plain(old: bytes, new: bytes) -> None:
    """The parser that knows it decides."""
    assert old in PLAIN
    assert not parse_plain_upgrade(PLAIN.replace(old, new))


@given(st.integers(0, len(PLAIN) - 1))
def test_a_part_of_a_request_is_not_plain(length: int) -> None:
    """More has to come."""
    assert not parse_plain_upgrade(PLAIN[:length])


@given(st.binary(max_size=400))
def test_no_bytes_are_too_strange_to_ask_about(data: bytes) -> None:
    """It answers, whatever comes."""
    assert not parse_plain_upgrade(b"GET " + data)
