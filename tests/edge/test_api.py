"""
The HTTP API at its edges: tokens, bodies, names and numbers. What it says of itself is in
test_api_description.py, what each call does to connections in tests/wire/test_rest.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import jwt
import pytest

from edge.calling import CALLS, POSTS, SERVICE, error_of
from support.server import Server
from support.tokens import SECRET, make_claims, make_service_token, make_token

PAYLOAD_BYTES = 20_000


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Small bodies, so that a large one is quickly made."""
    return {"limits_payload_bytes": str(PAYLOAD_BYTES)}


@pytest.fixture
async def api(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a service token."""
    async with httpx.AsyncClient(base_url=server.url, headers=SERVICE) as client:
        yield client


# Tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        pytest.param(None, 401, "TOKEN_MISSING", id="none"),
        pytest.param("Basic YWxpY2U6cHc=", 401, "TOKEN_MISSING", id="another scheme"),
        pytest.param("Bearer", 401, "TOKEN_MISSING", id="no token"),
        pytest.param("Bearer a.b.c", 401, "TOKEN_INVALID", id="no JWT"),
        pytest.param(
            f"Bearer {make_token('a', scope='service', secret='x' * 40)}",
            401,
            "TOKEN_INVALID",
            id="signed by another",
        ),
        pytest.param(
            f"Bearer {make_token('a', scope='service', lifetime_s=-60)}",
            401,
            "TOKEN_EXPIRED",
            id="expired",
        ),
        pytest.param(f"Bearer {make_token('alice')}", 403, "FORBIDDEN", id="a user's"),
        pytest.param(
            f"Bearer {make_token('alice', scope='services')}", 403, "FORBIDDEN", id="another scope"
        ),
    ],
)
@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_tokens(
    server: Server,
    method: str,
    path: str,
    body: Any,
    authorization: str | None,
    status: int,
    code: str,
) -> None:
    """401 says how to sign in, 403 that it will not help."""
    headers = {} if authorization is None else {"Authorization": authorization}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        response = await client.request(method, path, json=body)
    assert response.status_code == status
    assert error_of(response) in (code, "TOKEN_MISSING" if authorization == "Bearer" else code)
    assert ("www-authenticate" in response.headers) == (status == 401)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_not_case_sensitive(server: Server, scheme: str) -> None:
    """RFC 9110 section 11.1."""
    headers = {"Authorization": f"{scheme} {make_service_token()}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        assert (await client.get("/api/rooms/r/presence")).status_code == 200


async def test_a_token_with_several_scopes(server: Server) -> None:
    """As OAuth writes them: words with spaces between."""
    token = jwt.encode(make_claims("b", scope="read service"), SECRET, algorithm="HS256")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        assert (await client.get("/api/rooms/r/presence")).status_code == 200


# Bodies ----------------------------------------------------------------------------------------


def fill(body: dict[str, Any], size: int) -> bytes:
    """Write *body* as JSON of *size* bytes; spaces do not change it."""
    return json.dumps(body).encode().ljust(size)


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_bodies_have_a_limit(api: httpx.AsyncClient, path: str, body: Any) -> None:
    """Exactly payload_bytes is taken, one more is 413."""
    taken = await api.post(path, content=fill(body, PAYLOAD_BYTES))
    assert taken.is_success, taken.text
    refused = await api.post(path, content=fill(body, PAYLOAD_BYTES + 1))
    assert (refused.status_code, error_of(refused)) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_body_that_does_not_say_its_length(api: httpx.AsyncClient) -> None:
    """The limit counts what comes, not what was announced."""

    async def parts(count: int) -> AsyncIterator[bytes]:
        yield b'{"data":1'
        for _ in range(count):
            yield b" " * 1000
        yield b"}"

    taken = await api.post("/api/rooms/r/events", content=parts(10))
    assert taken.status_code == 201
    refused = await api.post("/api/rooms/r/events", content=parts(25))
    assert refused.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"data":1', id="cut"),
        pytest.param(b'{"data":1}{"data":2}', id="two"),
        pytest.param(b'{"data":NaN}', id="NaN"),
        pytest.param(b'{"data":"\xc3"}', id="cut UTF-8"),
        pytest.param(b'{"data":"\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"data":' + b"[" * 9000 + b"]" * 9000 + b"}", id="deep"),
        pytest.param(b'{"data":1,"more":1}', id="unknown field"),
        pytest.param(b'{"data":1,"id":""}', id="empty id"),
        pytest.param(b'{"data":1,"id":"%b"}' % (b"i" * 129), id="long id"),
        pytest.param(b'{"data":1,"userId":""}', id="empty user"),
        pytest.param(b'{"data":1,"event":""}', id="empty event"),
        pytest.param(b'{"data":1,"event":"a\\u0000b"}', id="control character in the event"),
        pytest.param(b'{"data":%b}' % (b"1" * 5000), id="a number that Python does not read"),
    ],
)
async def test_bodies_that_are_refused(api: httpx.AsyncClient, body: bytes) -> None:
    """400 with a sentence, and nothing is stored."""
    before = (await api.get("/api/rooms/refused/history")).json()
    response = await api.post("/api/rooms/refused/events", content=body)
    assert (response.status_code, error_of(response)) == (400, "BAD_REQUEST")
    assert (await api.get("/api/rooms/refused/history")).json() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/rooms/r/events", {"data": 1, "userId": "a\nb"}),
        ("/api/users/u/messages", {"content": 1, "from": "a\x7fb"}),
    ],
)
async def test_senders_that_cannot_be(api: httpx.AsyncClient, path: str, body: Any) -> None:
    """A sender's name is a user's: without control characters."""
    response = await api.post(path, json=body)
    assert (response.status_code, error_of(response)) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[]", id="an array"),
        pytest.param(b'{"a":1', id="cut"),
        pytest.param(b'{"a":"\xc3"}', id="cut UTF-8"),
        pytest.param(b'{"a":"\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"\\ud800":1}', id="half a surrogate pair in a name"),
        pytest.param(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", id="101 deep"),
        pytest.param(b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}", id="deep"),
        pytest.param(b'{"a":%b}' % (b"1" * 5000), id="a number that Python does not read"),
        pytest.param(b'{"type":"message","a":1}', id="the field that names a plain JSON event"),
        pytest.param(b'{"cursor":"a","b":1}', id="the field that plain JSON clients resume by"),
    ],
)
async def test_updates_that_are_refused(api: httpx.AsyncClient, body: bytes) -> None:
    """A `user-update` is held to what messages are: it must not cut the clients that hear it."""
    response = await api.post("/api/users/u/update", content=body)
    assert (response.status_code, error_of(response)) == (400, "BAD_REQUEST")


async def test_an_update_at_its_bounds(api: httpx.AsyncClient) -> None:
    """Nested 100 deep, and with as many fields as fit."""
    deep = b'{"a":' + b"[" * 99 + b"]" * 99 + b"}"
    many = json.dumps(dict.fromkeys(map(str, range(1_500)), 0)).encode()
    for body in (deep, many, b"{}"):
        assert (await api.post("/api/users/u/update", content=body)).status_code == 200


@pytest.mark.parametrize("event", ["connect", "user-joined", "direct-message", "roomful:x"])
async def test_reserved_events(api: httpx.AsyncClient, event: str) -> None:
    """A backend cannot say what only the server says."""
    response = await api.post("/api/rooms/r/events", json={"data": 1, "event": event})
    assert (response.status_code, error_of(response)) == (400, "RESERVED_EVENT")


# Names and numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoded", "name"),
    [
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("%C3%BC%20%E2%82%AC", "ü €"),
        ("a%3Fb%23c", "a?b#c"),
        ("r" * 255, "r" * 255),
        ("events", "events"),
        ("a/history", "a/history"),
        ("a%2Fmessages", "a/messages"),
        ("a/messages/7", "a/messages/7"),
        ("%25", "%"),
    ],
)
async def test_rooms_in_paths(api: httpx.AsyncClient, encoded: str, name: str) -> None:
    """Any name a room can have can be said in a path."""
    answer = await api.post(f"/api/rooms/{encoded}/events", json={"data": encoded})
    assert answer.status_code == 201
    page = (await api.get(f"/api/rooms/{encoded}/history")).json()
    assert page["messages"][-1]["roomId"] == name
    assert (await api.get(f"/api/rooms/{encoded}/presence")).json()["roomId"] == name
    await api.post(f"/api/rooms/{encoded}/events", json={"data": encoded})
    offset = page["messages"][-1]["offset"]
    for path in (f"messages/{offset}", "messages"):
        erased = await api.delete(f"/api/rooms/{encoded}/{path}")
        assert erased.json() == {"success": True, "messages": 1}


@pytest.mark.parametrize("encoded", ["%00", "a%0Db", "a%0Ab", "%C2%85", "r" * 256, "%7F"])
@pytest.mark.parametrize("call", ["events", "history", "presence"])
async def test_rooms_that_cannot_be(api: httpx.AsyncClient, encoded: str, call: str) -> None:
    """400, the same for every call."""
    path = f"/api/rooms/{encoded}/{call}"
    response = await (api.post(path, json={"data": 1}) if call == "events" else api.get(path))
    assert (response.status_code, error_of(response)) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("encoded", ["%00", "%0A", "u" * 129])
async def test_users_that_cannot_be(api: httpx.AsyncClient, encoded: str) -> None:
    """400, the same for every call."""
    answers = [
        await api.post(f"/api/users/{encoded}/messages", json={"content": 1}),
        await api.post(f"/api/users/{encoded}/update", json={}),
        await api.delete(f"/api/users/{encoded}/connections"),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 400]


@pytest.mark.parametrize("name", ["before", "after", "limit"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "1e3", "+1", " 1", "٣", "9" * 16, "0x1"])
async def test_numbers_in_queries(api: httpx.AsyncClient, name: str, value: str) -> None:
    """A whole number of those that JavaScript has, or 400."""
    response = await api.get("/api/rooms/r/history", params={name: value})
    assert (response.status_code, error_of(response)) == (400, "BAD_REQUEST")


async def test_an_offset_in_a_path(api: httpx.AsyncClient) -> None:
    """As in a query."""
    assert (await api.delete(f"/api/rooms/r/messages/{2**53}")).status_code == 200
    response = await api.delete(f"/api/rooms/r/messages/{2**53 + 1}")
    assert (response.status_code, error_of(response)) == (400, "BAD_REQUEST")


async def test_a_page_has_between_one_and_a_hundred(api: httpx.AsyncClient) -> None:
    """No page of none, and more than the limit is the limit."""
    for number in range(103):
        await api.post("/api/rooms/long/events", json={"data": number})
    none = await api.get("/api/rooms/long/history", params={"limit": 0})
    assert none.status_code == 400
    many = (await api.get("/api/rooms/long/history", params={"limit": 10**6})).json()
    assert len(many["messages"]) == 100
    default = (await api.get("/api/rooms/long/history")).json()
    assert len(default["messages"]) == 50
    after = (
        await api.get("/api/rooms/long/history", params={"after": many["messages"][-2]["offset"]})
    ).json()
    assert [one["content"] for one in after["messages"]] == [102]
    assert after["next"] is None


async def test_other_methods_and_paths(api: httpx.AsyncClient) -> None:
    """405 says which method is right, 404 that there is nothing."""
    wrong = await api.get("/api/rooms/r/events")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    of_two = await api.get("/api/users/u/messages")
    assert of_two.status_code == 405
    assert set(of_two.headers["allow"].split(", ")) == {"DELETE", "POST"}
    assert (await api.get("/api/nothing")).status_code == 404
    assert (await api.get("/api/rooms//history")).status_code in (400, 404)


async def test_heads_of_what_can_be_got(api: httpx.AsyncClient) -> None:
    """HEAD is GET without the body."""
    for path in ("/livez", "/readyz", "/metrics", "/api/openapi.json", "/api/ws/stats"):
        response = await api.head(path)
        assert (response.status_code, response.content) == (200, b"")
