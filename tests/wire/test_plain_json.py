"""The plain JSON WebSocket: the same operations without any library (docs/wire.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.plainjson import PlainJson, plain_signed_in
from support.server import Server
from support.sio import signed_in
from support.tokens import make_token

User = Callable[[str], str]
BAD_TOKEN = make_token("mallory", secret="another-secret-that-is-long-enough")


async def assert_signed_in(client: PlainJson, user: str) -> None:
    """The first message says who one is, and until when."""
    connected = await client.next("connected")
    assert set(connected) == {"type", "userId", "sid", "expiresAt", "cursor"}
    assert connected["userId"] == user
    assert isinstance(connected["cursor"], str)
    assert isinstance(connected["expiresAt"], int)


async def test_sign_in_with_a_header(server: Server, user: User) -> None:
    """`Authorization: Bearer` on the handshake, for clients that can set headers."""
    alice = user("alice")
    headers = {"Authorization": f"Bearer {make_token(alice)}"}
    async with PlainJson.dial(server.ws_url, headers=headers) as client:
        await assert_signed_in(client, alice)


async def test_sign_in_with_a_subprotocol(server: Server, user: User) -> None:
    """Browsers offer `roomful` and `bearer.<token>`; the token is not echoed."""
    alice = user("alice")
    offered = ["roomful", f"bearer.{make_token(alice)}"]
    async with PlainJson.dial(server.ws_url, subprotocols=offered) as client:
        assert client.connection.subprotocol == "roomful"
        await assert_signed_in(client, alice)


async def test_sign_in_with_the_first_message(server: Server, user: User) -> None:
    """A client that can do neither sends `auth` first."""
    alice = user("alice")
    async with PlainJson.dial(server.ws_url) as client:
        await client.send({"type": "auth", "token": make_token(alice)})
        await assert_signed_in(client, alice)


async def test_sign_in_with_the_query_under_dev(server: Server, user: User) -> None:
    """`?token=` is for trying things out (`--dev`)."""
    alice = user("alice")
    async with PlainJson.dial(server.ws_url, query=f"?token={make_token(alice)}") as client:
        await assert_signed_in(client, alice)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"headers": {"Authorization": f"Bearer {BAD_TOKEN}"}}, id="header"),
        pytest.param({"subprotocols": ["roomful", f"bearer.{BAD_TOKEN}"]}, id="subprotocol"),
        pytest.param({"query": f"?token={BAD_TOKEN}"}, id="query"),
    ],
)
async def test_bad_token_on_the_handshake_lets_nobody_in(
    server: Server, how: dict[str, Any]
) -> None:
    """The WebSocket opens, so that browsers see the code, and is closed with UNAUTHORIZED."""
    async with PlainJson.dial(server.ws_url, **how) as client:
        assert await client.wait_closed() == 4505
        assert client.inbox.pending("connected") == []


async def test_bad_token_in_the_first_message_closes(server: Server) -> None:
    """The connection is closed with UNAUTHORIZED."""
    async with PlainJson.dial(server.ws_url) as client:
        await client.send({"type": "auth", "token": BAD_TOKEN})
        assert await client.wait_closed() == 4505


async def test_operation_before_sign_in_is_refused(server: Server, room: str, user: User) -> None:
    """Nothing can be done before the sign-in, which can still follow."""
    async with PlainJson.dial(server.ws_url) as client:
        acked = await client.call("join-room", roomId=room)
        await client.send({"type": "join-room", "roomId": room})
        event = await client.next("error")
        await client.send({"type": "auth", "token": make_token(user("alice"))})
        await client.next("connected")
        said = await client.call("message", roomId=room, content="x")
    assert (acked["success"], acked["error"]["code"]) == (False, "UNAUTHORIZED")
    assert (event["code"], event["operation"]) == ("UNAUTHORIZED", "join-room")
    assert said["error"]["code"] == "NOT_JOINED"


@pytest.mark.parametrize(
    "message",
    [{"type": "join-room", "roomId": "a"}, {"type": "nonsense"}],
    ids=lambda one: one["type"],
)
async def test_what_comes_before_the_sign_in_is_bounded(
    server: Server, message: dict[str, Any]
) -> None:
    """Each is refused, up to a few: then the connection is closed."""
    async with PlainJson.dial(server.ws_url) as client:
        for _ in range(100):
            await client.send(message)
        assert await client.wait_closed() == 4505
        assert len(client.inbox.pending("error")) == 16


async def test_conversation_with_a_socketio_client(server: Server, room: str, user: User) -> None:
    """Both wires are in the same rooms and hear the same messages."""
    alice, bob = user("alice"), user("bob")
    async with (
        plain_signed_in(server.ws_url, make_token(alice)) as plain,
        signed_in(server.ws_url, make_token(bob)) as socket,
    ):
        joined = await plain.call("join-room", roomId=room)
        await socket.join(room)
        came = await plain.next("user-joined")
        ack = await plain.call("message", roomId=room, content={"text": "hi"}, id="m1")
        at_socket = (await socket.next("message")).body
        at_plain = await plain.next("message")
        await socket.emit("typing", {"roomId": room})
        typing = await plain.next("typing")
    assert joined | {"ref": ""} == {
        "type": "ack",
        "ref": "",
        "success": True,
        "roomId": room,
        "members": [{"userId": alice, "status": "online"}],
        "count": 1,
    }
    assert came["userId"] == typing["userId"] == bob
    assert set(ack) == {"type", "ref", "success", "id", "offset", "timestamp"}
    assert at_plain == {"type": "message", "cursor": at_plain["cursor"]} | at_socket
    assert at_socket["content"] == {"text": "hi"}


async def test_ack_only_where_a_ref_was_given(server: Server, room: str, user: User) -> None:
    """An operation without `ref` is done, and not acked."""
    async with plain_signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.send({"type": "join-room", "roomId": room})
        await client.send({"type": "message", "roomId": room, "content": "x"})
        assert (await client.next("message"))["content"] == "x"
        assert client.inbox.pending("ack") == []


@pytest.mark.parametrize(
    "ref", ["text", {"a": [1]}, [None], None, 1.5, True, ""], ids=lambda ref: json.dumps(ref)
)
async def test_ref_is_any_json(server: Server, room: str, user: User, ref: object) -> None:
    """The `ref` comes back as it went."""
    async with plain_signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.send({"type": "join-room", "roomId": room, "ref": ref})
        ack = await client.next("ack")
    assert (ack["success"], ack["ref"]) == (True, ref)


async def test_refusals(server: Server, room: str, user: User) -> None:
    """With a ref a refusal is the ack, without one an `error` message."""
    async with plain_signed_in(server.ws_url, make_token(user("alice"))) as client:
        acked = await client.call("message", roomId=room, content="x")
        await client.send({"type": "message", "roomId": room, "content": "x"})
        event = await client.next("error")
        unknown = await client.call("no-such-thing")
    assert (acked["success"], acked["error"]["code"]) == (False, "NOT_JOINED")
    assert (event["code"], event["operation"], event["retryable"]) == (
        "NOT_JOINED",
        "message",
        False,
    )
    assert unknown["error"]["code"] == "UNKNOWN_EVENT"


async def test_binary_comes_as_base64(server: Server, room: str, user: User) -> None:
    """What a Socket.IO client sent as bytes is `{"$binary": "<base64>"}` here and in history."""
    packet = (
        f'452-7["message",{{"roomId":"{room}","content":'
        '{"b":{"_placeholder":true,"num":1},"a":[{"_placeholder":true,"num":0}]}}]'
    )
    async with (
        plain_signed_in(server.ws_url, make_token(user("alice"))) as plain,
        signed_in(server.ws_url, make_token(user("bob"))) as socket,
    ):
        await plain.call("join-room", roomId=room)
        await socket.join(room)
        for frame in (packet, b"\x00\x01", b"\xff"):
            await socket.send(frame)
        at_socket = (await socket.next("message")).body["content"]
        at_plain = (await plain.next("message"))["content"]
        page = await plain.call("history", roomId=room)
    assert at_socket == {"b": b"\xff", "a": [b"\x00\x01"]}
    assert at_plain == {"b": {"$binary": "/w=="}, "a": [{"$binary": "AAE="}]}
    assert [message["content"] for message in page["messages"]] == [at_plain]


async def test_published_event(server: Server, room: str, user: User) -> None:
    """An app's event is an `event` with its name and data beside the rest."""
    alice = user("alice")
    async with plain_signed_in(server.ws_url, make_token(alice)) as client:
        await client.call("join-room", roomId=room)
        ack = await client.call("publish", roomId=room, event="score", data=[1], id="p")
        heard = await client.next("event")
    assert heard == {
        "type": "event",
        "id": "p",
        "roomId": room,
        "userId": alice,
        "event": "score",
        "data": [1],
        "timestamp": ack["timestamp"],
        "offset": ack["offset"],
        "cursor": heard["cursor"],
    }
