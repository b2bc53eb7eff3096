"""Two edges with rooms on two Redis shards: what a backend asks of one happens on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.server import PRODUCTS
from remote.cluster import Cluster, running_cluster
from support.edges import balanced
from support.server import Server, serving, start
from support.sio import ConnectRefused, signed_in
from support.stock import stock_client
from support.tokens import make_service_token, make_token


class Site:
    """The servers of the tests here."""

    def __init__(self, cluster: Cluster, edges: list[Server], directory: Path) -> None:
        self.cluster = cluster
        self.edges = edges
        self.directory = directory


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two shards and two edges."""
    directory = tmp_path_factory.mktemp("site")
    with running_cluster(PRODUCTS[0], directory, shards=2) as cluster, ExitStack() as stack:
        edges = []
        for number in range(2):
            own = directory / f"edge-{number}"
            own.mkdir()
            settings = {**cluster.settings, "drain_window_s": "0.2"}
            edges.append(stack.enter_context(serving(own, settings=settings)))
        yield Site(cluster, edges, directory)


@pytest.fixture
def backend() -> dict[str, str]:
    """The headers of a call with a service token."""
    return {"Authorization": f"Bearer {make_service_token()}"}


async def test_a_user_is_disconnected_on_every_edge(
    site: Site, http: httpx.AsyncClient, backend: dict[str, str]
) -> None:
    """One call closes the connections of both edges, and says so; another user stays."""
    token = make_token("dora")
    async with (
        signed_in(site.edges[0].ws_url, token) as one,
        signed_in(site.edges[1].ws_url, token) as two,
        signed_in(site.edges[1].ws_url, make_token("emil")) as other,
    ):
        response = await http.delete(
            f"{site.edges[0].url}/api/users/dora/connections", headers=backend
        )
        assert response.json() == {"success": True, "connections": 2, "edges": 2, "answered": 2}
        assert [await one.wait_closed(), await two.wait_closed()] == [4503, 4503]
        assert (await other.join("emils"))["success"]


@pytest.mark.parametrize("by", ["userId", "tokenId"])
async def test_a_revocation_holds_on_every_edge_and_on_those_that_start_later(
    site: Site, http: httpx.AsyncClient, backend: dict[str, str], by: str
) -> None:
    """The other edge closes and refuses the token at once, a new one from its first second on."""
    user = f"frida-{by}"
    token = make_token(user, jti=f"token-{by}")
    async with signed_in(site.edges[1].ws_url, token) as client:
        subject = user if by == "userId" else f"token-{by}"
        response = await http.post(
            f"{site.edges[0].url}/api/revocations", headers=backend, json={by: subject}
        )
        assert response.json() == {"success": True, "connections": 1, "edges": 2, "answered": 2}
        assert await client.wait_closed() == 4503
    late_directory = site.directory / f"late-{by}"
    late_directory.mkdir()
    late = start(late_directory, settings=site.cluster.settings)
    try:
        for edge in (*site.edges, late):
            with pytest.raises(ConnectRefused):
                async with signed_in(edge.ws_url, token):
                    pass
        async with signed_in(late.ws_url, make_token("gustav")):
            pass
    finally:
        late.stop()


async def test_the_numbers_are_those_of_all_edges(site: Site, http: httpx.AsyncClient) -> None:
    """Sums under the names that dashboards know, and each edge's own."""
    async with (
        signed_in(site.edges[0].ws_url, make_token("hans")) as one,
        signed_in(site.edges[1].ws_url, make_token("ida")) as two,
    ):
        await one.join("stats-1")
        await two.join("stats-2")
        for edge in site.edges:
            found = await numbers(http, edge, connections=2)
            assert (found["users"], found["rooms"]) == (2, 2)
            assert (found["edges"], found["answered"]) == (2, 2)
            each = found["byEdge"].values()
            assert sorted(one["activeConnections"] for one in each) == [1, 1]


async def numbers(http: httpx.AsyncClient, edge: Server, *, connections: int) -> dict[str, Any]:
    """Ask until there are so many connections: other edges' numbers may be a second old."""
    while True:
        found: dict[str, Any] = (await http.get(f"{edge.url}/api/ws/stats")).json()
        if found["activeConnections"] == connections:
            return found


@pytest.mark.parametrize("kind", ["js-polling", "js-upgrade", "python-polling", "python-upgrade"])
async def test_two_clients_talk_behind_a_round_robin(site: Site, tmp_path: Path, kind: str) -> None:
    """A room over two edges, each request by either: both hear everything in one order."""
    room = f"round-{kind}"
    with balanced(tmp_path, site.edges) as url:
        async with (
            stock_client(kind, url, {"token": make_token("kurt")}) as kurt,
            stock_client(kind, url, {"token": make_token("lena")}) as lena,
        ):
            for client in (kurt, lena):
                assert (await client.call("join-room", {"roomId": room}))["success"]
            for number in range(10):
                for client in (kurt, lena):
                    content = {"roomId": room, "content": number}
                    assert (await client.call("message", content))["success"]
            heard = [
                [(await client.next("message")).args[0]["offset"] for _ in range(20)]
                for client in (kurt, lena)
            ]
    assert heard[0] == heard[1] == sorted(heard[0])
