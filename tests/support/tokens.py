"""Tokens as an app's backend would sign them, good ones and bad ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jwt

__all__ = ["SECRET", "EVERYTHING", "make_claims", "make_service_token", "make_token"]

SECRET = "the-test-secret-that-is-long-enough-for-hs256"

EVERYTHING: Mapping[str, list[str]] = {"*": ["join", "send"]}
"""The `rooms` claim that allows every room."""


def make_claims(
    user: str,
    *,
    lifetime_s: float = 3600,
    rooms: Mapping[str, list[str]] = EVERYTHING,
    **extra: Any,
) -> dict[str, Any]:
    """Return the claims of a token for *user* that ends *lifetime_s* seconds from now."""
    now = time.time()
    return {"sub": user, "iat": int(now), "exp": now + lifetime_s, "rooms": dict(rooms)} | extra


def make_token(user: str, *, secret: str = SECRET, **claims: Any) -> str:
    """Sign a token for *user* with *secret* (HS256); *claims* as for make_claims."""
    return jwt.encode(make_claims(user, **claims), secret, algorithm="HS256")


def make_service_token(*, secret: str = SECRET) -> str:
    """Sign the token of a backend that calls the REST interface."""
    return jwt.encode(make_claims("backend", scope="service"), secret, algorithm="HS256")
