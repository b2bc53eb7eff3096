"""The REST interface of backends: what each call does to real connections (docs/wire.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.deadline import eventually
from support.eio import Polling, http_client
from support.server import Server
from support.sio import signed_in
from support.tokens import make_service_token, make_token

User = Callable[[str], str]
SERVICE = {"Authorization": f"Bearer {make_service_token()}"}

CALLS = [
    pytest.param("POST", "/api/rooms/r/events", {"data": 1}, id="notify room"),
    pytest.param("POST", "/api/users/u/messages", {"content": 1}, id="direct message"),
    pytest.param("POST", "/api/users/u/update", {"a": 1}, id="user update"),
    pytest.param("DELETE", "/api/users/u/connections", None, id="disconnect"),
    pytest.param("POST", "/api/revocations", {"userId": "nobody"}, id="revoke"),
    pytest.param("POST", "/api/edge/shed", {"count": 1}, id="shed"),
    pytest.param("GET", "/api/rooms/r/history", None, id="history"),
    pytest.param("GET", "/api/rooms/r/presence", None, id="presence"),
]


@pytest.fixture
async def api(server: Server, http: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client with a service token."""
    http.base_url = httpx.URL(server.url)
    http.headers.update(SERVICE)
    return http


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no token"),
        pytest.param({"Authorization": "Bearer nonsense"}, 401, id="nonsense"),
        pytest.param({"Authorization": f"Bearer {make_token('alice')}"}, 403, id="a user's"),
    ],
)
async def test_every_call_needs_a_service_token(
    server: Server,
    http: httpx.AsyncClient,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    status: int,
) -> None:
    """Without a good token it is 401, with one that is no service's 403, each with the reason."""
    response = await http.request(method, server.url + path, json=body, headers=headers)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message", "retryable"}


async def test_event_to_a_room(
    server: Server, api: httpx.AsyncClient, room: str, user: User
) -> None:
    """Members hear the event under its name; the answer is that of `publish`."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        answer = await api.post(
            f"/api/rooms/{room}/events",
            json={"event": "deploy", "data": {"n": 1}, "id": "d", "userId": "ci"},
        )
        event = await client.next("deploy")
        page = (await api.get(f"/api/rooms/{room}/history")).json()
    assert answer.is_success
    stored = answer.json()
    assert (stored["success"], stored["id"]) == (True, "d")
    assert event.args == [{"n": 1}, event.cursor]
    (found,) = page["messages"]
    assert (found["event"], found["userId"], found["offset"]) == ("deploy", "ci", stored["offset"])


async def test_message_to_a_room_by_default(
    server: Server, api: httpx.AsyncClient, room: str, user: User
) -> None:
    """Without a name the event is `message`, with the data as its content."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        await api.post(f"/api/rooms/{room}/events", json={"data": "hello"})
        assert (await client.next("message")).body["content"] == "hello"


async def test_same_id_over_rest_is_stored_once(api: httpx.AsyncClient, room: str) -> None:
    """A backend that repeats a request with the same id changes nothing."""
    body = {"data": 1, "id": "same"}
    first = await api.post(f"/api/rooms/{room}/events", json=body)
    again = await api.post(f"/api/rooms/{room}/events", json=body)
    page = (await api.get(f"/api/rooms/{room}/history")).json()
    assert again.json() == first.json()
    assert len(page["messages"]) == 1


async def test_direct_message(server: Server, api: httpx.AsyncClient, user: User) -> None:
    """The user hears a direct message from whom the backend says."""
    bob = user("bob")
    async with signed_in(server.ws_url, make_token(bob)) as client:
        answer = await api.post(f"/api/users/{bob}/messages", json={"content": "hi", "from": "ops"})
        heard = (await client.next("direct-message")).body
    assert answer.is_success
    assert (heard["userId"], heard["to"], heard["content"]) == ("ops", bob, "hi")


async def test_user_update(server: Server, api: httpx.AsyncClient, user: User) -> None:
    """The object comes as `user-update` to every connection of that user and to no other."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(bob)) as phone,
        signed_in(server.ws_url, make_token(bob)) as laptop,
        signed_in(server.ws_url, make_token(user("eve"))) as other,
    ):
        assert (await api.post(f"/api/users/{bob}/update", json={"name": "Bob"})).is_success
        for client in (phone, laptop):
            assert (await client.next("user-update")).body == {"name": "Bob"}
        await other.join("anywhere")
        assert other.inbox.pending("user-update") == []


async def test_disconnect(server: Server, api: httpx.AsyncClient, user: User) -> None:
    """Every connection of the user is closed with DISCONNECTED, the others stay."""
    bob = user("bob")
    async with (
        signed_in(server.ws_url, make_token(bob)) as phone,
        signed_in(server.ws_url, make_token(bob)) as laptop,
        signed_in(server.ws_url, make_token(user("eve"))) as other,
    ):
        assert (await api.delete(f"/api/users/{bob}/connections")).is_success
        assert [await phone.wait_closed(), await laptop.wait_closed()] == [4503, 4503]
        await other.join("anywhere")


async def test_disconnect_between_two_polls(
    server: Server, api: httpx.AsyncClient, user: User
) -> None:
    """A polling client is told DISCONNECT by its next poll: it must not come back by itself."""
    bob = user("bob")
    async with http_client() as client:
        session = Polling(client, f"{server.url}/socket.io/")
        await session.open()
        await session.post("40" + json.dumps({"token": make_token(bob)}))
        packets = await session.packets()
        while not any(packet.startswith('42["cursor"') for packet in packets):
            packets = await session.packets()
        assert (await api.delete(f"/api/users/{bob}/connections")).json()["connections"] == 1
        assert await session.packets() == ["41"]
        assert await session.packets() == ["1"]
        assert (await session.poll()).status_code == 400


async def test_shed(server: Server, api: httpx.AsyncClient, user: User) -> None:
    """As many clients as asked for are told to come back, and closed so that they do."""
    async with signed_in(server.ws_url, make_token(user("bob"))) as bob:
        response = await api.post("/api/edge/shed", json={"count": 1000})
        assert response.json()["closed"] >= 1
        told = await bob.next("reconnect")
        assert told.args[0]["reason"] == "rebalance"
        assert await bob.wait_closed() == 4002


async def test_presence(server: Server, api: httpx.AsyncClient, room: str, user: User) -> None:
    """The same as members see it."""
    alice = user("alice")
    async with signed_in(server.ws_url, make_token(alice)) as client:
        await client.join(room)
        answer = (await api.get(f"/api/rooms/{room}/presence")).json()
    expected = {"roomId": room, "members": [{"userId": alice, "status": "online"}], "count": 1}
    assert answer | expected == answer


async def test_history_pages(api: httpx.AsyncClient, room: str) -> None:
    """Pages by `limit`, `before` and `after`, as the operation has them."""
    for number in range(5):
        await api.post(f"/api/rooms/{room}/events", json={"data": number})
    newest = (await api.get(f"/api/rooms/{room}/history", params={"limit": 2})).json()
    older = (
        await api.get(
            f"/api/rooms/{room}/history", params={"limit": 2, "before": str(newest["next"])}
        )
    ).json()
    assert [message["content"] for message in newest["messages"]] == [3, 4]
    assert [message["content"] for message in older["messages"]] == [1, 2]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/api/rooms/r/events", b"{", id="no JSON"),
        pytest.param("/api/rooms/r/events", b"[]", id="no object"),
        pytest.param("/api/rooms/r/events", b"{}", id="no data"),
        pytest.param("/api/rooms/r/events", b'{"data":1,"event":7}', id="event is a number"),
        pytest.param("/api/rooms/r/events", b'{"data":1,"event":"connect"}', id="reserved event"),
        pytest.param("/api/rooms/r/events", b'{"data":"\xff"}', id="no UTF-8"),
        pytest.param("/api/rooms/%00/events", b'{"data":1}', id="NUL in the room"),
        pytest.param("/api/rooms/%ff/events", b'{"data":1}', id="no UTF-8 in the room"),
        pytest.param("/api/users/%ed%a0%80/messages", b'{"content":1}', id="surrogate in the user"),
        pytest.param(f"/api/rooms/{'r' * 256}/events", b'{"data":1}', id="room too long"),
        pytest.param("/api/users/u/messages", b"{}", id="no content"),
        pytest.param("/api/users/u/update", b'"text"', id="update is no object"),
        pytest.param("/api/revocations", b"{}", id="revocation of nothing"),
    ],
)
async def test_bad_request(api: httpx.AsyncClient, path: str, body: bytes) -> None:
    """Bad input is a 4xx with a code and a sentence, never a 500."""
    response = await api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    error = response.json()["error"]
    assert error["code"] in {"BAD_REQUEST", "RESERVED_EVENT"}
    assert error["message"]
    assert error["retryable"] is False


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "NOT_FOUND"),
        ("POST", "/api/rooms/r", 404, "NOT_FOUND"),
        ("PUT", "/api/rooms/r/events", 405, "BAD_REQUEST"),
        ("POST", "/api/ws/stats", 405, "BAD_REQUEST"),
    ],
)
async def test_a_call_that_there_is_not(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """It is refused as all others are; with another method, the answer says which there are."""
    response = await api.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["retryable"] is False
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    "until",
    [
        pytest.param("-1", id="long ago"),
        pytest.param("1700000000", id="past"),
        pytest.param("4000000000000", id="milliseconds"),
        pytest.param("1e308", id="beyond all"),
        pytest.param("1e999", id="no number"),
    ],
)
async def test_a_revocation_that_would_not_last(
    api: httpx.AsyncClient, user: User, until: str
) -> None:
    """One that has lapsed already, or in a unit that was not meant, is no success."""
    body = f'{{"userId":"{user("ann")}","until":{until}}}'
    response = await api.post("/api/revocations", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "BAD_REQUEST"


async def test_stats_and_health_are_open(
    server: Server, http: httpx.AsyncClient, room: str, user: User
) -> None:
    """Anyone may ask how many connections, rooms and users there are."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        stats = (await http.get(f"{server.url}/api/ws/stats")).json()
        health = (await http.get(f"{server.url}/api/ws/health")).json()
    assert stats["activeConnections"] >= 1
    assert stats["rooms"] >= 1
    assert stats["users"] >= 1
    assert {"status", "uptime", "memoryUsage"} <= set(health)


async def test_stats_of_the_asked_edge_are_of_now(
    server: Server, http: httpx.AsyncClient, user: User
) -> None:
    """Who has just come is counted, whenever the numbers were asked for last."""

    async def connections() -> int:
        found: int = (await http.get(f"{server.url}/api/ws/stats")).json()["activeConnections"]
        return found

    async def is_idle() -> bool:
        return await connections() == 0

    await eventually(is_idle, "a closed connection is not counted any more")
    async with signed_in(server.ws_url, make_token(user("alice"))):
        assert await connections() == 1


async def test_probes_and_metrics(server: Server, http: httpx.AsyncClient) -> None:
    """The probes answer 200; the metrics are Prometheus text."""
    for path in ("/livez", "/readyz"):
        assert (await http.get(server.url + path)).status_code == 200
    metrics = (await http.get(server.url + "/metrics")).text
    assert "# TYPE roomful_" in metrics


async def test_openapi_describes_the_calls(server: Server, http: httpx.AsyncClient) -> None:
    """The description names every call of the reference, whatever its parameters are called."""
    described = (await http.get(f"{server.url}/api/openapi.json")).json()["paths"]
    paths = {re.sub(r"{\w+}", "{}", path) for path in described}
    assert {
        "/api/rooms/{}/events",
        "/api/users/{}/messages",
        "/api/users/{}/update",
        "/api/users/{}/connections",
        "/api/revocations",
        "/api/rooms/{}/history",
        "/api/rooms/{}/presence",
        "/api/ws/stats",
        "/api/ws/health",
    } <= paths


async def test_dev_token_signs_in(server: Server, http: httpx.AsyncClient, user: User) -> None:
    """Under --dev the demo page gets its tokens from the server."""
    alice = user("alice")
    answer = (await http.post(f"{server.url}/api/dev/token", json={"user": alice})).json()
    assert answer["userId"] == alice
    async with signed_in(server.ws_url, answer["token"]) as client:
        assert client.pid
