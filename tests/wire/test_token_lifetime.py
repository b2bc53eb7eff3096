"""A token while it is in use: its end, its swap, its revocation, its swap for somebody else's."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from support.plainjson import plain_signed_in
from support.server import Server
from support.sio import ConnectRefused, SocketIo, signed_in
from support.tokens import make_service_token, make_token

User = Callable[[str], str]
SERVICE = {"Authorization": f"Bearer {make_service_token()}"}
SHORT_S = 1.5


async def test_connection_ends_with_its_token(server: Server, user: User) -> None:
    """The client is told before, and closed with TOKEN_EXPIRED at the end and not before."""
    expires_at = time.time() + SHORT_S
    token = make_token(user("alice"), lifetime_s=SHORT_S)
    async with signed_in(server.ws_url, token) as client:
        told = (await client.next("token-expiring")).body
        assert await client.wait_closed() == 4502
        assert time.time() >= expires_at - 0.05
    assert abs(told["expiresAt"] - expires_at * 1000) < 100


async def test_plain_json_connection_ends_with_its_token(server: Server, user: User) -> None:
    """The same on the plain JSON wire."""
    token = make_token(user("alice"), lifetime_s=SHORT_S)
    async with plain_signed_in(server.ws_url, token) as client:
        await client.next("token-expiring")
        assert await client.wait_closed() == 4502


async def test_fresh_token_keeps_the_connection(server: Server, room: str, user: User) -> None:
    """`auth` swaps the token in band; the connection outlives the old one."""
    alice = user("alice")
    fresh = make_token(alice, lifetime_s=3600)
    first_ends_at = time.time() + SHORT_S
    async with (
        signed_in(server.ws_url, make_token(alice, lifetime_s=SHORT_S)) as client,
        signed_in(server.ws_url, make_token(alice, lifetime_s=SHORT_S)) as other,
    ):
        ack = await client.call("auth", {"token": fresh})
        assert await other.wait_closed() == 4502
        assert time.time() >= first_ends_at - 0.05
        await client.join(room)
    assert ack["success"]
    assert abs(ack["expiresAt"] - (time.time() + 3600) * 1000) < 10_000


async def test_fresh_token_that_ends_sooner_ends_the_connection(server: Server, user: User) -> None:
    """The end of the token in force counts, also when the one before was good for longer."""
    alice = user("alice")
    async with signed_in(server.ws_url, make_token(alice)) as client:
        ends_at = time.time() + SHORT_S
        ack = await client.call("auth", {"token": make_token(alice, lifetime_s=SHORT_S)})
        assert ack["success"]
        await client.next("token-expiring")
        assert await client.wait_closed() == 4502
        assert time.time() >= ends_at - 0.05


@pytest.mark.parametrize(
    ("whose", "lifetime_s", "codes"),
    [
        pytest.param("mallory", 3600, {"FORBIDDEN", "TOKEN_INVALID"}, id="of another user"),
        pytest.param("alice", -60, {"TOKEN_EXPIRED"}, id="expired"),
    ],
)
async def test_bad_fresh_token_changes_nothing(
    server: Server, room: str, user: User, whose: str, lifetime_s: float, codes: set[str]
) -> None:
    """The swap is refused and the connection goes on as who it was."""
    alice = user("alice")
    fresh = make_token(user(whose), lifetime_s=lifetime_s)
    async with signed_in(server.ws_url, make_token(alice)) as client:
        ack = await client.call("auth", {"token": fresh})
        assert ack["error"]["code"] in codes
        await client.join(room)
        await client.say(room, "x")
        assert (await client.next("message")).body["userId"] == alice


async def test_revoked_user_is_out(server: Server, http: httpx.AsyncClient, user: User) -> None:
    """Every token of the user so far is refused from now on, and connections with one close."""
    alice = user("alice")
    token = make_token(alice)
    async with signed_in(server.ws_url, token) as client:
        url = f"{server.url}/api/revocations"
        assert (await http.post(url, json={"userId": alice}, headers=SERVICE)).is_success
        assert await client.wait_closed() == 4503
    async with SocketIo.dial(server.ws_url) as again:
        with pytest.raises(ConnectRefused, match="Authentication failed"):
            await again.sign_in({"token": token})


async def test_revoked_token_is_out_and_others_are_not(
    server: Server, http: httpx.AsyncClient, user: User
) -> None:
    """A revocation by token id is about that token (`jti`) only."""
    alice = user("alice")
    stolen, kept = make_token(alice, jti="stolen"), make_token(alice, jti="kept")
    async with (
        signed_in(server.ws_url, stolen) as thief,
        signed_in(server.ws_url, kept) as owner,
    ):
        url = f"{server.url}/api/revocations"
        assert (await http.post(url, json={"tokenId": "stolen"}, headers=SERVICE)).is_success
        assert await thief.wait_closed() == 4503
        await owner.join("anywhere")
    async with SocketIo.dial(server.ws_url) as again:
        with pytest.raises(ConnectRefused, match="Authentication failed"):
            await again.sign_in({"token": stolen})
