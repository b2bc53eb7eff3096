"""Rooms, who is in them, and refusals: acks key by key, and what the others hear (docs/wire.md)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_token

User = Callable[[str], str]


def assert_now(timestamp_ms: int) -> None:
    """Timestamps are milliseconds since the epoch."""
    assert isinstance(timestamp_ms, int)
    assert abs(timestamp_ms - time.time() * 1000) < 60_000


async def synced(client: SocketIo, room: str) -> None:
    """Wait for the answer to a question: what was sent to the client before has come by then."""
    assert (await client.call("get-presence", {"roomId": room}))["success"]


async def test_sign_in_gives_the_session_and_a_cursor(server: Server, user: User) -> None:
    """CONNECT is answered with sid and pid, and one `cursor` event follows by itself."""
    async with SocketIo.dial(server.ws_url) as client:
        answer = await client.sign_in({"token": make_token(user("alice"))})
        cursor = await client.next("cursor")
    assert set(answer) == {"sid", "pid"}
    assert answer["sid"] != answer["pid"]
    assert [type(arg) for arg in cursor.args] == [str]


async def test_join_room(server: Server, room: str, user: User) -> None:
    """The ack has success, roomId, members and count; a cursor follows; others hear it."""
    alice, bob = user("alice"), user("bob")
    async with (
        signed_in(server.ws_url, make_token(alice)) as first,
        signed_in(server.ws_url, make_token(bob)) as second,
    ):
        await first.join(room)
        await second.next("cursor")
        ack = await second.call("join-room", {"roomId": room})
        cursor = await second.next("cursor")
        came = (await first.next("user-joined")).body
    assert ack == {"success": True, "roomId": room, "members": ack["members"], "count": 2}
    by_user = {member["userId"]: member for member in ack["members"]}
    assert by_user == {name: {"userId": name, "status": "online"} for name in (alice, bob)}
    assert isinstance(cursor.body, str)
    assert came | {"timestamp": 0} == {
        "userId": bob,
        "roomId": room,
        "status": "online",
        "timestamp": 0,
    }
    assert_now(came["timestamp"])


async def test_second_connection_of_a_user_is_no_second_member(
    server: Server, room: str, user: User
) -> None:
    """A user is in a room once; the others hear the first connection come and the last go."""
    alice, bob = user("alice"), user("bob")
    async with (
        signed_in(server.ws_url, make_token(alice)) as watcher,
        signed_in(server.ws_url, make_token(bob)) as phone,
        signed_in(server.ws_url, make_token(bob)) as laptop,
    ):
        await watcher.join(room)
        await phone.join(room)
        assert (await laptop.join(room))["count"] == 2
        await phone.call("leave-room", {"roomId": room})
        await synced(watcher, room)
        assert len(watcher.inbox.drain("user-joined")) == 1
        assert watcher.inbox.pending("user-left") == []
        await laptop.call("leave-room", {"roomId": room})
        assert (await watcher.next("user-left")).body["userId"] == bob


async def test_leave_room(server: Server, room: str, user: User) -> None:
    """Who left hears nothing more of the room and is no member."""
    alice, bob = user("alice"), user("bob")
    async with (
        signed_in(server.ws_url, make_token(alice)) as stays,
        signed_in(server.ws_url, make_token(bob)) as leaves,
    ):
        await stays.join(room)
        await leaves.join(room)
        assert await leaves.call("leave-room", room) == {"success": True, "roomId": room}
        await stays.say(room, "after")
        assert (await stays.next("message")).body["content"] == "after"
        presence = await leaves.call("get-presence", {"roomId": room})
        assert leaves.inbox.pending("message") == []
    assert presence == {
        "success": True,
        "roomId": room,
        "members": [{"userId": alice, "status": "online"}],
        "count": 1,
    }


async def test_refusal_without_ack_is_an_error_event(server: Server, room: str, user: User) -> None:
    """Where no ack was asked for, a refusal is an `error` event that names the operation."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.emit("message", {"roomId": room, "content": "x"})
        error = (await client.next("error")).body
    assert error | {"message": ""} == {
        "code": "NOT_JOINED",
        "message": "",
        "retryable": False,
        "operation": "message",
    }
    assert error["message"]


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("join-room", {"roomId": "user:somebody"}),
        ("leave-room", {"roomId": "not-joined"}),
        ("message", {"roomId": "not-joined", "content": 1}),
        ("publish", {"roomId": "not-joined", "event": "e", "data": 1}),
        ("typing", {"roomId": "not-joined"}),
        ("direct-message", {"content": 1}),
        ("presence", {"status": 1}),
        ("get-presence", {}),
        ("history", {}),
        ("auth", {}),
        ("no-such-thing", {}),
    ],
)
async def test_error_event_names_the_operation(
    server: Server, user: User, operation: str, fields: dict[str, object]
) -> None:
    """As the client called it, so that it can tell which of its sends was refused."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.emit(operation, fields)
        assert (await client.next("error")).body["operation"] == operation


async def test_operations_are_done_in_the_order_they_were_sent(
    server: Server, room: str, user: User
) -> None:
    """`join-room`, `message`, `leave-room` without waiting in between mean what they say."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        for number in range(20):
            calls = [
                await client.start_call("join-room", room),
                await client.start_call("message", {"roomId": room, "content": number}),
                await client.start_call("leave-room", room),
                await client.start_call("message", {"roomId": room, "content": "late"}),
            ]
            acks = [(await call)[0] for call in calls]
            assert [ack["success"] for ack in acks] == [True, True, True, False]
        heard = [event.body["content"] for event in client.inbox.drain("message")]
    # The messages of a room that one has left again may not be heard any more, but none twice.
    assert heard == sorted(set(heard))


async def test_events_that_are_not_stored_end_in_an_object(
    server: Server, room: str, user: User
) -> None:
    """A stock client takes any last string for a cursor, so only stored events have one."""
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as watcher,
        signed_in(server.ws_url, make_token(user("bob"))) as other,
    ):
        await watcher.join(room)
        await other.join(room)
        await other.emit("typing", {"roomId": room, "isTyping": False})
        await other.call("presence", {"status": "busy"})
        await other.call("leave-room", room)
        for name in ("user-joined", "typing", "presence", "user-left"):
            event = await watcher.next(name)
            assert [type(arg) for arg in event.args] == [dict], event


async def test_own_other_connections_hear_messages_but_no_presence(
    server: Server, room: str, user: User
) -> None:
    """Typing, status, joins and leaves are for others; messages are for everyone."""
    alice = user("alice")
    async with (
        signed_in(server.ws_url, make_token(alice)) as phone,
        signed_in(server.ws_url, make_token(alice)) as laptop,
    ):
        await phone.join(room)
        await laptop.join(room)
        await laptop.emit("typing", {"roomId": room})
        await laptop.call("presence", {"status": "away"})
        await laptop.say(room, "hello")
        assert (await phone.next("message")).body["content"] == "hello"
        for name in ("typing", "presence", "user-joined", "user-left"):
            assert phone.inbox.pending(name) == []


async def test_presence_of_a_connection_that_comes_later(
    server: Server, room: str, user: User
) -> None:
    """A status set before a join is the status the others see at the join."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as watcher,
        signed_in(server.ws_url, make_token(bob)) as other,
    ):
        await watcher.join(room)
        await other.call("presence", {"status": "busy"})
        await other.join(room)
        assert (await watcher.next("user-joined")).body["status"] == "busy"


async def test_claims_limit_what_a_user_may_do(server: Server, user: User) -> None:
    """A token's `rooms` say where its user may join, and where send."""
    rights = {"team-*": ["join", "send"], "news": ["join"]}
    async with signed_in(server.ws_url, make_token(user("alice"), rooms=rights)) as client:
        await client.join("team-1")
        await client.join("news")
        assert (await client.call("message", {"roomId": "team-1", "content": 1}))["success"]
        silent = await client.call("message", {"roomId": "news", "content": 1})
        outside = await client.call("join-room", {"roomId": "board"})
        read = await client.call("history", {"roomId": "board"})
        seen = await client.call("get-presence", {"roomId": "board"})
    codes = [ack["error"]["code"] for ack in (silent, outside, read, seen)]
    assert codes == ["FORBIDDEN", "FORBIDDEN", codes[2], codes[3]]
    assert {codes[2], codes[3]} <= {"FORBIDDEN", "NOT_JOINED"}
