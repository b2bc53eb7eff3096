"""One message over edges and shards on real Redis is one trace."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from functions.server import PRODUCTS
from remote.cluster import running_cluster
from support.otlp import receiving
from support.plainjson import plain_signed_in
from support.server import serving
from support.tokens import make_token

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize("product", PRODUCTS)
async def test_message_from_edge_to_edge_is_one_trace(product: str, tmp_path: Path) -> None:
    """Client, edge, shard, the sender's own edge and the other: each says which one it is."""
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        cluster = stack.enter_context(running_cluster(product, tmp_path / "shards", shards=2))
        settings = {
            **cluster.settings,
            "tracing_endpoint": receiver.url,
            "tracing_ratio": "0",
        }
        here, there = (stack.enter_context(serving(tmp_path, settings=settings)) for _ in range(2))
        async with (
            plain_signed_in(here.ws_url, make_token("alice")) as alice,
            plain_signed_in(there.ws_url, make_token("bob")) as bob,
        ):
            for client in (alice, bob):
                await client.call("join-room", roomId="r")
            traceparent = f"00-{TRACE}-{PARENT}-01"
            await alice.call("message", roomId="r", content="hi", traceparent=traceparent)
            assert (await bob.next("message"))["content"] == "hi"
            await alice.call("message", roomId="r", content="not traced")
            await bob.next("message")
        spans = receiver.wait(3)
    publish = next(span for span in spans if span.name == "publish")
    delivers = [span for span in spans if span.name == "deliver"]
    assert (publish.trace, publish.parent) == (TRACE, PARENT)
    assert [(one.trace, one.parent) for one in delivers] == [(TRACE, publish.span)] * 2
    assert [one.links for one in delivers] == [((TRACE, publish.span),)] * 2
    edges = {one.resource["service.instance.id"] for one in delivers}
    assert len(edges) == 2
    assert publish.resource["service.instance.id"] in edges
    assert len(receiver.spans) == 3
