"""The pipelined connection to a server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from functions.server import RunningServer, serving
from roomful.cluster.topology import Address
from roomful.shard.resp import (
    Backoff,
    Callback,
    Login,
    LostConnection,
    ReplyError,
    RespConnection,
    connect,
    pack,
)
from support.deadline import DEADLINE_S, eventually, within
from support.ports import claim_port


def address_of(server: RunningServer) -> Address:
    """Give where *server* listens."""
    return Address("127.0.0.1", server.port)


@pytest.fixture
async def connection(server: RunningServer) -> AsyncIterator[RespConnection]:
    """Give an open connection."""
    opened = await connect(address_of(server), timeout_s=DEADLINE_S)
    yield opened
    opened.abort()


async def test_replies_come_in_the_order_of_the_requests(connection: RespConnection) -> None:
    """Each callback hears the reply of its own command, errors among them."""
    heard: list[Any] = []
    commands = pack("SET", "a", 1) + pack("INCR", "a") + pack("NONSENSE") + pack("GET", "a")
    connection.send(commands, *[heard.append] * 4)

    assert await connection.call("GET", "none") is None
    assert heard[:2] == [b"OK", 2]
    assert isinstance(heard[2], ReplyError)
    assert heard[3] == b"2"


async def test_a_refused_command_raises(connection: RespConnection) -> None:
    """call() raises what the server says, and the connection goes on."""
    with pytest.raises(ReplyError, match="NONSENSE"):
        await connection.call("NONSENSE")

    assert await connection.call("PING") == b"PONG"


async def test_pushes_come_apart_from_replies(server: RunningServer) -> None:
    """One connection subscribes, hears, and asks."""
    pushes: list[list[Any]] = []
    listener = await connect(address_of(server), timeout_s=DEADLINE_S, on_push=pushes.append)
    listener.send(pack("SUBSCRIBE", "here"))
    # A reply that comes after it: the subscription is confirmed.
    assert await listener.call("PING") == b"PONG"
    assert await listener.call("PUBLISH", "here", "hello") == 1
    assert await listener.call("PING") == b"PONG"

    assert [list(push) for push in pushes] == [
        [b"subscribe", b"here", 1],
        [b"message", b"here", b"hello"],
    ]
    listener.abort()


async def test_a_lost_connection_is_told_once_and_in_order(tmp_path: Path) -> None:
    """Whoever waits hears LostConnection before on_lost is called, and later senders at once."""
    heard: list[object] = []

    def hear_as(name: str) -> Callback:
        return lambda reply: heard.append((name, type(reply)))

    with serving("redis-server", tmp_path) as mortal:
        opened = await connect(
            address_of(mortal), timeout_s=DEADLINE_S, on_lost=lambda: heard.append("lost")
        )
        for name in "abc":
            opened.send(pack("BLPOP", name, 0), hear_as(name))
        mortal.kill()

        async def is_over() -> bool:
            return "lost" in heard

        await eventually(is_over, "the loss is told")
    opened.abort()
    assert heard == [*((name, LostConnection) for name in "abc"), "lost"]
    opened.send(pack("PING"), hear_as("late"))
    assert heard[-1] == ("late", LostConnection)


async def test_a_server_that_does_not_answer_is_lost_in_time(tmp_path: Path) -> None:
    """A reply that is overdue loses the connection: later replies could not be told apart."""
    with serving("redis-server", tmp_path) as silent:
        opened = await connect(address_of(silent), timeout_s=0.2)
        assert silent._process is not None
        silent._process.send_signal(signal.SIGSTOP)
        with pytest.raises(LostConnection, match=r"no reply in 0\.2 s"):
            await within(opened.call("PING"))
        assert opened.is_lost
        with pytest.raises(LostConnection, match="no (answer|reply)"):
            # The kernel accepts for a stopped process; nobody says hello.
            await connect(address_of(silent), timeout_s=0.2)
        silent._process.send_signal(signal.SIGCONT)


async def test_nobody_there_is_said_with_the_address() -> None:
    """A refused connection names where it went."""
    port = claim_port()
    with pytest.raises(LostConnection, match=f"127.0.0.1:{port}"):
        await connect(Address("127.0.0.1", port), timeout_s=DEADLINE_S)


async def test_a_password_is_needed_where_there_is_one(tmp_path: Path) -> None:
    """A wrong or missing password is refused at once, the right one goes in."""
    with serving("redis-server", tmp_path, "--requirepass", "sesame") as locked:
        for login in (None, Login(password="wrong")):
            with pytest.raises(LostConnection, match=r"NOAUTH|WRONGPASS"):
                await connect(address_of(locked), timeout_s=DEADLINE_S, login=login)
        opened = await connect(
            address_of(locked), timeout_s=DEADLINE_S, login=Login(password="sesame")
        )
        assert await opened.call("PING") == b"PONG"
        opened.abort()


async def test_bytes_that_are_not_resp_lose_the_connection() -> None:
    """A server of another protocol is no server."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(LostConnection):
        await within(connect(Address("127.0.0.1", port), timeout_s=DEADLINE_S))
    listener.close()


def test_a_backoff_grows_to_its_bound_and_begins_again() -> None:
    """Waits are within a jitter of first * 2**n, never above the bound."""
    backoff = Backoff(first_s=1.0, most_s=8.0)
    for most in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert most / 4 <= backoff.next_s() <= most
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_it_runs_on_the_loop_that_edges_use(server: RunningServer) -> None:
    """uvloop's transports are not asyncio's."""

    async def ask() -> Any:
        connection = await connect(address_of(server), timeout_s=DEADLINE_S)
        try:
            return await connection.call("PING")
        finally:
            connection.abort()

    assert uvloop.run(ask()) == b"PONG"
