"""A graceful restart under load: everyone is told, closed in waves, and resumes where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException

from support.deadline import DEADLINE_S, within
from support.jsclient import JsClient, js_client
from support.resuming import PlainReceiver, Receiver, RetryingSender, SocketReceiver, running
from support.server import RUNNING, Server, start
from support.sio import SocketIo, signed_in
from support.tokens import make_token

RECEIVERS = 10
BEFORE_AND_AFTER = 100
"""Messages heard by everyone before the restart, and again after it."""
MESSAGES_PER_SECOND = 200
RESTART = 4002
ROOM = "lobby"


class Restarts:
    """Processes that run one after another on the same port and state."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self._directory = directory
        self._settings = settings
        self.now = start(directory, settings=settings)
        RUNNING.append(self.now)

    async def stop(self) -> int:
        """Stop the process as an orchestrator does, and return its exit status."""
        self.now.process.terminate()
        return await asyncio.to_thread(self.now.process.wait, 2 * DEADLINE_S)

    async def start(self) -> None:
        """Start the next process."""
        RUNNING.remove(self.now)
        self.now = await asyncio.to_thread(
            start, self._directory, settings=self._settings, port=self.now.port
        )
        RUNNING.append(self.now)

    def end(self) -> None:
        """Stop for good."""
        RUNNING.remove(self.now)
        self.now.stop()


@contextmanager
def restarting(directory: Path, **settings: str) -> Iterator[Restarts]:
    """Run a server that can be restarted."""
    restarts = Restarts(directory, settings)
    try:
        yield restarts
    finally:
        restarts.end()


@pytest.fixture
def restarts(tmp_path: Path) -> Iterator[Restarts]:
    """A server whose stop takes a second or two."""
    with restarting(tmp_path, drain_window_s="1") as found:
        yield found


def make_receivers(server: Server) -> list[Receiver]:
    """Make clients of both kinds that resume by hand."""
    kinds: list[type[Receiver]] = [SocketReceiver, PlainReceiver]
    return [
        kinds[number % 2](server.ws_url, make_token(f"user-{number}"), ROOM)
        for number in range(RECEIVERS)
    ]


@asynccontextmanager
async def browser(server: Server) -> AsyncIterator[JsClient]:
    """A stock JavaScript client in the room."""
    auth = {"token": make_token("browser")}
    async with js_client(server.url, auth, transports=["websocket"]) as client:
        await client.report("connect")
        assert (await client.call("join-room", ROOM))["success"]
        yield client


async def test_restart_under_load_loses_nothing(restarts: Restarts) -> None:
    """
    SIGTERM in the middle of 200 messages a second, then a new process on the same state.

    Every client gets a `reconnect` hint and the code RESTART, comes back recovered, and has heard
    every acked message once and in order.
    """
    server = restarts.now
    receivers = make_receivers(server)
    sender = RetryingSender(
        server.ws_url, make_token("sender"), ROOM, per_second=MESSAGES_PER_SECOND
    )
    async with browser(server) as stock, running(*receivers):
        for receiver in receivers:
            await within(receiver.joined.wait())
        sending = asyncio.create_task(sender.run())
        for receiver in receivers:
            await receiver.wait_heard(BEFORE_AND_AFTER)
        assert await restarts.stop() == 0
        await restarts.start()
        assert (await stock.report("connect", seconds=3 * DEADLINE_S))["recovered"] is True
        acked = sender.acked
        for receiver in receivers:
            await receiver.wait_heard(acked + BEFORE_AND_AFTER)
        sender.finish()
        await within(sending)
        for receiver in receivers:
            await receiver.wait_heard(sender.acked)
        events = await stock.inbox.take("message", sender.acked)
    expected = list(range(sender.acked))
    assert [event.body["content"] for event in events] == expected
    for receiver in receivers:
        assert_restarted_once(receiver, expected)


def assert_restarted_once(receiver: Receiver, expected: list[int]) -> None:
    """The client heard everything, was told of the restart, and came back once, recovered."""
    assert receiver.heard == expected, receiver
    assert receiver.recovered == [True], receiver
    assert receiver.close_codes[0] == RESTART, receiver
    (hint,) = receiver.hints
    assert hint["afterMs"] > 0
    assert hint["reason"]


async def test_acked_messages_and_ids_outlive_a_restart(restarts: Restarts) -> None:
    """History, offsets and the ids against doubles are handed over."""
    token = make_token("alice")
    async with signed_in(restarts.now.ws_url, token) as client:
        await client.join(ROOM)
        acks = [await client.say(ROOM, number, id=f"m{number}") for number in range(10)]
    assert await restarts.stop() == 0
    await restarts.start()
    async with signed_in(restarts.now.ws_url, token) as client:
        await client.join(ROOM)
        again = await client.say(ROOM, "double", id="m3")
        newer = await client.say(ROOM, "new")
        page = await client.call("history", {"roomId": ROOM})
    assert again == acks[3]
    assert newer["offset"] > acks[-1]["offset"]
    contents = [message["content"] for message in page["messages"]]
    assert contents == [*range(10), "new"]


async def test_connections_are_closed_in_waves(tmp_path: Path) -> None:
    """Over the drain window, not all at once: the last client hears of it long after the first."""
    loop = asyncio.get_running_loop()
    closed_at: list[float] = []
    with restarting(tmp_path, drain_window_s="2") as restarts:
        async with AsyncExitStack() as stack:
            token = make_token("many")
            clients = [
                await stack.enter_async_context(signed_in(restarts.now.ws_url, token))
                for _ in range(80)
            ]

            async def watch(client: SocketIo) -> None:
                assert await client.wait_closed() == RESTART
                closed_at.append(loop.time())

            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(watch(client))
                assert await restarts.stop() == 0
    assert len(closed_at) == 80
    assert max(closed_at) - min(closed_at) > 0.5


async def test_draining_server_takes_nobody_new(restarts: Restarts) -> None:
    """While it goes, it is not ready, and who comes is refused with 503 or a closed port."""
    async with AsyncExitStack() as stack:
        for number in range(100):
            await stack.enter_async_context(
                signed_in(restarts.now.ws_url, make_token(f"user-{number}"))
            )
        restarts.now.process.terminate()
        while restarts.now.is_ready():
            pass
        with pytest.raises((OSError, WebSocketException)):
            async with SocketIo.dial(restarts.now.ws_url):
                pass
        assert await asyncio.to_thread(restarts.now.process.wait, 2 * DEADLINE_S) == 0


async def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    """An operator who does not want to wait sends SIGTERM again; it is no failure."""
    loop = asyncio.get_running_loop()
    with restarting(tmp_path, drain_window_s="60") as restarts:
        async with AsyncExitStack() as stack:
            for number in range(100):
                token = make_token(f"user-{number // 10}")
                await stack.enter_async_context(signed_in(restarts.now.ws_url, token))
            began = loop.time()
            restarts.now.process.terminate()
            while restarts.now.is_ready():
                pass
            await restarts.stop()
            assert loop.time() - began < DEADLINE_S
        assert "Traceback" not in restarts.now.log_since(0)
