"""More connections than allowed: of one user, of one address, of the edge, and too fast."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from support.deadline import eventually
from support.plainjson import PlainJson
from support.rawsocket import RawSocket, Response
from support.server import Server
from support.sio import ConnectRefused, SocketIo, signed_in
from support.tokens import make_service_token, make_token

LIMIT = 4504
PER_USER = 3
CONNECTIONS = 30


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Few of everything."""
    return {"limits_connections_per_user": str(PER_USER), "limits_connections": str(CONNECTIONS)}


@asynccontextmanager
async def connected(server: Server, user: str, count: int) -> AsyncIterator[list[SocketIo]]:
    """Connections of one user."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(signed_in(server.ws_url, make_token(user)))
            for _ in range(count)
        ]


async def test_user_with_too_many_connections(server: Server) -> None:
    """One more is refused; when one has gone there is room again."""
    async with connected(server, "alice", PER_USER) as clients:
        async with SocketIo.dial(server.ws_url) as late:
            with pytest.raises((ConnectRefused, ConnectionError)):
                await late.sign_in({"token": make_token("alice")})
            assert late.close_code in {None, LIMIT}
        await clients[0].connection.close()

        async def is_let_in() -> bool:
            async with SocketIo.dial(server.ws_url) as again:
                try:
                    return "pid" in await again.sign_in({"token": make_token("alice")})
                except (ConnectRefused, ConnectionError):
                    return False

        await eventually(is_let_in, "the place is free again")


async def test_user_with_too_many_plain_connections(server: Server) -> None:
    """The limit is over both wires; plain JSON is closed with LIMIT."""
    async with (
        connected(server, "bob", PER_USER),
        PlainJson.dial(server.ws_url) as late,
    ):
        await late.send({"type": "auth", "token": make_token("bob")})
        assert await late.wait_closed() == LIMIT


async def test_full_edge_says_so(server: Server, http: httpx.AsyncClient) -> None:
    """A connection above the edge's limit gets a 503 with Retry-After, and nobody else suffers."""
    async with AsyncExitStack() as stack:
        refused = 0
        for _ in range(2 * CONNECTIONS):
            raw = await stack.enter_async_context(RawSocket.dial(server.port))
            response = await raw.request("GET", "/socket.io/?EIO=4&transport=polling")
            if response.status == 503:
                assert int(response.headers["retry-after"]) > 0
                refused += 1
        assert refused >= CONNECTIONS
        with pytest.raises(InvalidStatus, match="503"):
            async with SocketIo.dial(server.ws_url):
                pass

    async def has_room() -> bool:
        try:
            async with SocketIo.dial(server.ws_url):
                return True
        except InvalidStatus:
            return False

    await eventually(has_room, "closed connections make room")


PROBES = ["/livez", "/readyz", "/metrics", "/api/ws/health", "/api/ws/stats"]


async def ask(server: Server, path: str, *headers: str) -> Response:
    """Send one request by a connection of its own."""
    async with RawSocket.dial(server.port) as raw:
        return await raw.request("GET", path, *headers)


async def test_probes_are_answered_by_a_full_edge(server: Server) -> None:
    """It lives and can be watched, is not ready, and nobody gets in under a probe's name."""
    async with AsyncExitStack() as stack:

        async def is_full() -> bool:
            await stack.enter_async_context(RawSocket.dial(server.port))
            return (await ask(server, "/api/openapi.json")).status == 503

        await eventually(is_full, "as many as the edge takes say nothing")
        answers = {path: await ask(server, path) for path in PROBES}
        assert {path: answer.status for path, answer in answers.items()} == {
            **dict.fromkeys(PROBES, 200),
            "/readyz": 503,
        }
        assert b"full" in answers["/readyz"].body
        assert all(answer.headers["connection"] == "close" for answer in answers.values())
        for path in ("/livezz", "/api/openapi.json", "/socket.io/?EIO=4&transport=polling", "/ws"):
            assert (await ask(server, path)).status == 503
        with pytest.raises(InvalidStatus, match="503"):
            async with SocketIo.dial(server.ws_url):
                pass

        # Whoever holds all the places that are left must make room for the next.
        silent = [await stack.enter_async_context(RawSocket.dial(server.port)) for _ in range(150)]
        assert (await ask(server, "/livez")).status == 200
        assert (await silent[0].response()).status == 503

    async def is_ready() -> bool:
        return (await ask(server, "/readyz")).status == 200

    await eventually(is_ready, "closed connections make room")


async def test_a_full_edge_can_be_told_to_send_clients_away(server: Server) -> None:
    """Nobody needs it more; it is asked for a service token and looked at as ever."""
    body = b'{"count":0}'
    head = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    bearer = f"Authorization: Bearer {make_service_token()}"
    async with AsyncExitStack() as stack:

        async def is_full() -> bool:
            await stack.enter_async_context(RawSocket.dial(server.port))
            return (await ask(server, "/api/openapi.json")).status == 503

        await eventually(is_full, "as many as the edge takes say nothing")
        for headers, status in ((head, 401), ((*head, bearer), 400)):
            async with RawSocket.dial(server.port) as raw:
                answer = await raw.request("POST", "/api/edge/shed", *headers, body=body)
                assert answer.status == status
