"""A graceful restart under load: everyone is told, closed in waves, and resumes where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.deadline import DEADLINE_S, within
from support.jsclient import js_client
from support.resuming import (
    PlainReceiver,
    Receiver,
    RetryingSender,
    SocketReceiver,
    running,
)
from support.server import RUNNING, start
from support.tokens import make_token

RECEIVERS = 10
BEFORE_AND_AFTER = 100
"""Messages heard by everyone before the restart, and again after it."""
MESSAGES_PER_SECOND = 200


async def test_restart_under_load_loses_nothing(tmp_path: Path) -> None:
    """
    SIGTERM in the middle of 200 messages a second, then a new process on the same state.

    Every client gets a `reconnect` hint and the code RESTART, comes back recovered, and has heard
    every acked message once and in order.
    """
    first = await asyncio.to_thread(start, tmp_path)
    second = None
    RUNNING.append(first)
    room = "lobby"
    try:
        receivers: list[Receiver] = [
            (SocketReceiver if number % 2 else PlainReceiver)(
                first.ws_url, make_token(f"user-{number}"), room
            )
            for number in range(RECEIVERS)
        ]
        sender = RetryingSender(
            first.ws_url, make_token("sender"), room, per_second=MESSAGES_PER_SECOND
        )
        auth = {"token": make_token("browser")}
        async with (
            js_client(first.url, auth, transports=["websocket"]) as browser,
            running(*receivers),
        ):
            await browser.report("connect")
            assert (await browser.call("join-room", room))["success"]
            for receiver in receivers:
                await within(receiver.joined.wait())
            task = asyncio.create_task(sender.run())
            for receiver in receivers:
                await receiver.wait_heard(BEFORE_AND_AFTER)
            first.terminate()
            assert await asyncio.to_thread(first.process.wait, DEADLINE_S) == 0
            second = await asyncio.to_thread(start, tmp_path, port=first.port)
            RUNNING.append(second)
            assert (await browser.report("connect", seconds=3 * DEADLINE_S))["recovered"] is True
            acked = sender.acked
            for receiver in receivers:
                await receiver.wait_heard(acked + BEFORE_AND_AFTER)
            sender.finish()
            await within(task)
            for receiver in receivers:
                await receiver.wait_heard(sender.acked)
            events = await browser.inbox.take("message", sender.acked)
        expected = list(range(sender.acked))
        assert [event.body["content"] for event in events] == expected
        for receiver in receivers:
            assert receiver.heard == expected
            assert receiver.recovered == [True], receiver
            assert receiver.close_codes[0] == 4002, receiver
            (hint,) = receiver.hints
            assert hint["afterMs"] >= 0
            assert hint["reason"]
    finally:
        for server in filter(None, (first, second)):
            if server in RUNNING:
                RUNNING.remove(server)
            await asyncio.to_thread(server.stop)
