"""Where recovery ends without an archive: the log no longer reaches back, and clients are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from support.plainjson import plain_signed_in
from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_token

User = Callable[[str], str]
KEPT = 20


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Room logs that are short, and nothing behind them."""
    return {"log_messages_per_room": str(KEPT), "state_dir": ""}


async def fill(server: Server, user: str, room: str, count: int) -> None:
    """Store *count* messages in the room."""
    async with signed_in(server.ws_url, make_token(user)) as sender:
        await sender.join(room)
        for number in range(count):
            await sender.say(room, number)


async def lost_at(server: Server, token: str, *rooms: str) -> SocketIo:
    """Return a client that was in *rooms* and is cut off now."""
    async with signed_in(server.ws_url, token) as client:
        for room in rooms:
            await client.join(room)
        await client.say(rooms[0], "before")
        await client.next("message")
        client.cut()
        await client.closed.wait()
    return client


async def test_everything_that_is_kept_is_recovered(server: Server, room: str, user: User) -> None:
    """A client that missed as many messages as the log keeps gets them all."""
    token = make_token(user("bob"))
    old = await lost_at(server, token, room)
    await fill(server, user("alice"), room, KEPT)
    async with SocketIo.dial(server.ws_url) as new:
        answer = await new.sign_in({"token": token, "pid": old.pid, "offset": old.cursor})
        heard = [(await new.next("message")).body["content"] for _ in range(KEPT)]
    assert answer["pid"] == old.pid
    assert heard == list(range(KEPT))


async def test_hole_is_told_by_room(server: Server, room: str, user: User) -> None:
    """One more is a hole: nothing is recovered, and the event names the room that has it."""
    token = make_token(user("bob"))
    quiet = f"{room}-quiet"
    old = await lost_at(server, token, room, quiet)
    await fill(server, user("alice"), room, KEPT + 1)
    async with SocketIo.dial(server.ws_url) as new:
        answer = await new.sign_in({"token": token, "pid": old.pid, "offset": old.cursor})
        failed = await new.next("recovery-failed")
        await new.join(room)
        assert new.inbox.pending("message") == []
        page = await new.call("history", {"roomId": room})
    assert answer["pid"] != old.pid
    assert failed.args == [{"holes": [room]}]
    assert [message["content"] for message in page["messages"]] == list(range(1, KEPT + 1))


async def test_messages_of_others_make_no_hole(server: Server, room: str, user: User) -> None:
    """A busy room elsewhere does not cost a quiet room's members their recovery."""
    token = make_token(user("bob"))
    old = await lost_at(server, token, room)
    await fill(server, user("alice"), f"{room}-busy", 5 * KEPT)
    async with SocketIo.dial(server.ws_url) as new:
        answer = await new.sign_in({"token": token, "pid": old.pid, "offset": old.cursor})
        await new.say(room, "back")
        assert (await new.next("message")).body["content"] == "back"
    assert answer["pid"] == old.pid


async def test_plain_json_hears_of_holes(server: Server, room: str, user: User) -> None:
    """The ack of `resume` names them."""
    token = make_token(user("bob"))
    quiet = f"{room}-quiet"
    async with plain_signed_in(server.ws_url, token) as old:
        for name in (room, quiet):
            await old.call("join-room", roomId=name)
        await old.call("message", roomId=room, content="before")
        cursor = (await old.next("message"))["cursor"]
    await fill(server, user("alice"), room, KEPT + 1)
    async with plain_signed_in(server.ws_url, token) as new:
        ack = await new.call("resume", cursor=cursor, rooms=[room, quiet])
    assert (ack["recovered"], ack["holes"]) == (False, [room])
