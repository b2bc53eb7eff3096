"""A link goes where the shard is, whatever the server does that it was at before."""

from __future__ import annotations

import asyncio

from functions.server import RunningServer
from roomful.cluster.topology import Address
from roomful.shard.link import Link
from roomful.shard.resp import connect, pack
from support.deadline import until, within

AN_HOUR_S = 3600.0


async def test_an_opening_that_hangs_is_given_up_when_the_shard_is_elsewhere(
    server: RunningServer,
) -> None:
    """A primary that stands still accepts connections and answers nothing, for a long time."""
    accepted, up = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host, port = silent.sockets[0].getsockname()[:2]
    link = Link("test", timeout_s=AN_HOUR_S, on_up=up.set)
    link.retarget(Address(host, port))
    running = asyncio.create_task(link.run())
    await within(accepted.wait())
    link.retarget(Address("127.0.0.1", server.port))
    await within(up.wait())
    assert await link.call("PING") in (b"PONG", "PONG")
    running.cancel()
    await asyncio.wait([running])
    silent.close()
    await silent.wait_closed()


async def test_a_server_that_is_busy_with_a_script_ends_no_link(server: RunningServer) -> None:
    """It lets the link in, and refuses all that comes after; later it does what it is asked."""
    calls, up, address = server.connect(), asyncio.Event(), Address("127.0.0.1", server.port)
    calls.command("CONFIG", "SET", "busy-reply-threshold", 1)
    busy = await connect(address, timeout_s=AN_HOUR_S)
    busy.send(pack("EVAL", "while true do end", 0), lambda _reply: None)
    link = Link("test", timeout_s=AN_HOUR_S, on_up=up.set)
    link.retarget(address)
    running = asyncio.create_task(link.run())
    await until(lambda: "BUSY" in link.why)
    calls.command("SCRIPT", "KILL")
    await within(up.wait())
    assert await link.call("PING") in (b"PONG", "PONG")
    running.cancel()
    await asyncio.wait([running])
    busy.abort()


async def test_a_link_that_ends_as_it_opens_leaves_no_connection(server: RunningServer) -> None:
    """In the very moment when the connection is there nobody else knows of it."""
    calls = server.connect()
    link = Link("short-lived", timeout_s=AN_HOUR_S)
    link.retarget(Address("127.0.0.1", server.port))
    running = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    assert link._opening is not None
    link._opening.add_done_callback(lambda _opening: running.cancel())
    await within(asyncio.wait([running]))
    await until(lambda: b"name=short-lived" not in calls.command("CLIENT", "LIST"))
