"""Keys from an identity provider (one over real HTTP): fetched once, in time, not too often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.signing import (
    EC_KEY,
    NOW,
    OTHER_RSA_KEY,
    P384_KEY,
    PAYLOAD,
    RSA_KEY,
    SECRET,
    SMALL_RSA_KEY,
    UNSIGNED,
    PrivateKey,
    claims,
    encode,
    forged,
    hs256,
    pem,
    signed,
    verify,
)
from roomful.edge.auth import Authenticator, AuthSettings, Identity
from roomful.protocol.errors import RefusalCode, Refused
from support.clock import Clock
from support.deadline import within
from support.http_app import serving_app


def jwk(key: PrivateKey, key_id: str, **changes: Any) -> dict[str, Any]:
    """Return the public half as a member of a JWK set."""
    public = (
        RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        if isinstance(key, rsa.RSAPrivateKey)
        else ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    )
    return {name: value for name, value in public.items() if name != "key_ops"} | {
        "kid": key_id,
        **changes,
    }


class KeyServer:
    """An identity provider's key endpoint."""

    def __init__(self) -> None:
        self.url = ""
        self.fetches = 0
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.keys: list[Any] = [jwk(RSA_KEY, "rsa-1"), jwk(EC_KEY, "ec-1")]
        self.raw: bytes | None = None
        self.status = 200
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, request: Request) -> Response:
        """Give the set once the gate is open."""
        self.fetches += 1
        self.arrived.put_nowait(None)
        await self.open.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.raw is None else self.raw
        return Response(body, self.status)


@pytest.fixture
async def provider() -> AsyncIterator[KeyServer]:
    """A running key endpoint."""
    keys = KeyServer()
    async with serving_app(Starlette(routes=[Route("/keys", keys.answer)])) as url:
        keys.url = url + "/keys"
        yield keys
        keys.open.set()


@asynccontextmanager
async def fetching(
    provider: KeyServer, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Authenticator]:
    """Authentication by *provider*'s keys; the lifetime of a set is 300 s of *clock*."""
    auth = Authenticator(
        AuthSettings(jwks_url=provider.url, **settings),
        now=lambda: NOW,
        clock=clock or Clock(1_000.0),
    )
    try:
        yield auth
    finally:
        await auth.aclose()


async def sign_in(auth: Authenticator, token: str) -> Identity | RefusalCode:
    """Verify, waiting for keys where they have to be fetched."""
    try:
        answer = auth.verify(token)
        return answer if isinstance(answer, Identity) else await within(answer)
    except Refused as refused:
        return refused.code


BY_RSA = signed(claims(), RSA_KEY, key_id="rsa-1")
BY_EC = signed(claims(), EC_KEY, key_id="ec-1")
BY_NEW = signed(claims(sub="new"), OTHER_RSA_KEY, key_id="rsa-2")
INVALID, UNAVAILABLE = RefusalCode.TOKEN_INVALID, RefusalCode.AUTH_UNAVAILABLE


async def test_set_is_fetched_once_and_then_at_hand(provider: KeyServer) -> None:
    """The first token waits for the keys; later ones, of other keys too, are verified at once."""
    async with fetching(provider) as auth:
        assert not isinstance(first := auth.verify(BY_RSA), Identity)
        assert (await within(first)).user == "ann"
        assert verify(auth, BY_RSA).user == verify(auth, BY_EC).user == "ann"
        assert verify(auth, signed(claims(), RSA_KEY)).user == "ann"  # without kid
    assert provider.fetches == 1


async def test_everyone_waits_for_one_fetch(provider: KeyServer) -> None:
    """A hundred clients that come at once cause one fetch; one that leaves takes it from nobody."""
    provider.open.clear()
    async with fetching(provider) as auth:
        waiting = [asyncio.create_task(sign_in(auth, BY_RSA)) for _ in range(100)]
        await within(provider.arrived.get())
        waiting.pop(0).cancel()
        provider.open.set()
        users = {who.user for who in await asyncio.gather(*waiting) if isinstance(who, Identity)}
    assert users == {"ann"}
    assert provider.fetches == 1


async def test_rotated_key_is_found_at_once(provider: KeyServer) -> None:
    """A kid that is not known is fetched, long before the set is old and right after a fetch."""
    async with fetching(provider, Clock(1_000.0)) as auth:
        await sign_in(auth, BY_RSA)
        assert await sign_in(auth, BY_NEW) is INVALID
        provider.keys.append(jwk(OTHER_RSA_KEY, "rsa-2"))
        assert isinstance(await sign_in(auth, BY_NEW), Identity)
        assert isinstance(auth.verify(BY_NEW), Identity)
    assert provider.fetches == 3


async def test_a_short_life_is_kept(provider: KeyServer) -> None:
    """A set that may serve for two seconds is fetched after two, whatever the pace for kids."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock, jwks_lifetime_s=2.0) as auth:
        await sign_in(auth, BY_RSA)
        provider.keys = [jwk(EC_KEY, "ec-1")]
        clock.now += 2.0
        assert await sign_in(auth, BY_EC) is not INVALID
        assert await sign_in(auth, signed(claims(), RSA_KEY)) is INVALID


async def test_invented_kids_cause_few_fetches_in_ten_seconds(provider: KeyServer) -> None:
    """A stranger cannot make an edge hammer the provider: five at once, then one per 10 s."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock) as auth:
        await sign_in(auth, BY_RSA)
        for second in range(20):
            clock.now = 1_000.0 + second
            for number in range(5):
                token = signed(claims(), EC_KEY, key_id=f"kid-{second}-{number}")
                assert await sign_in(auth, token) is INVALID
    assert provider.fetches == 6


@pytest.mark.parametrize(
    "token",
    [
        hs256(claims()),
        UNSIGNED,
        signed(claims(), RSA_KEY, name="RS512", key_id="rsa-9"),
    ],
    ids=["HS256", "none", "RS512"],
)
async def test_algorithms_no_fetched_key_is_for_cause_no_fetch(
    provider: KeyServer, token: str
) -> None:
    """Only RS256 and ES256 are worth asking for keys."""
    async with fetching(provider) as auth:
        assert await sign_in(auth, token) is INVALID
    assert provider.fetches == 0


async def test_removed_key_ends_with_the_lifetime(provider: KeyServer) -> None:
    """A key that the provider took out is used no longer than jwks_lifetime_s."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock) as auth:
        await sign_in(auth, BY_RSA)
        provider.keys = [jwk(EC_KEY, "ec-1")]
        clock.now += 239.0
        assert isinstance(auth.verify(BY_RSA), Identity)
        clock.now += 61.0
        assert await sign_in(auth, BY_RSA) is INVALID
        assert isinstance(auth.verify(BY_EC), Identity)
    assert provider.fetches == 2


async def test_set_is_renewed_before_anyone_has_to_wait(provider: KeyServer) -> None:
    """Near its end the set is fetched in the background while tokens are verified at once."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock) as auth:
        await sign_in(auth, BY_RSA)
        await within(provider.arrived.get())
        provider.keys.append(jwk(OTHER_RSA_KEY, "rsa-2"))
        clock.now += 241.0
        assert isinstance(auth.verify(BY_RSA), Identity)
        await within(provider.arrived.get())
        assert isinstance(await sign_in(auth, BY_NEW), Identity)  # joins the fetch under way
        clock.now += 100.0
        assert isinstance(auth.verify(BY_RSA), Identity)
    assert provider.fetches == 2


async def test_old_keys_serve_while_the_provider_is_down(provider: KeyServer) -> None:
    """An outage of the provider shuts out nobody with known keys, until the hard limit."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock, jwks_stale_limit_s=3_600.0) as auth:
        await sign_in(auth, BY_RSA)
        provider.status = 503
        clock.now += 301.0
        assert isinstance(await sign_in(auth, BY_RSA), Identity)
        assert isinstance(auth.verify(BY_RSA), Identity)  # no new attempt within 10 s
        assert await sign_in(auth, BY_NEW) is UNAVAILABLE  # might be good: nobody can tell
        assert provider.fetches == 2
        clock.now = 1_000.0 + 3_601.0
        assert await sign_in(auth, BY_RSA) is UNAVAILABLE
        provider.status = 200
        clock.now += 1.1
        assert isinstance(await sign_in(auth, BY_RSA), Identity)
        assert auth.statistics.jwks is not None
        assert auth.statistics.jwks.failures == 2


async def test_provider_that_hangs_while_down_holds_up_nobody(provider: KeyServer) -> None:
    """Once a fetch has failed, later attempts go on in the background."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock) as auth:
        await sign_in(auth, BY_RSA)
        provider.status = 503
        clock.now += 301.0
        await sign_in(auth, BY_RSA)
        provider.open.clear()
        clock.now += 10.0
        while not provider.arrived.empty():
            provider.arrived.get_nowait()
        assert isinstance(auth.verify(BY_RSA), Identity)
        await within(provider.arrived.get())
        assert isinstance(auth.verify(BY_RSA), Identity)


async def test_provider_that_was_never_there_is_unavailable(provider: KeyServer) -> None:
    """Without any key: retryable, and at most one attempt per second."""
    clock = Clock(1_000.0)
    provider.status = 500
    async with fetching(provider, clock) as auth:
        assert await sign_in(auth, BY_RSA) is UNAVAILABLE
        clock.now += 0.9
        with pytest.raises(Refused):
            auth.verify(BY_RSA)
        assert provider.fetches == 1
        provider.status = 200
        clock.now += 0.2
        assert isinstance(await sign_in(auth, BY_RSA), Identity)
    assert UNAVAILABLE.is_retryable


async def test_fetch_that_takes_too_long_is_given_up(provider: KeyServer) -> None:
    """After jwks_timeout_s those who wait are refused, and may try again."""
    provider.open.clear()
    async with fetching(provider, jwks_timeout_s=0.05) as auth:
        assert await sign_in(auth, BY_RSA) is UNAVAILABLE


async def test_closing_ends_the_wait(provider: KeyServer) -> None:
    """At shutdown nobody is left waiting for keys."""
    provider.open.clear()
    async with fetching(provider) as auth:
        waiting = asyncio.create_task(sign_in(auth, BY_RSA))
        await within(provider.arrived.get())
        await auth.aclose()
        assert await within(waiting) is UNAVAILABLE


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"keys":{}}', id="keys no list"),
        pytest.param(b'{"keys":[]}', id="no keys"),
        pytest.param(b'{"keys":[1,{"kty":"RSA"},{"kty":[]}]}', id="broken keys"),
        pytest.param(b'{"keys":' + b"[" * 100_000, id="nested without end"),
        pytest.param(b'{"keys":[],"x":"' + b"x" * 600_000 + b'"}', id="too long"),
    ],
)
async def test_document_that_is_no_set_is_a_failure(provider: KeyServer, raw: bytes) -> None:
    """What cannot be used is treated as an endpoint that is down."""
    provider.raw = raw
    async with fetching(provider) as auth:
        assert await sign_in(auth, BY_RSA) is UNAVAILABLE


SHARED = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": encode(SECRET.encode())}


@pytest.mark.parametrize(
    ("member", "token"),
    [
        pytest.param(
            SHARED,
            forged({"alg": "HS256", "kid": "shared"}, PAYLOAD, SECRET.encode()),
            id="symmetric",
        ),
        pytest.param(jwk(RSA_KEY, "rsa-1", use="enc"), BY_RSA, id="for encryption"),
        pytest.param(jwk(RSA_KEY, "rsa-1", key_ops=["sign"]), BY_RSA, id="not for verifying"),
        pytest.param(jwk(RSA_KEY, "rsa-1", key_ops=7), BY_RSA, id="operations no list"),
        pytest.param(jwk(RSA_KEY, "rsa-1", alg="RS512"), BY_RSA, id="for another algorithm"),
        pytest.param(jwk(RSA_KEY, "rsa-1", alg="HS256"), BY_RSA, id="for a symmetric one"),
        pytest.param(
            jwk(SMALL_RSA_KEY, "small"),
            forged({"alg": "RS256", "kid": "small"}, PAYLOAD, b""),
            id="small RSA key",
        ),
        pytest.param(
            RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"kid": "rsa-1", "key_ops": ["verify"]},
            BY_RSA,
            id="private key",
        ),
        pytest.param(
            jwk(P384_KEY, "ec-1"), signed(claims(), P384_KEY, name="ES384"), id="other curve"
        ),
    ],
)
async def test_keys_that_are_not_for_this_are_left_out(
    provider: KeyServer, member: dict[str, Any], token: str
) -> None:
    """Of a set only public RSA and P-256 keys for signatures count, whatever else is in it."""
    provider.keys = [member, jwk(OTHER_RSA_KEY, "rsa-2")]
    async with fetching(provider) as auth:
        assert isinstance(await sign_in(auth, BY_NEW), Identity)
        assert await sign_in(auth, token) is INVALID
        assert auth.statistics.jwks is not None
        assert auth.statistics.jwks.keys == 1


async def test_secret_and_static_keys_need_no_fetch(provider: KeyServer) -> None:
    """Keys of the settings work while the URL is down, and next to it."""
    provider.status = 500
    async with fetching(provider, secret=SECRET, public_keys=(pem(RSA_KEY),)) as auth:
        assert verify(auth, hs256(claims())).user == "ann"
        assert verify(auth, BY_RSA).user == "ann"
    assert provider.fetches == 0
