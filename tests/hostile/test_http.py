"""HTTP that no client would send: refused with a 4xx, never mistaken for two requests."""

from __future__ import annotations

import re

import pytest

from support.rawsocket import RawSocket
from support.server import Server

POLLING = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
GET = f"GET {POLLING} HTTP/1.1\r\nHost: a\r\n"
POST = f"POST {POLLING}&sid=none HTTP/1.1\r\nHost: a\r\n"
HIDDEN = "GET /livez HTTP/1.1\r\nHost: hidden\r\n\r\n"

SMUGGLED = [
    pytest.param(
        f"{POST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
        id="length and chunked",
    ),
    pytest.param(
        f"{POST}Content-Length: 4\r\nContent-Length: 50\r\n\r\n1234{HIDDEN}", id="two lengths"
    ),
    pytest.param(f"{POST}Content-Length: -1\r\n\r\n{HIDDEN}", id="negative length"),
    pytest.param(f"{POST}Content-Length: +4\r\n\r\n1234{HIDDEN}", id="signed length"),
    pytest.param(f"{POST}Content-Length: 4, 4\r\n\r\n1234{HIDDEN}", id="list of lengths"),
    pytest.param(f"{POST}Content-Length: 0x4\r\n\r\n1234{HIDDEN}", id="hexadecimal length"),
    pytest.param(f"{POST}Content-Length : 4\r\n\r\n1234{HIDDEN}", id="space before the colon"),
    pytest.param(
        f"{POST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{HIDDEN}", id="unknown coding"
    ),
    pytest.param(
        f"{POST}Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{HIDDEN}", id="negative chunk"
    ),
    pytest.param(
        f"{POST}Transfer-Encoding: chunked\r\n\r\n{'f' * 17}\r\n{HIDDEN}", id="chunk of 2^68"
    ),
    pytest.param(f"{GET}X: a\x00b\r\n\r\n{HIDDEN}", id="NUL in a header"),
    pytest.param(f"{GET}bad header\r\n\r\n{HIDDEN}", id="header without a colon"),
    pytest.param(f"G\x00T / HTTP/1.1\r\n\r\n{HIDDEN}", id="NUL in the method"),
    pytest.param(f"GET / HTTP/9.9\r\nHost: a\r\n\r\n{HIDDEN}", id="version 9.9"),
    pytest.param("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\x00" * 500, id="TLS hello"),
    pytest.param("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2 preface"),
]


@pytest.mark.parametrize("request_text", SMUGGLED)
async def test_ambiguous_request_is_refused_and_the_connection_closed(
    server: Server, request_text: str
) -> None:
    """What two servers could read in two ways is a 4xx, and nothing behind it is answered."""
    async with RawSocket.dial(server.port) as raw:
        await raw.send(request_text.encode("latin-1"))
        raw.writer.write_eof()
        said = await raw.wait_eof()
    answers = said.count(b"HTTP/1.1 ")
    assert answers <= 1, said
    assert answers == 0 or said.startswith(b"HTTP/1.1 4"), said
    assert b"HTTP/1.1 200" not in said


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Ten requests in one packet get ten answers, in order, on one connection."""
    paths = ["/livez", "/no-such-thing"] * 5
    requests = "".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths)
    async with RawSocket.dial(server.port) as raw:
        await raw.send(requests.encode())
        statuses = [(await raw.response()).status for _ in paths]
    assert statuses == [200, 404] * 5


async def test_large_bodies_are_read_whole_behind_each_other(server: Server) -> None:
    """Two requests at once: the second one's body is no head, however early the first is done."""
    body = b'{"user":"ann"' + b" " * 100_000 + b"}"
    head = f"POST /api/dev/token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with RawSocket.dial(server.port) as raw:
        await raw.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + head.encode())
        assert (await raw.response()).status == 200
        await raw.send(body[:50_000])
        await raw.send(body[50_000:])
        assert (await raw.response()).status == 200


async def test_pipelined_posts_of_a_session_arrive_in_order(server: Server) -> None:
    """Polling POSTs that are pipelined are all taken."""
    async with RawSocket.dial(server.port) as raw:
        opened = await raw.request("GET", POLLING)
        sid = opened.body.decode().split('"sid":"')[1].split('"')[0]
        for _ in range(2):
            post = f"POST {POLLING}&sid={sid} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n3"
            await raw.send(post.encode())
        assert [(await raw.response()).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        pytest.param(f"{GET}X: {'x' * 100_000}\r\n\r\n", {400, 431}, id="header of 100 KB"),
        pytest.param(GET + "X: y\r\n" * 20_000 + "\r\n", {400, 431}, id="20,000 headers"),
        pytest.param(
            f"GET /{'x' * 100_000} HTTP/1.1\r\nHost: a\r\n\r\n", {400, 414, 431}, id="long path"
        ),
        pytest.param(f"{'X' * 100_000} / HTTP/1.1\r\n\r\n", {400, 431, 501}, id="long method"),
        pytest.param(
            f"GET {POLLING}{'&a=b' * 5_000} HTTP/1.1\r\nHost: a\r\n\r\n", {400}, id="5,000 fields"
        ),
    ],
)
async def test_head_is_bounded(server: Server, head: str, statuses: set[int]) -> None:
    """A head beyond any use is refused while it comes, not collected."""
    async with RawSocket.dial(server.port) as raw:
        await raw.send(head.encode())
        assert (await raw.response()).status in statuses


async def test_endless_head_is_cut(server: Server) -> None:
    """A peer that never ends its headers is refused after a bounded number of bytes."""
    async with RawSocket.dial(server.port) as raw:
        await raw.send(GET.encode())
        for _ in range(640):
            await raw.send(b"X: " + b"y" * 100_000 + b"\r\n")
            if raw.reader.at_eof() or raw.writer.is_closing():
                break
        else:
            pytest.fail("64 MB of headers were taken")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        pytest.param("EIO=3&transport=polling", 5, id="EIO 3"),
        pytest.param("EIO=5&transport=polling", 5, id="EIO 5"),
        pytest.param("EIO=04&transport=polling", 5, id="EIO 04"),
        pytest.param("EIO=%00&transport=polling", 5, id="EIO NUL"),
        pytest.param("EIO=4&transport=flashsocket", 0, id="unknown transport"),
        pytest.param("EIO=4&transport=__proto__", 0, id="prototype"),
        pytest.param("EIO=4&transport=constructor", 0, id="constructor"),
        pytest.param("EIO=4&transport=polling&sid=none", 1, id="unknown sid"),
        pytest.param("EIO=4&transport=polling&sid=", 1, id="empty sid"),
        pytest.param("EIO=4&transport=polling&sid=__proto__", 1, id="prototype sid"),
        pytest.param("EIO=4&transport=polling&sid=..%2F..%2Fetc%2Fpasswd", 1, id="path as sid"),
        pytest.param("EIO=4&transport=polling&sid=%F0%9F%98%80", 1, id="emoji sid"),
        pytest.param("EIO=4&transport=polling&sid=" + "x" * 4000, 1, id="long sid"),
    ],
)
async def test_bad_query_is_a_400_with_the_references_code(
    server: Server, query: str, code: int
) -> None:
    """The body says why, with the code that the reference server gives."""
    async with RawSocket.dial(server.port) as raw:
        response = await raw.request("GET", f"/socket.io/?{query}")
    assert response.status == 400
    assert f'"code":{code},'.encode() in response.body.replace(b" ", b"")


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("PUT", ""),
        ("DELETE", ""),
        ("PATCH", ""),
        ("POST", ""),
        ("HEAD", ""),
        ("BREW", ""),
        ("PUT", "&sid=none"),
    ],
)
async def test_unknown_method_is_refused(server: Server, method: str, query: str) -> None:
    """Only GET and POST mean something on a polling session, only GET opens one."""
    async with RawSocket.dial(server.port) as raw:
        await raw.send(f"{method} {POLLING}{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await raw.reader.readuntil(b"\r\n\r\n")
    assert 400 <= int(head.split()[1]) < 500


@pytest.mark.parametrize("path", [WEBSOCKET, "/ws"])
@pytest.mark.parametrize(
    "missing",
    ["Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "],
)
async def test_incomplete_websocket_handshake_is_refused(
    server: Server, path: str, missing: str
) -> None:
    """A handshake that lacks a header that RFC 6455 requires is a 4xx."""
    headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    kept = [header for header in headers if not header.startswith(missing)]
    async with RawSocket.dial(server.port) as raw:
        response = await raw.request("GET", path, *kept)
    assert 400 <= response.status < 500


@pytest.mark.parametrize("path", [WEBSOCKET, "/ws?token=none"])
@pytest.mark.parametrize(
    ("connection", "more"),
    [
        pytest.param("keep-alive, Upgrade", (), id="as Firefox writes it"),
        pytest.param("UPGRADE", ("X-A: 1", "X-A: 2"), id="what uvicorn parses"),
    ],
)
async def test_a_connection_header_is_a_list(
    server: Server, path: str, connection: str, more: tuple[str, ...]
) -> None:
    """RFC 6455 section 4.2.1: it includes the token "Upgrade", in any case."""
    headers = (
        "Upgrade: WebSocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with RawSocket.dial(server.port) as raw:
        response = await raw.request("GET", path, f"Connection: {connection}", *headers, *more)
    assert response.status == 101
    assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Sec-WebSocket-Version: 8", id="version 8"),
        pytest.param("Sec-WebSocket-Key: short", id="short key"),
    ],
)
async def test_wrong_websocket_handshake_is_refused(server: Server, header: str) -> None:
    """A version or a key that RFC 6455 does not know is a 4xx."""
    name = header.split(":")[0]
    headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    kept = [other for other in headers if not other.startswith(name)]
    async with RawSocket.dial(server.port) as raw:
        response = await raw.request("GET", WEBSOCKET, *kept, header)
    assert 400 <= response.status < 500


@pytest.mark.parametrize(
    "path",
    [
        "/socket.io/?transport=websocket",
        "/socket.io/?EIO=3&transport=websocket",
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=4",
        "/socket.io/?EIO=4&transport=websocket&sid=none",
        "/nowhere",
        "/",
    ],
)
async def test_websocket_that_cannot_be_is_refused_before_the_101(
    server: Server, path: str
) -> None:
    """A wrong query or path is a 4xx, not a WebSocket that closes."""
    async with RawSocket.dial(server.port) as raw:
        assert 400 <= (await raw.upgrade(path)).status < 500


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/assets/%00", id="no name of a file"),
        pytest.param("/assets/" + "a" * 5_000, id="a name longer than files have"),
        pytest.param("/assets/", id="a directory"),
        pytest.param("/assets/..%2Findex.html", id="another way to a file"),
        pytest.param("/assets/..%2f..%2fcli.py", id="a file beside the page"),
        pytest.param("/assets/%FF", id="no UTF-8"),
    ],
)
async def test_a_file_that_is_not_the_pages_is_not_there(server: Server, path: str) -> None:
    """404, whatever the name; and the page's own are."""
    async with RawSocket.dial(server.port) as raw:
        assert (await raw.request("GET", path)).status == 404
        page = await raw.request("GET", "/")
        (script,) = re.findall(rb'src="(/assets/[^"]+\.js)"', page.body)
        answer = await raw.request("GET", script.decode())
        assert (answer.status, "immutable" in answer.headers["cache-control"]) == (200, True)
