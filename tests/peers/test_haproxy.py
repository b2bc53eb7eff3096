"""Unchanged clients behind HAProxy in plain round robin: no cookies, no sticky sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from support.edges import balanced, metric
from support.server import Server
from support.stock import KINDS, stock_client
from support.tokens import make_token

MESSAGES = 30


class Edges(Protocol):
    """What conftest.py gives."""

    servers: list[Server]
    folder: Path


@pytest.fixture(scope="module")
def proxy(edges: Edges, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HAProxy's URL."""
    with balanced(tmp_path_factory.mktemp("haproxy"), edges.servers) as url:
        yield url


@pytest.mark.parametrize("kind", KINDS)
async def test_any_client_works_whichever_edge_gets_its_requests(
    edges: Edges, proxy: str, http: httpx.AsyncClient, room: str, kind: str
) -> None:
    """Each request may reach another edge; what is sent is acked and heard, once and in order."""
    before = await passed(http, edges)
    async with stock_client(kind, proxy, {"token": make_token("alice")}) as client:
        assert (await client.call("join-room", {"roomId": room}))["success"]
        for number in range(MESSAGES):
            ack = await client.call("message", {"roomId": room, "content": number})
            assert ack["success"], ack
        heard = [(await client.next("message")).args[0]["content"] for _ in range(MESSAGES)]
    assert heard == list(range(MESSAGES))
    if not kind.endswith("-websocket"):
        assert await passed(http, edges) > before, "no request went to another edge"


@pytest.mark.parametrize("kind", ["js-upgrade", "python-upgrade"])
async def test_binary_and_large_messages_go_through_an_upgraded_session(
    proxy: str, room: str, kind: str
) -> None:
    """A spliced WebSocket is a wire: 300 KB in one message, and bytes, come as they were sent."""
    content = ["ü" * 150_000, bytes(range(256)) * 100]
    async with stock_client(kind, proxy, {"token": make_token("alice")}) as client:
        assert (await client.call("join-room", {"roomId": room}))["success"]
        ack = await client.call("message", {"roomId": room, "content": content})
        assert ack["success"], ack
        assert (await client.next("message")).args[0]["content"] == content


async def passed(http: httpx.AsyncClient, edges: Edges) -> float:
    """Return how many requests the edges have passed to each other."""
    total = 0.0
    for server in edges.servers:
        total += await metric(http, server, "roomful_forwards_total")
        total += await metric(http, server, "roomful_splices_total")
    return total
