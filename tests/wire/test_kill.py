"""A server that is killed: what it acknowledged is there when the next one starts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roomful.archive.sqlite_chunks import COLUMNS, Chunk, connect, forward, rewrite
from roomful.shard.base import Entry, RoomId
from support.deadline import DEADLINE_S, eventually, within
from support.jsclient import js_client
from support.ports import claim_port
from support.resuming import PlainReceiver, RetryingSender, running
from support.server import Server, start
from support.sio import signed_in
from support.tokens import make_token

ROOM = "lobby"
TOKEN = make_token("alice")


class Killed:
    """Processes on the same state and port, each killed before the next one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.now = start(directory)

    def kill(self) -> None:
        """End the process as the kernel does when memory is short."""
        self.now.process.kill()
        self.now.process.wait(DEADLINE_S)

    def start(self) -> None:
        """Start the next process."""
        self.now = start(self._directory, port=self.now.port)


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


async def test_killed_again_and_again_under_load(server: Killed) -> None:
    """
    A sender that retries and a client that resumes over three SIGKILLs.

    Everyone hears each message once and in order, and the history says the same.
    """
    receiver = PlainReceiver(server.now.ws_url, make_token("bob"), ROOM)
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


async def test_a_stock_client_hears_the_truth_after_sigkill(server: Killed) -> None:
    """
    The real Socket.IO client comes back by itself and is told that it did not resume.

    What it heard, the history after that, and what it hears from its next join on are all messages,
    each once, in order.
    """
    auth = {"token": make_token("bob")}
    async with js_client(server.now.url, auth, transports=["websocket"]) as stock:
        await stock.report("connect")
        assert (await stock.call("join-room", ROOM))["success"]
        async with signed_in(server.now.ws_url, TOKEN) as sender:
            await sender.join(ROOM)
            for number in range(5):
                await sender.say(ROOM, number)
            heard = [(await stock.next("message")).body for _ in range(5)]
            server.kill()
        await asyncio.to_thread(server.start)
        async with signed_in(server.now.ws_url, TOKEN) as sender:
            await sender.join(ROOM)
            for number in range(5, 10):
                await sender.say(ROOM, number)
            assert (await stock.report("connect", seconds=3 * DEADLINE_S))["recovered"] is False
            assert (await stock.call("join-room", ROOM))["success"]
            missed: list[Any] = []
            after: int | None = heard[-1]["offset"]
            while after is not None:
                query = {"roomId": ROOM, "after": after, "limit": 2}
                page = await stock.call("history", query)
                missed, after = missed + page["messages"], page["next"]
            await sender.say(ROOM, 10)
            last = (await stock.next("message")).body
        assert stock.inbox.pending("message") == []
    assert [one["content"] for one in (*heard, *missed, last)] == list(range(11))
    offsets = [one["offset"] for one in (*heard, *missed, last)]
    assert offsets == sorted({*offsets})


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
