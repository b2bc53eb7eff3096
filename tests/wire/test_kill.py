"""A server that is killed: what it acknowledged is there when the next one starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest

from roomful.archive.sqlite_chunks import COLUMNS, Chunk, connect, forward, rewrite
from roomful.shard.message import Entry, RoomId
from support.deadline import DEADLINE_S, eventually, within
from support.jsclient import js_client
from support.ports import claim_port
from support.proxy import Proxy
from support.resuming import PlainReceiver, Receiver, RetryingSender, SocketReceiver, running
from support.server import Server, start
from support.sio import ConnectRefused, SocketIo, signed_in
from support.tokens import make_service_token, make_token

ROOM = "lobby"
TOKEN = make_token("alice")
SERVICE = {"Authorization": f"Bearer {make_service_token()}"}


class Killed:
    """Processes on the same state and port, each killed before the next one."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self._settings = settings
        self.now = start(directory, settings=settings)

    def kill(self) -> None:
        """End the process as the kernel does when memory is short."""
        self.now.process.kill()
        self.now.process.wait(DEADLINE_S)

    def start(self) -> None:
        """Start the next process."""
        self.now = start(self._directory, settings=self._settings, port=self.now.port)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Killed]:
    """A server that can be killed."""
    killed = Killed(tmp_path)
    yield killed
    killed.now.stop()


async def test_what_was_acked_outlives_sigkill(server: Killed) -> None:
    """Messages, their order and offsets, the ids against doubles; new offsets are above."""
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        acks = [await client.say(ROOM, number, id=f"m{number}") for number in range(10)]
        server.kill()
    await asyncio.to_thread(server.start)
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        again = await client.say(ROOM, "double", id="m3")
        newer = await client.say(ROOM, "new")
        page = await client.call("history", {"roomId": ROOM})
    assert again == acks[3]
    assert newer["offset"] > acks[-1]["offset"]
    assert [message["content"] for message in page["messages"]] == [*range(10), "new"]


@pytest.mark.parametrize("kind", [PlainReceiver, SocketReceiver])
async def test_killed_again_and_again_under_load(server: Killed, kind: type[Receiver]) -> None:
    """
    A sender that retries and a client that resumes over three SIGKILLs.

    Everyone hears each message once and in order, and the history says the same.
    """
    receiver = kind(server.now.ws_url, make_token("bob"), ROOM)
    sender = RetryingSender(server.now.ws_url, make_token("sender"), ROOM, per_second=200)
    async with running(receiver):
        await within(receiver.joined.wait())
        sending = asyncio.create_task(sender.run())
        for _ in range(3):
            await receiver.wait_heard(len(receiver.heard) + 50)
            server.kill()
            await asyncio.to_thread(server.start)
        await receiver.wait_heard(sender.acked + 50)
        sender.finish()
        await within(sending)
        await receiver.wait_heard(sender.acked)
    expected = list(range(sender.acked))
    assert receiver.heard == expected
    assert receiver.recovered == [True] * 3
    contents: list[int] = []
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        after: int | None = 0
        while after is not None:
            page = await client.call("history", {"roomId": ROOM, "after": after, "limit": 100})
            contents += [message["content"] for message in page["messages"]]
            after = page["next"]
    assert contents == expected


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_stock_client_recovers_over_sigkill(server: Killed, transport: str) -> None:
    """
    The real Socket.IO client, away while the server is killed: it is in its rooms, and recovered.

    What was sent to its rooms and to it, before the kill and after it, comes once and in order.
    """
    auth = {"token": make_token("bob")}
    async with (
        Proxy.before(server.now.port) as proxy,
        js_client(proxy.url, auth, transports=[transport]) as stock,
    ):
        assert (await stock.report("connect"))["recovered"] is False
        for room in (ROOM, "other"):
            assert (await stock.call("join-room", room))["success"]
        async with signed_in(server.now.ws_url, TOKEN) as sender:
            await say_all(sender, 0)
            heard = [(await stock.next("message")).body for _ in range(4)]
            proxy.target = claim_port()
            proxy.cut()
            await stock.report("disconnect")
            await say_all(sender, 1)
            server.kill()
        await asyncio.to_thread(server.start)
        async with signed_in(server.now.ws_url, TOKEN) as sender:
            await say_all(sender, 2)
            proxy.target = server.now.port
            assert (await stock.report("connect", seconds=3 * DEADLINE_S))["recovered"] is True
            await say_all(sender, 3)
            heard += [(await stock.next("message")).body for _ in range(12)]
            direct = [(await stock.next("direct-message")).body["content"] for _ in range(4)]
        # What it heard by now is all there is: this ack comes behind anything twice.
        assert (await stock.call("message", {"roomId": ROOM, "content": "end"}))["success"]
        assert (await stock.next("message")).body["content"] == "end"
        assert stock.inbox.pending("message") == stock.inbox.pending("direct-message") == []
    assert direct == [0, 1, 2, 3]
    for room in (ROOM, "other"):
        in_room = [one["content"] for one in heard if one["roomId"] == room]
        assert in_room == [f"{turn}{half}" for turn in range(4) for half in "ab"]
    offsets = [one["offset"] for one in heard]
    assert offsets == sorted({*offsets})


async def say_all(sender: SocketIo, turn: int) -> None:
    """Send two messages into each room of the stock client, and one to it."""
    for room in (ROOM, "other"):
        await sender.join(room)
    for half in "ab":
        for room in (ROOM, "other"):
            await sender.say(room, f"{turn}{half}")
    sent = await sender.call("direct-message", {"userId": "bob", "content": turn})
    assert sent["success"], sent


async def comes_back(old: SocketIo, token: str, new: SocketIo) -> bool:
    """Sign *new* in as *old*, which is gone; whether the server calls it recovered."""
    answer = await new.sign_in({"token": token, "pid": old.pid, "offset": old.cursor})
    recovered: bool = answer["pid"] == old.pid
    return recovered


async def test_a_room_that_was_left_before_sigkill_stays_left(server: Killed) -> None:
    """Who is told that it left hears nothing of the room, and is in the others."""
    token = make_token("bob")
    async with signed_in(server.now.ws_url, token) as old:
        for room in (ROOM, "left"):
            await old.join(room)
            await old.next("cursor")
        assert (await old.call("leave-room", "left"))["success"]
        server.kill()
    await asyncio.to_thread(server.start)
    async with (
        signed_in(server.now.ws_url, TOKEN) as sender,
        SocketIo.dial(server.now.ws_url) as new,
    ):
        for room in ("left", ROOM):
            await sender.join(room)
            await sender.say(room, f"in {room}")
        assert await comes_back(old, token, new)
        assert (await new.next("message")).body["content"] == f"in {ROOM}"
        ack = await new.call("message", {"roomId": "left", "content": "x"})
        assert new.inbox.pending("message") == []
    assert ack["error"]["code"] == "NOT_JOINED"


async def test_rights_are_asked_again_after_sigkill(server: Killed) -> None:
    """A room that the token of the return does not allow is not joined, and the client is told."""
    async with signed_in(server.now.ws_url, make_token("bob")) as old:
        for room in (ROOM, "secret"):
            await old.join(room)
            await old.next("cursor")
        server.kill()
    await asyncio.to_thread(server.start)
    fresh = make_token("bob", rooms={ROOM: ["join", "send"]})
    async with (
        signed_in(server.now.ws_url, TOKEN) as sender,
        SocketIo.dial(server.now.ws_url) as new,
    ):
        for room in ("secret", ROOM):
            await sender.join(room)
            await sender.say(room, f"in {room}")
        assert await comes_back(old, fresh, new)
        assert (await new.next("error")).body["message"] == "no longer allowed in secret"
        assert (await new.next("message")).body["content"] == f"in {ROOM}"
        assert new.inbox.pending("message") == []


async def test_who_left_for_good_before_sigkill_begins_anew(server: Killed) -> None:
    """After DISCONNECT, or sent away by the backend, there is no session to be taken up."""
    tokens = {name: make_token(name) for name in ("bob", "carol")}
    async with (
        signed_in(server.now.ws_url, tokens["bob"]) as bob,
        signed_in(server.now.ws_url, tokens["carol"]) as carol,
        signed_in(server.now.ws_url, TOKEN) as watcher,
    ):
        await watcher.join(ROOM)
        for client in (bob, carol):
            await client.join(ROOM)
            await client.next("cursor")
        await bob.send("41")
        async with httpx.AsyncClient(headers=SERVICE) as http:
            await http.delete(f"{server.now.url}/api/users/carol/connections")
        await carol.wait_closed()
        # Without a grace: they are not expected back.
        gone = {(await watcher.next("user-left")).body["userId"] for _ in range(2)}
        assert gone == {"bob", "carol"}
        presence = await watcher.call("get-presence", ROOM)
        assert presence["count"] == 1
        server.kill()
    await asyncio.to_thread(server.start)
    for name, old in (("bob", bob), ("carol", carol)):
        async with SocketIo.dial(server.now.ws_url) as new:
            assert not await comes_back(old, tokens[name], new)


async def test_a_client_without_rooms_gets_its_direct_messages_after_sigkill(
    server: Killed,
) -> None:
    """Its session is kept some seconds after the sign-in, or with what others do."""
    token = make_token("bob")
    (path,) = server.now.state.glob("messages-*.sqlite3")
    async with (
        signed_in(server.now.ws_url, token) as old,
        signed_in(server.now.ws_url, TOKEN) as sender,
    ):
        await old.next("cursor")
        await sender.join(ROOM)
        with closing(connect(path)) as connection:

            async def is_kept() -> bool:
                query = "SELECT count(*) FROM session WHERE pid = ?"
                (count,) = connection.execute(query, (old.pid,)).fetchone()
                return bool(count)

            await eventually(is_kept, "the session is in the database")
        server.kill()
    await asyncio.to_thread(server.start)
    async with (
        signed_in(server.now.ws_url, TOKEN) as sender,
        SocketIo.dial(server.now.ws_url) as new,
    ):
        await sender.call("direct-message", {"userId": "bob", "content": "psst"})
        assert await comes_back(old, token, new)
        assert (await new.next("direct-message")).body["content"] == "psst"


@pytest.mark.parametrize("is_killed", [True, False], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("named", [{"userId": "bob"}, {"tokenId": "one"}], ids=["user", "token"])
async def test_a_revoked_token_is_refused_after_a_restart(
    server: Killed, named: dict[str, str], *, is_killed: bool
) -> None:
    """It takes up no session, one that was away at the revocation neither, and begins none."""
    token = make_token("bob", jti="one")
    async with signed_in(server.now.ws_url, token) as old:
        await old.join(ROOM)
        await old.next("cursor")
    async with httpx.AsyncClient(headers=SERVICE) as http:
        answer = await http.post(f"{server.now.url}/api/revocations", json=named)
    assert answer.is_success, answer.text
    if is_killed:
        server.kill()
    else:
        assert server.now.stop() == 0
    await asyncio.to_thread(server.start)
    for auth in ({"pid": old.pid, "offset": old.cursor}, {}):
        async with SocketIo.dial(server.now.ws_url) as new:
            with pytest.raises(ConnectRefused, match="Authentication failed"):
                await new.sign_in({"token": token} | auth)
    later = make_token("bob", jti="two", iat=int(time.time()) + 2)
    async with signed_in(server.now.ws_url, later) as new:
        await new.join(ROOM)


async def test_without_a_directory_nobody_recovers_after_sigkill(tmp_path: Path) -> None:
    """Nothing was kept, and the client is told so."""
    token = make_token("bob")
    killed = Killed(tmp_path, state_dir="")
    try:
        async with signed_in(killed.now.ws_url, token) as old:
            await old.join(ROOM)
            await old.next("cursor")
            killed.kill()
        await asyncio.to_thread(killed.start)
        async with SocketIo.dial(killed.now.ws_url) as new:
            assert not await comes_back(old, token, new)
    finally:
        killed.now.stop()


async def test_a_page_before_sigkill_goes_on_after_it(server: Killed) -> None:
    """`next` of both directions means the same place: no page lacks or repeats a message."""
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        for number in range(20):
            await client.say(ROOM, number)
        first = await client.call("history", {"roomId": ROOM, "after": 0, "limit": 8})
        newest = await client.call("history", {"roomId": ROOM, "limit": 8})
        server.kill()
    await asyncio.to_thread(server.start)
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        await client.say(ROOM, 20)
        following = {"roomId": ROOM, "after": first["next"], "limit": 50}
        rest = await client.call("history", following)
        older = await client.call("history", {"roomId": ROOM, "before": newest["next"]})
    forth = [one["content"] for one in (*first["messages"], *rest["messages"])]
    back = [one["content"] for one in (*older["messages"], *newest["messages"])]
    assert (forth, rest["next"]) == (list(range(21)), None)
    assert (back, older["next"]) == (list(range(20)), None)


async def test_all_messages_are_in_the_database_after_a_stop(server: Killed) -> None:
    """Every message once, and nothing left in the journal."""
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        for number in range(30):
            await client.say(ROOM, number)
    assert server.now.stop() == 0
    (path,) = server.now.state.glob("messages-*.sqlite3")
    with closing(connect(path)) as connection:
        kept = [(one.offset, one.envelope.user) for one in forward(connection, RoomId(ROOM), -1)]
    assert not list(path.with_suffix(".journal").iterdir())
    assert kept == [(number, "alice") for number in range(1, 31)]


def test_two_processes_never_share_their_messages(server: Killed, tmp_path: Path) -> None:
    """The second one on the same state says why it does not start."""
    port = claim_port()
    first = server.now.state / f"messages-{server.now.port}.sqlite3"
    second = server.now.state / f"messages-{port}.sqlite3"
    for suffix in (".sqlite3", ".lock"):
        second.with_suffix(suffix).symlink_to(first.with_suffix(suffix))
    with pytest.raises(AssertionError, match="another process has"):
        start(tmp_path, port=port)
    assert isinstance(server.now, Server)


async def test_what_is_too_old_goes(server: Killed, tmp_path: Path) -> None:
    """By the rules of retention, in the running server."""
    async with signed_in(server.now.ws_url, TOKEN) as client:
        await client.join(ROOM)
        for number in range(3):
            await client.say(ROOM, number)
    assert server.now.stop() == 0
    (path,) = server.now.state.glob("messages-*.sqlite3")
    with closing(connect(path)) as connection:
        query = f"SELECT {COLUMNS} FROM chunk WHERE room = ?"  # noqa: S608
        (row,) = connection.execute(query, (ROOM,)).fetchall()
        chunk = Chunk(*row)
        first, *others = chunk.entries()
        envelope = msgspec.structs.replace(first.envelope, timestamp=5)
        rewrite(connection, chunk, [Entry(first.offset, envelope), *others])
    settings = {"archive_retention": "*=1h"}
    server.now = await asyncio.to_thread(start, tmp_path, settings=settings, port=server.now.port)
    with closing(connect(path)) as connection:

        async def is_gone() -> bool:
            return len(list(forward(connection, RoomId(ROOM), -1))) == 2

        await eventually(is_gone, "the old message is gone")
