"""Who may resume what: the rules around recovery (docs/wire.md, "Cursor and resume")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.plainjson import plain_signed_in
from support.server import Server
from support.sio import ConnectRefused, SocketIo, signed_in
from support.tokens import make_token

User = Callable[[str], str]


@asynccontextmanager
async def left_behind(server: Server, user: str, room: str) -> AsyncIterator[SocketIo]:
    """A client that was in *room* and whose connection was cut after its cursor came."""
    async with signed_in(server.ws_url, make_token(user)) as client:
        await client.join(room)
        await client.say(room, "before")
        await client.next("message")
        client.cut()
        await client.closed.wait()
        yield client


async def resume(client: SocketIo, token: str, old: SocketIo, **changes: Any) -> dict[str, Any]:
    """Send the CONNECT of a stock client that comes back."""
    auth = {"token": token, "pid": old.pid, "offset": old.cursor} | changes
    return await client.sign_in(auth)


async def test_resume_gives_the_session_back(server: Server, room: str, user: User) -> None:
    """Same sid and pid, the rooms joined, what was missed once, before anything new."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as sender,
        left_behind(server, bob, room) as old,
        SocketIo.dial(server.ws_url) as new,
    ):
        await sender.join(room)
        for number in range(3):
            await sender.say(room, number)
        answer = await resume(new, make_token(bob), old)
        await sender.say(room, 3)
        heard = [(await new.next("message")).body["content"] for _ in range(4)]
        presence = await new.call("get-presence", room)
    assert (answer["sid"], answer["pid"]) == (old.sid, old.pid)
    assert heard == [0, 1, 2, 3]
    assert presence["count"] == 2


async def test_a_short_absence_is_no_leave(server: Server, room: str, user: User) -> None:
    """Who comes back within the grace was never gone for the others."""
    alice, bob = user("alice"), user("bob")
    async with signed_in(server.ws_url, make_token(alice)) as watcher:
        await watcher.join(room)
        async with left_behind(server, bob, room) as old, SocketIo.dial(server.ws_url) as new:
            await resume(new, make_token(bob), old)
            await new.say(room, "back")
            while (await watcher.next("message")).body["content"] != "back":
                pass
            assert len(watcher.inbox.pending("user-joined")) == 1
            assert watcher.inbox.pending("user-left") == []


async def test_offline_direct_messages_come_on_resume(
    server: Server, room: str, user: User
) -> None:
    """The user's own room is resumed like the others."""
    bob = user("bob")
    async with (
        left_behind(server, bob, room) as old,
        signed_in(server.ws_url, make_token(user("alice"))) as sender,
        SocketIo.dial(server.ws_url) as new,
    ):
        await sender.call("direct-message", {"userId": bob, "content": "psst"})
        await resume(new, make_token(bob), old)
        assert (await new.next("direct-message")).body["content"] == "psst"


async def test_another_user_with_the_pid_gets_a_session_of_their_own(
    server: Server, room: str, user: User
) -> None:
    """A stolen pid without the user's token is worth nothing."""
    async with (
        left_behind(server, user("bob"), room) as old,
        SocketIo.dial(server.ws_url) as thief,
    ):
        answer = await resume(thief, make_token(user("eve")), old)
        assert answer["pid"] != old.pid
        assert answer["sid"] != old.sid
        ack = await thief.call("message", {"roomId": room, "content": "x"})
        assert ack["error"]["code"] == "NOT_JOINED"
        assert thief.inbox.pending("message") == []


async def test_token_is_checked_again(server: Server, room: str, user: User) -> None:
    """An expired token resumes nothing."""
    bob = user("bob")
    async with left_behind(server, bob, room) as old, SocketIo.dial(server.ws_url) as new:
        with pytest.raises(ConnectRefused, match="Authentication failed"):
            await resume(new, make_token(bob, lifetime_s=-60), old)


async def test_rights_are_checked_again(server: Server, room: str, user: User) -> None:
    """A room that the fresh token does not allow any more is not joined again."""
    bob = user("bob")
    async with left_behind(server, bob, room) as old, SocketIo.dial(server.ws_url) as new:
        await resume(new, make_token(bob, rooms={"other-*": ["join", "send"]}), old)
        ack = await new.call("message", {"roomId": room, "content": "x"})
        assert ack["error"]["code"] in {"NOT_JOINED", "FORBIDDEN"}


async def test_a_room_that_was_refused_stays_left(server: Server, room: str, user: User) -> None:
    """Also when the session is resumed once more, with a token that allows it again."""
    bob = user("bob")
    async with (
        left_behind(server, bob, room) as old,
        SocketIo.dial(server.ws_url) as once,
        SocketIo.dial(server.ws_url) as twice,
    ):
        await resume(once, make_token(bob, rooms={"other-*": ["join", "send"]}), old)
        await once.next("cursor")
        once.cut()
        await once.closed.wait()
        answer = await resume(twice, make_token(bob), old)
        ack = await twice.call("message", {"roomId": room, "content": "x"})
    assert answer["pid"] == old.pid
    assert ack["error"]["code"] == "NOT_JOINED"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"pid": "never-given-out"}, id="unknown pid"),
        pytest.param({"offset": "never-given-out"}, id="unknown cursor"),
        pytest.param({"offset": "\x00"}, id="NUL in the cursor"),
        pytest.param({"offset": "m0.ffffffffffffffff"}, id="cursor of the future"),
        pytest.param({"offset": "x" * 100_000}, id="huge cursor"),
        pytest.param({"offset": 7}, id="cursor is a number"),
        pytest.param({"pid": 7}, id="pid is a number"),
        pytest.param({"pid": {"$ne": ""}}, id="pid is an object"),
        pytest.param({"pid": ""}, id="pid is empty"),
    ],
)
async def test_what_cannot_be_resumed_begins_anew(
    server: Server, room: str, user: User, changes: dict[str, Any]
) -> None:
    """The session starts empty, with a pid of its own, and works."""
    bob = user("bob")
    async with left_behind(server, bob, room) as old, SocketIo.dial(server.ws_url) as new:
        answer = await resume(new, make_token(bob), old, **changes)
        assert answer["pid"] != old.pid
        ack = await new.call("message", {"roomId": room, "content": "x"})
        assert ack["error"]["code"] == "NOT_JOINED"
        await new.join(room)
        await new.say(room, "again")


async def test_who_declines_recovery_is_not_resumed(server: Server, room: str, user: User) -> None:
    """No pid: with one a stock client takes any text that somebody publishes for its cursor."""
    bob = user("bob")
    async with left_behind(server, bob, room) as old, SocketIo.dial(server.ws_url) as new:
        answer = await resume(new, make_token(bob), old, recovery=False)
        assert set(answer) == {"sid"}
        assert answer["sid"] != old.sid
        ack = await new.call("message", {"roomId": room, "content": "x"})
        assert ack["error"]["code"] == "NOT_JOINED"


async def test_failed_recovery_is_told(server: Server, room: str, user: User) -> None:
    """`recovery-failed` comes with the rooms that have a hole, none when none are known."""
    bob = user("bob")
    async with left_behind(server, bob, room) as old, SocketIo.dial(server.ws_url) as new:
        await resume(new, make_token(bob), old, pid="never-given-out")
        assert (await new.next("recovery-failed")).args == [{"holes": []}]


async def test_resumed_session_replaces_the_old_connection(
    server: Server, room: str, user: User
) -> None:
    """A client that comes back before its old connection is known dead closes that one (4003)."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(bob)) as old,
        SocketIo.dial(server.ws_url) as new,
    ):
        await old.join(room)
        await old.say(room, "x")
        await old.next("message")
        assert (await resume(new, make_token(bob), old))["pid"] == old.pid
        assert await old.wait_closed() == 4003
        await new.say(room, "y")
        assert (await new.next("message")).body["content"] == "y"


async def test_client_that_left_for_good_is_not_recovered(
    server: Server, room: str, user: User
) -> None:
    """DISCONNECT ends the session: its pid resumes nothing."""
    bob = user("bob")
    async with SocketIo.dial(server.ws_url) as new:
        async with signed_in(server.ws_url, make_token(bob)) as old:
            await old.join(room)
            await old.send("41")
            await old.connection.close()
            await old.closed.wait()
        assert (await resume(new, make_token(bob), old))["pid"] != old.pid


async def test_plain_json_resumes_the_rooms_it_names(server: Server, room: str, user: User) -> None:
    """`resume` joins the rooms and brings what came since the cursor, none of it twice."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as sender,
        plain_signed_in(server.ws_url, make_token(bob)) as old,
        plain_signed_in(server.ws_url, make_token(bob)) as new,
    ):
        await sender.join(room)
        await old.call("join-room", roomId=room)
        await sender.say(room, 0)
        cursor = (await old.next("message"))["cursor"]
        old.cut()
        for number in (1, 2):
            await sender.say(room, number)
        ack = await new.call("resume", cursor=cursor, rooms=[room])
        await sender.say(room, 3)
        heard = [(await new.next("message"))["content"] for _ in range(3)]
    assert (ack["success"], ack["recovered"], ack["holes"]) == (True, True, [])
    assert ack["rooms"] == [room]
    assert heard == [1, 2, 3]


async def test_plain_json_resume_with_a_bad_cursor(server: Server, room: str, user: User) -> None:
    """It says `recovered: false`; that is an answer, not an error."""
    async with plain_signed_in(server.ws_url, make_token(user("bob"))) as client:
        ack = await client.call("resume", cursor="never-given-out", rooms=[room])
    assert ack["recovered"] is False


async def test_plain_json_resume_says_which_room_is_refused(
    server: Server, room: str, user: User
) -> None:
    """All are refused for one: a client that knows which can take up the others without it."""
    bob = user("bob")
    token = make_token(bob, rooms={room: ["join"]})
    async with plain_signed_in(server.ws_url, token) as client:
        rooms = [room, f"{room}-other"]
        ack = await client.call("resume", cursor="", rooms=rooms)
        assert ack["error"]["code"] == "FORBIDDEN"
        assert f"{room}-other" in ack["error"]["message"]
