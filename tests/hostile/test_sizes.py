"""More than the limits: bytes, fragments, attachments, rooms, namespaces, messages a second."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from support.eio import EngineSocket, Polling
from support.plainjson import plain_signed_in
from support.rawsocket import Opcode, RawSocket, build_frame
from support.refusals import assert_refused
from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_token

TOO_BIG, LIMIT = 1009, 4504
PAYLOAD_BYTES = 1_000_000
TEN_MB = 10_000_000
SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
PATHS = pytest.mark.parametrize("path", [SOCKETIO, "/ws"], ids=["socket.io", "plain"])
ROOMS_PER_CONNECTION = 100


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """A rate that a test can exceed, and few rooms; the other limits are the defaults."""
    return {
        "limits_messages_per_second": "500",
        "limits_message_burst": "12000",
        "limits_user_messages_per_second": "0",
        "limits_rooms_per_connection": str(ROOMS_PER_CONNECTION),
    }


@PATHS
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
async def test_message_of_ten_megabytes_in_one_frame(
    server: Server, path: str, opcode: Opcode
) -> None:
    """Closed with TOO_BIG at the header; the payload is not waited for."""
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(opcode, b"4" * 1000, length=TEN_MB))
        assert await raw.close_code() == TOO_BIG


@PATHS
async def test_message_of_ten_megabytes_in_fragments(server: Server, path: str) -> None:
    """The sum counts, not the size of one frame."""
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(Opcode.TEXT, b"4" * 100_000, final=False))
        for _ in range(99):
            await raw.send(build_frame(Opcode.CONTINUATION, b"x" * 100_000, final=False))
        assert await raw.close_code() == TOO_BIG


@PATHS
@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
async def test_a_million_fragments(server: Server, path: str, payload: bytes) -> None:
    """A message in endlessly many small fragments is closed, not collected."""
    async with RawSocket.websocket(server.port, path) as raw:
        await raw.send(build_frame(Opcode.TEXT, b"4", final=False))
        for _ in range(100):
            if raw.reader.at_eof():
                break
            await raw.send(build_frame(Opcode.CONTINUATION, payload, final=False) * 10_000)
        assert await raw.close_code() == TOO_BIG


@PATHS
async def test_compression_is_not_taken_or_bounded(server: Server, path: str) -> None:
    """A bomb of 100 MB in 100 KB is closed; most simply because compression is not agreed to."""
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(b"4" + b"0" * 100_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
    async with RawSocket.dial(server.port) as raw:
        answer = await raw.upgrade(path, "Sec-WebSocket-Extensions: permessage-deflate")
        assert answer.status == 101
        agreed = "permessage-deflate" in answer.headers.get("sec-websocket-extensions", "")
        await raw.send(build_frame(Opcode.TEXT, bomb[:-4], reserved=4))
        assert await raw.close_code() == (TOO_BIG if agreed else 1002)


async def test_largest_message_passes(server: Server, room: str) -> None:
    """The limit is maxPayload, and what is just below it arrives."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.join(room)
        content = "x" * (PAYLOAD_BYTES - 200)
        await client.say(room, content)
        assert (await client.next("message")).body["content"] == content


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_polling_body_of_ten_megabytes(
    server: Server, http: httpx.AsyncClient, chunked: bool
) -> None:
    """A 413: at the head if that says the length, else once too much has come."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    path = f"/socket.io/?EIO=4&transport=polling&sid={session.sid}"
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {TEN_MB}"
    async with RawSocket.dial(server.port) as raw:
        await raw.send(f"POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
        if chunked:
            chunk = b"4" * 50_000
            for _ in range(PAYLOAD_BYTES // len(chunk) + 1):
                await raw.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        assert (await raw.response()).status == 413
    assert (await session.poll()).status_code == 400


async def test_client_that_writes_on_hears_that_its_polling_body_is_too_large(
    server: Server, http: httpx.AsyncClient
) -> None:
    """Closed on what it still writes, the connection would be reset, and the answer lost."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    path = f"/socket.io/?EIO=4&transport=polling&sid={session.sid}"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {2 * PAYLOAD_BYTES}\r\n\r\n"
    async with RawSocket.dial(server.port) as raw:
        await raw.send(head.encode() + b"4" * PAYLOAD_BYTES)
        assert (await raw.response()).status == 413
        await raw.send(b"4" * PAYLOAD_BYTES)
        assert (await raw.request("GET", path)).status == 400


async def test_polling_body_of_many_packets(server: Server, http: httpx.AsyncClient) -> None:
    """A payload of half a million packets is refused or done, and others are served meanwhile."""
    session = Polling(http, f"{server.url}/socket.io/")
    await session.open()
    body = "\x1e".join(["3"] * 499_999)
    assert (await session.post(body)).status_code in {200, 400, 413}


@pytest.mark.parametrize("count", [11, 10_000, 999_999])
async def test_too_many_attachments_are_refused_at_the_count(server: Server, count: int) -> None:
    """The number alone closes the connection: nothing is reserved or waited for."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.send(f'45{count}-["message",{{"_placeholder":true,"num":0}}]')
        assert await client.wait_closed() == TOO_BIG


async def test_attachments_count_for_the_payload(server: Server) -> None:
    """Ten attachments of 900 KB are 9 MB, and above the limit of one event."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.send('4510-["message",{"_placeholder":true,"num":0}]')
        with suppress(ConnectionClosed):
            for _ in range(10):
                await client.send(b"x" * 900_000)
        assert await client.wait_closed() == TOO_BIG


async def test_a_thousand_namespaces(server: Server) -> None:
    """Namespaces that are not there are refused one by one, and none is remembered."""
    async with EngineSocket.opened(f"{server.ws_url}/socket.io/") as socket:
        for number in range(1000):
            await socket.send(f"40/n{number},{{}}")
        for number in range(1000):
            refusal = f'44/n{number},{{"message":"Invalid namespace"}}'
            assert await socket.receive_data() == refusal


async def test_ten_thousand_joins_on_one_connection(server: Server, room: str) -> None:
    """Rooms above the limit are ROOM_LIMIT; leaving one makes room for another."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        pending = [
            await client.start_call("join-room", f"{room}-{number}") for number in range(10_000)
        ]
        acks = [(await answer)[0] for answer in pending]
        joined = [ack for ack in acks if ack["success"]]
        assert len(joined) == ROOMS_PER_CONNECTION
        for ack in acks:
            if not ack["success"]:
                assert_refused(ack, "ROOM_LIMIT")
        assert (await client.call("leave-room", f"{room}-0"))["success"]
        await client.join(f"{room}-again")


async def test_flood_with_acks_is_slowed_and_answered(server: Server, room: str) -> None:
    """Above the rate messages are RATE_LIMITED, retryable; those before it are in order."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.join(room)
        pending = [
            await client.start_call("message", {"roomId": room, "content": number})
            for number in range(20_000)
        ]
        acks = [(await answer)[0] for answer in pending]
        refused = [ack["error"] for ack in acks if not ack["success"]]
        stored = [ack["offset"] for ack in acks if ack["success"]]
        assert len(stored) >= 11_000
        assert stored == sorted(stored)
        assert refused
        assert {error["code"] for error in refused} == {"RATE_LIMITED"}
        assert all(error["retryable"] for error in refused)


async def test_flood_without_acks_harms_only_its_sender(server: Server, room: str) -> None:
    """Fire and forget is limited too; the sender is told, or closed, and others go on."""
    async with (
        signed_in(server.ws_url, make_token("victim")) as victim,
        signed_in(server.ws_url, make_token("alice")) as client,
    ):
        await victim.join(room)
        await client.join(room)
        for number in range(30_000):
            if client.closed.is_set():
                break
            await client.emit("message", {"roomId": room, "content": number})
        await wait_for_refusal(client)
        await victim.say(room, "mine")
        heard = 0
        while (await victim.next("message")).body["content"] != "mine":
            heard += 1
        assert 0 < heard < 30_000


async def wait_for_refusal(client: SocketIo) -> None:
    """Return when the flood was answered: an `error` that says why, or a close."""
    try:
        assert (await client.next("error")).body["code"] == "RATE_LIMITED"
    except AssertionError:
        assert client.close_code in {LIMIT, 4001}


async def test_flood_of_plain_json(server: Server, room: str) -> None:
    """The rate is of the connection, whatever its wire."""
    async with plain_signed_in(server.ws_url, make_token("alice")) as client:
        await client.call("join-room", roomId=room)
        for _ in range(20_000):
            await client.send({"type": "typing", "roomId": room})
        assert (await client.next("error"))["code"] == "RATE_LIMITED"


async def test_flood_of_pings(server: Server) -> None:
    """Half a million WebSocket pings whose pongs are read cost nothing that stays."""
    async with RawSocket.websocket(server.port, SOCKETIO) as raw:
        await raw.frame()
        for _ in range(50):
            await raw.send(build_frame(Opcode.PING, b"x") * 1_000)
            for _ in range(1_000):
                assert (await raw.frame())[0] == Opcode.PONG


async def test_flood_of_handshakes(server: Server, http: httpx.AsyncClient) -> None:
    """Sessions that are opened and never used go away again, and cost little until then."""
    for _ in range(500):
        response = await http.get(f"{server.url}/socket.io/?EIO=4&transport=polling")
        assert response.status_code in {200, 503}
