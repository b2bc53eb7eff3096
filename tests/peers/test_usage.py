"""Two edges with a Redis shard: a user's limits hold over both together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from functions.server import PRODUCTS
from remote.cluster import running_cluster
from support.deadline import eventually
from support.server import Server, serving
from support.sio import ConnectRefused, signed_in
from support.tokens import make_token

CONNECTIONS = 10
BURST = 800


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two edges; a user's messages come back so slowly that a test need not count them."""
    directory = tmp_path_factory.mktemp("pair")
    with running_cluster(PRODUCTS[0], directory, shards=1) as cluster, ExitStack() as stack:
        settings = {
            **cluster.settings,
            "drain_window_s": "0.2",
            "limits_connections_per_user": str(CONNECTIONS),
            "limits_user_messages_per_second": "0.1",
            "limits_user_message_burst": str(BURST),
        }
        edges = []
        for number in range(2):
            own = directory / f"edge-{number}"
            own.mkdir()
            edges.append(stack.enter_context(serving(own, settings=settings)))
        yield edges


async def is_admitted(edge: Server, user: str) -> bool:
    """Sign *user* in and go away."""
    try:
        async with signed_in(edge.ws_url, make_token(user)):
            return True
    except (ConnectRefused, ConnectionError):
        return False


async def test_connections_of_a_user_are_counted_over_both_edges(pair: list[Server]) -> None:
    """With all of them on one edge the other refuses, and takes the user again once they left."""
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            await stack.enter_async_context(signed_in(pair[0].ws_url, make_token("anna")))

        async def is_refused() -> bool:
            return not await is_admitted(pair[1], "anna")

        await eventually(is_refused, "the other edge knows of them")
        assert await is_admitted(pair[1], "berta")

    async def is_taken() -> bool:
        return await is_admitted(pair[1], "anna")

    await eventually(is_taken, "the other edge knows that they left")


async def test_messages_of_a_user_are_counted_over_both_edges(pair: list[Server]) -> None:
    """A burst on one edge leaves none on the other; of another user's it takes nothing."""
    async with (
        signed_in(pair[0].ws_url, make_token("carl")) as one,
        signed_in(pair[1].ws_url, make_token("carl")) as two,
        signed_in(pair[1].ws_url, make_token("dora")) as other,
    ):
        sent = 0
        while (await one.call("typing", {"roomId": "none"}))["error"]["code"] != "RATE_LIMITED":
            sent += 1
        assert BURST - 20 < sent < BURST + 20
        asked = 0

        async def is_refused() -> bool:
            nonlocal asked
            asked += 1
            ack = await two.call("typing", {"roomId": "none"})
            return bool(ack["error"]["code"] == "RATE_LIMITED")

        await eventually(is_refused, "the other edge takes what was used from its bucket")
        assert asked < BURST / 2, "it was refused for what it sent itself"
        assert (await other.join("doras"))["success"]
