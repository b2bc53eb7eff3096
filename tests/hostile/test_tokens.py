"""Tokens that somebody made up: all of them are «Authentication failed», at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.server import Server
from support.sio import ConnectRefused, SocketIo
from support.tokens import SECRET, make_claims, make_token

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = _KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
PRIVATE_PEM = _KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """The server knows an RSA public key beside the secret, as in a change of keys."""
    return {"auth_public_keys": PUBLIC_PEM.decode()}


def encode_part(value: Any) -> str:
    """Encode a part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(algorithm: str, signature: str = "") -> str:
    """Build a token that says it is signed by *algorithm*."""
    header = encode_part({"alg": algorithm, "typ": "JWT"})
    return f"{header}.{encode_part(make_claims('admin'))}.{signature}"


def sign_by_hand(claims: Any, secret: bytes = SECRET.encode()) -> str:
    """Sign with HS256 what no library would: any claims, any secret."""
    head = encode_part({"alg": "HS256", "typ": "JWT"}) + "." + encode_part(claims)
    digest = hmac.new(secret, head.encode(), hashlib.sha256).digest()
    return f"{head}.{encode_part(digest)}"


def hs256(claims: Mapping[str, Any], headers: dict[str, Any] | None = None) -> str:
    """Sign any claims with the right secret."""
    return jwt.encode(dict(claims), SECRET, algorithm="HS256", headers=headers)


NOW = time.time()
GOOD = make_token("admin")
HEAD, BODY, SIGNATURE = GOOD.split(".")
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)

FORGED: list[tuple[str, Any]] = [
    ("none", unsigned("none")),
    ("None", unsigned("None")),
    ("NONE with a signature", unsigned("NONE", SIGNATURE)),
    ("empty algorithm", unsigned("")),
    ("public key as secret", sign_by_hand(make_claims("admin"), PUBLIC_PEM)),
    ("another secret", make_token("admin", secret="y" * 40)),
    ("another RSA key", jwt.encode(make_claims("admin"), OTHER, algorithm="RS256")),
    ("HS512", jwt.encode(make_claims("admin"), SECRET * 2, algorithm="HS512")),
    ("signature cut", GOOD[:-4]),
    ("no signature", f"{HEAD}.{BODY}."),
    ("no dots", HEAD + BODY + SIGNATURE),
    ("four parts", GOOD + ".x"),
    ("other claims", f"{HEAD}.{encode_part(make_claims('root'))}.{SIGNATURE}"),
    ("key in its own header", hs256(make_claims("a"), {"jwk": {"kty": "oct", "k": "eA"}})[:-2]),
    ("unknown critical header", hs256(make_claims("a"), {"crit": ["x"], "x": 1})),
    ("claims are an array", f"{HEAD}.{encode_part([1])}.{SIGNATURE}"),
    ("expired", make_token("admin", lifetime_s=-60)),
    ("no exp", hs256({"sub": "admin"})),
    ("exp is text", sign_by_hand({"sub": "admin", "exp": "never"})),
    ("exp is infinite", sign_by_hand(b'{"sub":"admin","exp":1e999}')),
    ("exp is beyond all", sign_by_hand({"sub": "admin", "exp": 1e308})),
    ("sub is a number", sign_by_hand({"sub": 7, "exp": NOW + 60})),
    ("rooms is a number", sign_by_hand({"sub": "admin", "exp": NOW + 60, "rooms": 7})),
    ("not yet", hs256(make_claims("admin", nbf=NOW + 3600))),
    ("no sub", hs256({"exp": NOW + 60})),
    ("empty sub", make_token("")),
    ("sub with a line feed", make_token("a\nb")),
    ("sub of 10,000 characters", make_token("x" * 10_000)),
    ("audience of someone else", make_token("admin", aud="another-app")),
    ("100 KB", make_token("admin", padding="x" * 75_000)),
    ("900 KB of dots", "." * 900_000),
    ("deep claims", f"{HEAD}.{encode_part(b'[' * 5_000)}.{SIGNATURE}"),
    ("no UTF-8", f"{HEAD}.{encode_part(bytes([0xFF, 0xFE]))}.{SIGNATURE}"),
    ("not base64", "\x00.\x01.\x02"),
    ("lone surrogate", "\ud800.a.b"),
    ("number", 7),
    ("true", True),
    ("object", {"token": GOOD}),
    ("array", [GOOD]),
    ("null", None),
    ("empty", ""),
    ("with the scheme", f"Bearer {GOOD}"),
    ("with a space", f" {GOOD}"),
]


@pytest.mark.parametrize("token", [pytest.param(token, id=name) for name, token in FORGED])
async def test_forged_token_is_refused(server: Server, token: Any) -> None:
    """The answer says only that it failed, whatever the reason is."""
    async with SocketIo.dial(server.ws_url) as client:
        with pytest.raises(ConnectRefused) as refused:
            await client.sign_in({"token": token})
        assert refused.value.payload == {"message": "Authentication failed"}


async def test_token_of_the_public_key_is_good(server: Server) -> None:
    """So that the refusals above are about the forgery, not about the key."""
    token = jwt.encode(make_claims("admin"), PRIVATE_PEM, algorithm="RS256")
    async with SocketIo.dial(server.ws_url) as client:
        assert (await client.sign_in({"token": token}))["pid"]


@pytest.mark.parametrize("name", ["Token", "jwt", "authorization"])
async def test_token_elsewhere_does_not_count(server: Server, name: str) -> None:
    """Only `auth.token` is looked at."""
    async with SocketIo.dial(server.ws_url) as client:
        with pytest.raises(ConnectRefused):
            await client.sign_in({name: GOOD})


async def test_token_does_not_reach_the_log(server: Server) -> None:
    """Neither good tokens nor bad ones are written anywhere."""
    bad = make_token("admin", secret="z" * 40)
    async with SocketIo.dial(server.ws_url) as client:
        with pytest.raises(ConnectRefused):
            await client.sign_in({"token": bad})
    async with SocketIo.dial(server.ws_url) as client:
        await client.sign_in({"token": GOOD})
    log = server.log.read_text(errors="replace")
    assert bad not in log
    assert GOOD not in log


@pytest.mark.parametrize(
    "header",
    ["Bearer", f"Basic {GOOD}", f"Bearer {unsigned('none')}", "Bearer " + "x" * 20_000],
)
async def test_bad_service_token_is_a_401(
    server: Server, http: httpx.AsyncClient, header: str
) -> None:
    """REST refuses the same tokens."""
    response = await http.get(
        f"{server.url}/api/rooms/r/history", headers={"Authorization": header}
    )
    assert response.status_code == 401
