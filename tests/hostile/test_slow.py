"""Peers that take their time: each is closed at its limit, and the others notice nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest

from support.deadline import DEADLINE_S, eventually, within
from support.eio import Polling
from support.plainjson import PlainJson
from support.proxy import Proxy
from support.rawsocket import Opcode, RawSocket, build_frame
from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_token

PING_TIMEOUT, SLOW_CLIENT, CONNECT_TIMEOUT = 4000, 4001, 4501
SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
POLLING = "/socket.io/?EIO=4&transport=polling"
CUT_S = DEADLINE_S / 2
"""Far above the second that a head or a body may take, below the 30 s of a connection at rest."""


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Patience that fits into a test, and is longer than a busy machine lets a good client wait."""
    return {
        "ping_interval_s": "0.6",
        "ping_timeout_s": "3",
        "limits_connect_timeout_s": "3",
        "limits_header_timeout_s": "1",
        "limits_body_timeout_s": "1",
    }


async def connections(http: httpx.AsyncClient, server: Server) -> int:
    """Ask how many connections there are."""
    stats = (await http.get(f"{server.url}/api/ws/stats")).json()
    count = stats["activeConnections"]
    assert isinstance(count, int)
    return count


async def test_client_that_answers_no_ping_is_closed(server: Server) -> None:
    """With PING_TIMEOUT, after the interval and the timeout."""
    async with RawSocket.websocket(server.port, SOCKETIO) as raw:
        connect = '40{"token":"' + make_token("alice") + '"}'
        await raw.send(build_frame(Opcode.TEXT, connect.encode()))
        assert await raw.close_code() == PING_TIMEOUT


async def test_half_open_connections_go_away(
    server: Server, http: httpx.AsyncClient, room: str
) -> None:
    """Connections whose other end is silent are gone after the ping timeout, and left the room."""
    async with (
        signed_in(server.ws_url, make_token("watcher")) as watcher,
        Proxy.before(server.port) as proxy,
    ):
        await watcher.join(room)
        before = await connections(http, server)
        async with asyncio.TaskGroup() as group, stranded(proxy, room, group):
            proxy.freeze()

            async def is_gone() -> bool:
                return await connections(http, server) == before

            await eventually(is_gone, "half-open connections are closed")
            proxy.thaw()


@asynccontextmanager
async def stranded(proxy: Proxy, room: str, group: asyncio.TaskGroup) -> AsyncIterator[None]:
    """Ten members behind the proxy."""
    ready: list[asyncio.Event] = [asyncio.Event() for _ in range(10)]
    done = asyncio.Event()

    async def member(number: int) -> None:
        async with signed_in(proxy.ws_url, make_token(f"stranded-{number}")) as client:
            await client.join(room)
            ready[number].set()
            await done.wait()

    for number in range(10):
        group.create_task(member(number))
    for event in ready:
        await within(event.wait())
    try:
        yield
    finally:
        done.set()


@pytest.mark.parametrize("wire", ["socket.io", "plain"])
async def test_slow_reader_is_closed_and_the_others_are_not(
    server: Server, room: str, wire: str
) -> None:
    """
    One member stops reading while 40 MB go through the room.

    It is closed with SLOW_CLIENT, the other member gets every message, and the server keeps no
    more than its send buffer for the slow one.
    """
    content = "x" * 200_000
    async with (
        signed_in(server.ws_url, make_token("sender")) as sender,
        signed_in(server.ws_url, make_token("quick")) as quick,
        slow_member(server, room, wire) as slow,
    ):
        await sender.join(room)
        await quick.join(room)
        before = server.memory_bytes()
        for number in range(200):
            await sender.say(room, {"n": number, "x": content})
            assert (await quick.next("message")).body["content"]["n"] == number
        assert server.memory_bytes() - before < 300 * 200_000
        assert await slow.close_code() == SLOW_CLIENT


@asynccontextmanager
async def slow_member(server: Server, room: str, wire: str) -> AsyncIterator[RawSocket]:
    """A member with a small receive buffer that has joined and reads nothing from then on."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    raw = RawSocket(reader, writer)
    path, packets, joined, pong = SIGN_IN[wire]
    try:
        assert (await raw.upgrade(path)).status == 101
        for packet in packets:
            text = packet.replace("ROOM", room).replace("TOKEN", make_token("slow"))
            await raw.send(build_frame(Opcode.TEXT, text.encode()))
        while joined not in (await raw.frame())[1]:
            pass
        answering = asyncio.create_task(repeat(raw, pong))
        yield raw
        answering.cancel()
    finally:
        writer.transport.abort()


SIGN_IN = {
    "socket.io": (
        SOCKETIO,
        ['40{"token":"TOKEN"}', '421["join-room","ROOM"]'],
        b"431[",
        build_frame(Opcode.TEXT, b"3"),
    ),
    "plain": (
        "/ws",
        ['{"type":"auth","token":"TOKEN"}', '{"type":"join-room","roomId":"ROOM","ref":1}'],
        b'"ref":1',
        build_frame(Opcode.PONG),
    ),
}
"""Per wire: the path, what to send, what says that it is done, and a sign of life."""


async def repeat(raw: RawSocket, frame: bytes) -> None:
    """Send pongs without reading the pings: a client that is slow, not dead."""
    while True:
        await raw.send(frame)
        await asyncio.sleep(0.2)


async def test_slow_polling_client_is_bounded(
    server: Server, http: httpx.AsyncClient, room: str
) -> None:
    """A polling member that does not poll is closed when too much waits for it."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    token = make_token("poller")
    await session.post('40{"token":"' + token + '"}')
    while not any(packet.startswith("40") for packet in await session.packets()):
        pass
    await session.post(f'421["join-room","{room}"]')
    while not any(packet.startswith("431") for packet in await session.packets()):
        pass
    async with signed_in(server.ws_url, make_token("sender")) as sender:
        await sender.join(room)
        for number in range(20):
            await sender.say(room, {"n": number, "x": "x" * 200_000})
    statuses = [(await session.poll()).status_code for _ in range(2)]
    assert statuses[-1] == 400


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /soc", id="half a line"),
        pytest.param(f"GET {POLLING} HTTP/1.1\r\nHost: a\r\n".encode(), id="half a head"),
    ],
)
async def test_slow_head_is_cut(server: Server, sent: bytes) -> None:
    """A head that does not come in time ends the connection."""
    async with RawSocket.dial(server.port) as raw:
        await raw.send(sent)
        await raw.wait_eof(seconds=CUT_S)


async def test_dripping_head_is_cut(server: Server) -> None:
    """One byte at a time does not buy more time."""
    async with RawSocket.dial(server.port) as raw:
        dripping = asyncio.create_task(drip(raw, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000))
        await raw.wait_eof(seconds=CUT_S)
        assert not dripping.done()
        dripping.cancel()


async def drip(raw: RawSocket, data: bytes) -> None:
    """Send *data* byte by byte."""
    for byte in data:
        await raw.send(bytes([byte]))
        await asyncio.sleep(0.02)


async def test_slow_body_is_cut(server: Server, http: httpx.AsyncClient) -> None:
    """A polling POST whose body does not come in time is a 408, or just closed."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    async with RawSocket.dial(server.port) as raw:
        head = f"POST {POLLING}&sid={session.sid} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
        await raw.send(head.encode() + b"\r\n4")
        dripping = asyncio.create_task(drip(raw, b"x" * 5000))
        said = await raw.wait_eof(seconds=CUT_S)
        assert not dripping.done()
        dripping.cancel()
    assert said == b"" or said.startswith(b"HTTP/1.1 4")


async def test_slow_frame_is_cut(server: Server) -> None:
    """A WebSocket frame that never ends is no sign of life: the ping timeout ends it."""
    async with RawSocket.websocket(server.port, SOCKETIO) as raw:
        connect = '40{"token":"' + make_token("alice") + '"}'
        await raw.send(build_frame(Opcode.TEXT, connect.encode()))
        await raw.send(build_frame(Opcode.TEXT, b"42", length=100_000))
        dripping = asyncio.create_task(drip(raw, b"x" * 5000))
        assert await raw.close_code() == PING_TIMEOUT
        assert not dripping.done()
        dripping.cancel()


ASKED = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = b"POST /api/rooms/r/events HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
READ = b"POST /api/dev/token HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
IGNORED = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(ASKED + b"GET /", 408, id="second head"),
        pytest.param(READ, 400, id="body of the API"),
        pytest.param(REFUSED, 401, id="body that nobody reads"),
        pytest.param(IGNORED, 200, id="body that belongs to nothing"),
    ],
)
async def test_dripping_ends_in_time(server: Server, sent: bytes, status: int) -> None:
    """Also behind a good request, and behind an answer: each byte is no new time."""
    async with RawSocket.dial(server.port) as raw:
        await raw.send(sent)
        dripping = asyncio.create_task(drip(raw, b"x" * 5000))
        said = await raw.wait_eof()
        assert not dripping.done()
        dripping.cancel()
        assert f"HTTP/1.1 {status} ".encode() in said


async def test_connection_without_connect_is_closed(server: Server) -> None:
    """Who answers pings and never signs in is closed with CONNECT_TIMEOUT."""
    async with SocketIo.dial(server.ws_url) as client:
        assert await client.wait_closed() == CONNECT_TIMEOUT


async def test_plain_json_without_sign_in_is_closed(server: Server) -> None:
    """The same on the plain JSON wire."""
    async with PlainJson.dial(server.ws_url) as client:
        assert await client.wait_closed() == CONNECT_TIMEOUT


async def test_polling_session_without_connect_is_closed(
    server: Server, http: httpx.AsyncClient
) -> None:
    """The same on polling, though every ping is answered."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()

    async def is_gone() -> bool:
        if (await session.poll()).status_code == 400:
            return True
        return (await session.post("3")).status_code == 400

    await eventually(is_gone, "the session is gone", seconds=DEADLINE_S)


async def test_idle_http_connections_are_cut(server: Server) -> None:
    """A hundred connections that say nothing are all closed, and their files with them."""
    before = server.open_files()
    async with asyncio.TaskGroup() as group:

        async def idle() -> None:
            async with RawSocket.dial(server.port) as raw:
                await raw.wait_eof(seconds=CUT_S)

        for _ in range(100):
            group.create_task(idle())

    async def is_back() -> bool:
        return server.open_files() <= before + 2

    await eventually(is_back, "the files are closed")


async def test_peer_that_does_not_answer_the_close_is_hung_up_on(server: Server) -> None:
    """After our close frame the TCP connection does not stay open for ever."""
    async with RawSocket.websocket(server.port, SOCKETIO) as raw:
        await raw.send(build_frame(Opcode.TEXT, b"nonsense"))
        await raw.wait_eof(seconds=DEADLINE_S)
