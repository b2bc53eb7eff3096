"""After each attack: the server still serves others, and has not grown without a bound."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from support.server import Server
from support.sio import signed_in
from support.tokens import make_token

MEMORY_GROWTH_BYTES = 48 << 20
"""
What a server may keep after one attack. Attacks here send or ask for 10 MB to 1 GB, so one that
works shows; buffers that the allocator keeps (a payload limit of 1 MB, a few times) do not.
"""

_numbers = itertools.count(1)


@pytest.fixture
def room() -> str:
    """A room that is this test's own."""
    return f"room-{next(_numbers)}"


@pytest.fixture(autouse=True)
async def _serves_others(server: Server) -> AsyncIterator[None]:
    """The check after each test of this folder, and a bystander who is connected all the while."""
    async with signed_in(server.ws_url, make_token("bystander")) as bystander:
        await bystander.join("elsewhere")
        before = server.memory_bytes()
        yield
        assert server.process.poll() is None, "the server died"
        async with signed_in(server.ws_url, make_token("newcomer")) as newcomer:
            await newcomer.join("elsewhere")
            await newcomer.say("elsewhere", "still here?")
            assert (await bystander.next("message")).body["content"] == "still here?"
        grown = server.memory_bytes() - before
        assert grown < MEMORY_GROWTH_BYTES, f"the server grew by {grown >> 20} MiB"
