"""WebSocket frames that RFC 6455 forbids: each closes with the code of the rule it breaks."""

from __future__ import annotations

import random

import pytest

from support.deadline import eventually
from support.rawsocket import Opcode, RawSocket, build_frame, close_payload
from support.server import Server

SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
PLAIN = "/ws"

pytestmark = pytest.mark.parametrize("path", [SOCKETIO, PLAIN], ids=["socket.io", "plain"])

PROTOCOL_ERROR, INVALID_TEXT, TOO_BIG = 1002, 1007, 1009
EURO = "€".encode()

BAD = [
    ("unmasked", build_frame(Opcode.TEXT, b"40", masked=False), PROTOCOL_ERROR),
    ("reserved opcode", build_frame(3, b"40"), PROTOCOL_ERROR),
    ("reserved control opcode", build_frame(11), PROTOCOL_ERROR),
    ("compressed without agreement", build_frame(Opcode.TEXT, b"40", reserved=4), PROTOCOL_ERROR),
    ("reserved bit 2", build_frame(Opcode.TEXT, b"40", reserved=2), PROTOCOL_ERROR),
    ("reserved bit 3", build_frame(Opcode.TEXT, b"40", reserved=1), PROTOCOL_ERROR),
    ("fragmented ping", build_frame(Opcode.PING, final=False), PROTOCOL_ERROR),
    ("ping of 126 bytes", build_frame(Opcode.PING, b"x" * 126), PROTOCOL_ERROR),
    ("continuation of nothing", build_frame(Opcode.CONTINUATION, b"40"), PROTOCOL_ERROR),
    (
        "message in a message",
        build_frame(Opcode.TEXT, b"4", final=False) + build_frame(Opcode.TEXT, b"40"),
        PROTOCOL_ERROR,
    ),
    ("close of one byte", build_frame(Opcode.CLOSE, b"\x03"), PROTOCOL_ERROR),
    ("close with 999", build_frame(Opcode.CLOSE, close_payload(999)), PROTOCOL_ERROR),
    ("close with 1005", build_frame(Opcode.CLOSE, close_payload(1005)), PROTOCOL_ERROR),
    ("close with 1006", build_frame(Opcode.CLOSE, close_payload(1006)), PROTOCOL_ERROR),
    ("close with 65535", build_frame(Opcode.CLOSE, close_payload(65535)), PROTOCOL_ERROR),
    (
        "close reason is no UTF-8",
        build_frame(Opcode.CLOSE, close_payload(1000, b"\xff")),
        INVALID_TEXT,
    ),
    ("no UTF-8", build_frame(Opcode.TEXT, b'42["a","\xff"]'), INVALID_TEXT),
    ("overlong UTF-8", build_frame(Opcode.TEXT, b'42["a","\xc0\xaf"]'), INVALID_TEXT),
    ("surrogate in UTF-8", build_frame(Opcode.TEXT, b'42["a","\xed\xa0\x80"]'), INVALID_TEXT),
    ("beyond Unicode", build_frame(Opcode.TEXT, b'42["a","\xf4\x90\x80\x80"]'), INVALID_TEXT),
    ("half a character", build_frame(Opcode.TEXT, b'42["a"]' + EURO[:2]), INVALID_TEXT),
    (
        "no UTF-8 in fragments",
        build_frame(Opcode.TEXT, b'42["a","', final=False)
        + build_frame(Opcode.CONTINUATION, b'\xff"]'),
        INVALID_TEXT,
    ),
    ("length with the top bit", build_frame(Opcode.TEXT, length=1 << 63), PROTOCOL_ERROR),
    ("length of 4 EiB", build_frame(Opcode.TEXT, length=1 << 62), TOO_BIG),
    ("length of 4 GiB", build_frame(Opcode.TEXT, length=1 << 32), TOO_BIG),
    ("binary of 4 GiB", build_frame(Opcode.BINARY, length=1 << 32), TOO_BIG),
]


@pytest.mark.parametrize(
    ("data", "code"), [pytest.param(data, code, id=name) for name, data, code in BAD]
)
async def test_forbidden_frame_closes_with_its_code(
    server: Server, path: str, data: bytes, code: int
) -> None:
    """The close frame carries the code that RFC 6455 gives to the fault."""
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(data)
        got = await raw.close_code()
        # A length with the top bit set is both against the protocol and too big.
        assert got == code or (data[1:2] == b"\xff" and got == TOO_BIG)


async def test_character_may_be_split_over_fragments(server: Server, path: str) -> None:
    """Only the whole message has to be UTF-8, not each of its fragments."""
    message = (
        b'{"type":"auth","token":"\xe2\x82\xac"}'
        if path == PLAIN
        else b'40{"token":"\xe2\x82\xac"}'
    )
    cut = message.index(b"\x82")
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(Opcode.TEXT, message[:cut], final=False))
        await raw.send(build_frame(Opcode.CONTINUATION, message[cut:]))
        answer = await raw.close_code() if path == PLAIN else await last_text(raw, b"44")
    assert answer == (4505 if path == PLAIN else b'44{"message":"Authentication failed"}')


async def last_text(raw: RawSocket, prefix: bytes) -> bytes:
    """Return the next text message with that prefix."""
    while True:
        opcode, payload = await raw.frame()
        if opcode == Opcode.TEXT and payload.startswith(prefix):
            return payload


async def test_ping_is_answered_with_its_payload(server: Server, path: str) -> None:
    """A ping of the protocol, also in the middle of a fragmented message, gets its pong."""
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(Opcode.TEXT, b"4", final=False))
        await raw.send(build_frame(Opcode.PING, b"x" * 125))
        while (answer := await raw.frame())[0] == Opcode.TEXT:
            pass
        assert answer == (Opcode.PONG, b"x" * 125)


async def test_close_is_answered_and_the_connection_ended(server: Server, path: str) -> None:
    """The close handshake ends with the server closing TCP."""
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(Opcode.CLOSE, close_payload(1000, b"bye")))
        assert await raw.close_code() == 1000
        await raw.wait_eof()


@pytest.mark.parametrize("kept", [1, 2, 5, 7, 20])
async def test_truncated_frame_and_end(server: Server, path: str, kept: int) -> None:
    """A peer that goes away in the middle of a frame leaves no open file behind."""
    before = server.open_files()
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(Opcode.TEXT, b"4" * 200)[:kept])
        raw.writer.write_eof()
        await raw.wait_eof()

    async def is_closed() -> bool:
        return server.open_files() <= before

    await eventually(is_closed, "the server closed its end")


async def test_noise(server: Server, path: str) -> None:
    """Random bytes end each connection; none of them ends the server."""
    noise = random.Random(20)  # noqa: S311 - the same noise each time
    for _ in range(100):
        async with RawSocket.websocket(server.port, path) as raw:
            await raw.send(noise.randbytes(noise.randrange(1, 2000)))
            raw.writer.write_eof()
            await raw.wait_eof()
