"""Without --dev: nobody is let in who was not named, from nowhere that was not named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.eio import Polling
from support.plainjson import PlainJson
from support.refusals import assert_refused
from support.server import Server, start
from support.sio import signed_in
from support.tokens import make_token

FRIEND, STRANGER = "https://app.example.com", "https://evil.example.com"


@pytest.fixture(scope="module")
def server_arguments() -> tuple[str, ...]:
    """No mode at all."""
    return ("--host", "127.0.0.1")


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """One page may connect."""
    return {"origins": FRIEND}


async def test_rooms_are_denied_by_default(server: Server) -> None:
    """A token without `rooms` opens none."""
    async with signed_in(server.ws_url, make_token("alice", rooms={})) as client:
        assert_refused(await client.call("join-room", "lobby"), "FORBIDDEN")
    async with signed_in(server.ws_url, make_token("alice", rooms={"lobby": ["join"]})) as client:
        await client.join("lobby")
        assert_refused(await client.call("message", {"roomId": "lobby", "content": 1}), "FORBIDDEN")
        assert_refused(await client.call("join-room", "other"), "FORBIDDEN")


async def test_token_in_the_query_is_not_looked_at(server: Server) -> None:
    """Queries are logged by proxies; only a setting allows them."""
    async with PlainJson.dial(server.ws_url, query=f"?token={make_token('alice')}") as client:
        await client.send({"type": "join-room", "roomId": "lobby"})
        assert (await client.next("error"))["code"] == "UNAUTHORIZED"


async def test_nobody_makes_tokens(server: Server, http: httpx.AsyncClient) -> None:
    """The endpoint of the demo page is not there."""
    answer = await http.post(f"{server.url}/api/dev/token", json={"user": "alice"})
    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["/ws", "/socket.io/?EIO=4&transport=websocket"])
async def test_websocket_of_a_strange_page_is_refused(server: Server, path: str) -> None:
    """Browsers put no limit on WebSockets, so the server does; with a 403 before the 101."""
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(server.ws_url + path, additional_headers={"Origin": STRANGER}):
            pass
    async with connect(server.ws_url + path, additional_headers={"Origin": FRIEND}):
        pass


async def test_polling_of_a_strange_page_is_refused(
    server: Server, http: httpx.AsyncClient
) -> None:
    """A 403 without CORS headers; the friend gets them, with its own origin."""
    endpoint = f"{server.url}/socket.io/"
    query = {"EIO": "4", "transport": "polling"}
    refused = await http.get(endpoint, params=query, headers={"Origin": STRANGER})
    allowed = await http.get(endpoint, params=query, headers={"Origin": FRIEND})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == FRIEND
    assert "origin" in allowed.headers["vary"].lower()


async def test_page_of_the_same_host_and_no_page_are_let_in(
    server: Server, http: httpx.AsyncClient
) -> None:
    """The server's own page, and programs that are no browsers."""
    session = Polling(http, f"{server.url}/socket.io/")
    assert (await session.open()).sid
    own = await http.get(
        f"{server.url}/socket.io/?EIO=4&transport=polling", headers={"Origin": server.url}
    )
    assert own.status_code == 200


async def test_preflight(server: Server, http: httpx.AsyncClient) -> None:
    """A browser asks before it posts; only the friend is told yes."""
    for origin, allowed in ((FRIEND, FRIEND), (STRANGER, None)):
        answer = await http.options(
            f"{server.url}/socket.io/?EIO=4&transport=polling",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        )
        assert answer.headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({"auth_secret": "short"}, "secret", id="short secret"),
        pytest.param({"auth_secret": ""}, "ROOMFUL_AUTH_SECRET", id="no secret"),
        pytest.param({"no_such_setting": "1"}, "ROOMFUL_NO_SUCH_SETTING", id="unknown setting"),
        pytest.param({"ping_interval_s": "soon"}, "ROOMFUL_PING_INTERVAL_S", id="no number"),
        pytest.param({"limits_attachments": "-1"}, "attachments", id="negative limit"),
        pytest.param({"access_allow_all": "true"}, "allow_all", id="allow all"),
    ],
)
def test_bad_settings_are_named_at_the_start(
    tmp_path: Path, settings: Mapping[str, str], sentence: str
) -> None:
    """A server that cannot be run safely does not start, and says what to change."""
    with pytest.raises(AssertionError, match=f"(?s)ended with 2.*{sentence}"):
        start(tmp_path, "--host", "127.0.0.1", settings=settings)
