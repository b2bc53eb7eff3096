"""Keys, tokens that are good, the means to forge one, and whoever verifies them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from roomful.edge.auth import Authenticator, AuthSettings, Identity
from roomful.protocol.errors import RefusalCode, Refused

__all__ = [
    "BOTH",
    "EC_KEY",
    "KEYS",
    "NOW",
    "OTHER_RSA_KEY",
    "P384_KEY",
    "PAYLOAD",
    "RSA_KEY",
    "SECRET",
    "SMALL_RSA_KEY",
    "UNSIGNED",
    "PrivateKey",
    "authenticator",
    "claims",
    "encode",
    "forged",
    "hs256",
    "pem",
    "private_pem",
    "refusal",
    "signed",
    "verify",
]

SECRET = "a-secret-of-at-least-thirty-two-bytes"
NOW = 1_800_000_000.0

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - refused
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())


def pem(key: PrivateKey) -> str:
    """Return the public half as an operator would paste it."""
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: PrivateKey) -> str:
    """Return the half that an edge must not be given."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims with *changes*; a None takes the claim out."""
    good = {"sub": "ann", "iat": NOW - 60, "exp": NOW + 600, "jti": "token-1"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def hs256(payload: Mapping[str, Any], secret: str = SECRET) -> str:
    """Sign *payload* with a secret."""
    return jwt.encode(dict(payload), secret, algorithm="HS256")


def signed(
    payload: Mapping[str, Any], key: PrivateKey, *, key_id: str | None = None, name: str = ""
) -> str:
    """Sign *payload* with a private key, by RS256 or ES256 unless *name* says another."""
    algorithm = name or ("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
    headers = None if key_id is None else {"kid": key_id}
    return jwt.encode(dict(payload), key, algorithm=algorithm, headers=headers)


def encode(part: bytes) -> str:
    """Encode one segment of a token."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def forged(header: Mapping[str, Any], payload: bytes, secret: bytes) -> str:
    """Put a token together by hand, with any header, signed by HMAC-SHA256."""
    content = f"{encode(json.dumps(header).encode())}.{encode(payload)}"
    return f"{content}.{encode(hmac.digest(secret, content.encode(), hashlib.sha256))}"


def authenticator(**settings: Any) -> Authenticator:
    """Return an authenticator whose time is NOW."""
    return Authenticator(AuthSettings(**({"secret": SECRET} | settings)), now=lambda: NOW)


def verify(auth: Authenticator, token: object) -> Identity:
    """Verify where no key has to be fetched."""
    identity = auth.verify(token)
    assert isinstance(identity, Identity)
    return identity


def refusal(auth: Authenticator, token: object) -> RefusalCode:
    """Return why *token* is refused, where no key has to be fetched."""
    with pytest.raises(Refused) as refused:
        auth.verify(token)
    return refused.value.code


BOTH = frozenset({"join", "send"})
"""The rights of a pattern that names none."""
KEYS = {"public_keys": (pem(RSA_KEY), pem(EC_KEY))}
PAYLOAD = json.dumps(claims()).encode()
UNSIGNED = ".".join([encode(b'{"alg":"none"}'), encode(PAYLOAD), ""])
