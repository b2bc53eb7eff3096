"""
The promise, seen by a crowd: several senders, many receivers of both kinds, all cut together.

ROOMFUL_TEST_CUTS says how often (10 by default; 100 in the long run).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack

from support.deadline import DEADLINE_S, within
from support.proxy import Proxy
from support.resuming import PlainReceiver, Receiver, RetryingSender, SocketReceiver, running
from support.server import Server
from support.tokens import make_token

CUTS = int(os.environ.get("ROOMFUL_TEST_CUTS", "10"))
SENDERS = 4
RECEIVERS = 12
MESSAGES_PER_SECOND = 50
"""Of each sender."""
BETWEEN_CUTS = 20

User = Callable[[str], str]


async def test_crowd_is_cut_together(server: Server, room: str, user: User) -> None:
    """All hear the same sequence: each sender's messages once, in the order of its acks."""
    async with Proxy.before(server.port) as proxy:
        kinds: list[type[Receiver]] = [SocketReceiver, PlainReceiver]
        receivers = [
            kinds[number % 2](proxy.ws_url, make_token(user(f"r{number}")), room)
            for number in range(RECEIVERS)
        ]
        senders = [
            RetryingSender(
                proxy.ws_url,
                make_token(user(f"s{number}")),
                room,
                per_second=MESSAGES_PER_SECOND,
                name=f"s{number}",
            )
            for number in range(SENDERS)
        ]
        async with running(*receivers), AsyncExitStack() as stack:
            for receiver in receivers:
                await within(receiver.joined.wait())
            sending = [asyncio.create_task(sender.run()) for sender in senders]
            stack.callback(lambda: [task.cancel() for task in sending])
            for cut in range(1, CUTS + 1):
                await receivers[0].wait_heard(len(receivers[0].heard) + BETWEEN_CUTS)
                proxy.cut()
                for receiver in receivers:
                    await receiver.wait_recovered(cut)
            for sender in senders:
                sender.finish()
            await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S)
            total = sum(sender.acked for sender in senders)
            for receiver in receivers:
                await receiver.wait_heard(total)
    for sender in senders:
        assert_in_order(sender, receivers[0].heard)
    for receiver in receivers:
        assert all(receiver.recovered), receiver
        assert receiver.heard == receivers[0].heard


def assert_in_order(sender: RetryingSender, heard: list[list[object]]) -> None:
    """The sender's own numbers are all there, once and in order."""
    numbers = [number for name, number in heard if name == sender.name]
    assert numbers == list(range(sender.acked))
