"""
Who a connection is: verifies its token, remembers revocations, and mints tokens for development.

Verifying is synchronous unless keys have to be fetched first: about 10 µs for HS256. Why a token
was refused is for the log; the wire says only that it was.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import jwt
import msgspec

from roomful.edge.grants import Right, RoomGrants
from roomful.edge.jwks import (
    FETCHED_ALGORITHMS,
    JwkSource,
    JwkStatistics,
    Key,
    SignedToken,
    build_keys,
    parse_token,
)
from roomful.edge.revocations import TOKEN, USER, Revocations
from roomful.protocol.errors import RefusalCode, Refused

__all__ = [
    "MAX_USER_LENGTH",
    "AuthSettings",
    "AuthStatistics",
    "Authenticator",
    "Identity",
    "is_user",
]

MAX_USER_LENGTH = 128
MAX_TOKEN_ID_LENGTH = 256
REVOCATION_LIFETIME_S = 24 * 3600.0
MAX_REVOCATIONS = 100_000
LATEST_S = 2**53 / 1000
"""Seconds since the epoch whose milliseconds every client can read."""

SERVICE_SCOPE = "service"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ALL_RIGHTS = frozenset(right.value for right in Right)


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What a verified token says about its bearer."""

    user: str  # claim sub
    token_id: str | None  # claim jti
    issued_at: float | None  # claim iat, seconds since the epoch
    expires_at: float | None  # claim exp, seconds since the epoch; None = never
    rooms: Mapping[str, frozenset[str]] | None  # claim rooms: pattern to rights; None = no claim
    is_service: bool  # claim scope has "service"


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Which tokens are good: any key here may have signed them; ValueError for what cannot work."""

    # HS256 secret, at least 32 bytes; None = HS256 is refused.
    secret: str | None = field(default=None, repr=False)
    # PEM public keys, RSA (RS256) or EC P-256 (ES256).
    public_keys: tuple[str, ...] = ()
    # Where a JWK set with more public keys is; None = nowhere.
    jwks_url: str | None = None
    # The only iss that is good; None = any.
    issuer: str | None = None
    # What aud must have; None = tokens with an aud are for someone else, and refused.
    audience: str | None = None
    # Whether a token must have an exp. One without can only be ended by a revocation.
    require_exp: bool = True
    # Seconds that clocks may differ by.
    leeway_s: float = 5.0
    # Above this, a token is not looked at; 8 KiB is what proxies allow for a header.
    max_token_bytes: int = 8192
    # Seconds for one fetch of the JWK set; someone waits for it.
    jwks_timeout_s: float = 3.0
    # Seconds a JWK set is used; so long lives a key that was taken out of it.
    jwks_lifetime_s: float = 300.0
    # Seconds it is used while its URL is down; an hour is how long most tokens live.
    jwks_stale_limit_s: float = 3600.0

    def __post_init__(self) -> None:
        build_keys(self.secret, self.public_keys)
        if not (self.jwks_url or "http://").startswith(("http://", "https://")):
            raise ValueError("auth: jwks_url must begin with http:// or https://")
        for name in ("max_token_bytes", "jwks_timeout_s", "jwks_lifetime_s", "jwks_stale_limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"auth: {name} must be above 0")
        if not 0 <= self.leeway_s <= 300:
            raise ValueError("auth: leeway_s must be between 0 and 300")


@dataclass(slots=True)
class AuthStatistics:
    """What an authenticator has done since it began."""

    verified: int = 0
    revocations: int = 0  # held now, lapsed ones included until the next one comes
    revocations_dropped: int = 0  # before they lapsed, because there were too many
    jwks: JwkStatistics | None = None  # None = no JWKS URL


class _Claims(msgspec.Struct, frozen=True, gc=False):
    """Claims as RFC 7519 types them; another type is refused, others are ignored."""

    sub: str = ""
    iss: str | None = None
    aud: str | list[str] | None = None
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None
    jti: str | None = None
    scope: str | list[str] | None = None
    rooms: msgspec.Raw = msgspec.Raw(b"null")


_claims_decoder = msgspec.json.Decoder(_Claims)
_rooms_decoder = msgspec.json.Decoder(dict[str, list[str]] | list[str] | str | None)


class Authenticator:
    """Verifies tokens, for all connections of an edge; ValueError when there is no key at all."""

    def __init__(
        self,
        settings: AuthSettings,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.statistics = AuthStatistics()
        self._settings = settings
        self._now = now
        self._keys = build_keys(settings.secret, settings.public_keys)
        self._source: JwkSource | None = None
        if settings.jwks_url is not None:
            self._source = JwkSource(
                settings.jwks_url,
                timeout_s=settings.jwks_timeout_s,
                lifetime_s=settings.jwks_lifetime_s,
                stale_limit_s=settings.jwks_stale_limit_s,
                clock=clock,
            )
            self.statistics.jwks = self._source.statistics
        elif not self._keys:
            raise ValueError("auth has no key: set a secret, public keys or a JWKS URL")
        self._revocations = Revocations(MAX_REVOCATIONS)

    def verify(self, token: object) -> Identity | Awaitable[Identity]:
        """
        Return who *token* says its bearer is, or what to await when keys have to be fetched.

        Raises:
            Refused: TOKEN_MISSING, TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_REVOKED, or
                AUTH_UNAVAILABLE when keys cannot be had just now; awaiting raises the same.
        """
        signed = self._parse(token)
        if _is_signed(signed, self._keys):
            return self._identify(signed)
        if self._source is None or signed.algorithm not in FETCHED_ALGORITHMS:
            raise _invalid("no key has made the token's signature")
        keys = self._source.find(signed)
        if keys is None:
            return self._verify_after_fetch(self._source, signed)
        return self._identify_signed(signed, keys)

    async def _verify_after_fetch(self, source: JwkSource, signed: SignedToken) -> Identity:
        return self._identify_signed(signed, await source.find_after_fetch(signed))

    def _parse(self, token: object) -> SignedToken:
        if token is None or token == "":
            raise Refused(RefusalCode.TOKEN_MISSING, "there is no token")
        if not isinstance(token, str):
            raise _invalid("the token is not a string")
        if len(token) > self._settings.max_token_bytes:
            raise _invalid(f"the token is above {self._settings.max_token_bytes} bytes")
        return parse_token(token)

    def _identify_signed(self, signed: SignedToken, keys: Iterable[Key]) -> Identity:
        if not _is_signed(signed, keys):
            raise _invalid("no key has made the token's signature")
        return self._identify(signed)

    def _identify(self, signed: SignedToken) -> Identity:
        """Check the claims of a token whose signature is good."""
        try:
            claims = _claims_decoder.decode(signed.payload)
            rooms = _parse_rooms(bytes(claims.rooms))
        except (ValueError, RecursionError) as exc:
            raise _invalid(f"a claim is not of its type: {exc}") from exc
        self._check_times(claims)
        self._check_names(claims)
        identity = Identity(
            user=claims.sub,
            token_id=claims.jti,
            issued_at=claims.iat,
            expires_at=claims.exp,
            rooms=rooms,
            is_service=_has_service_scope(claims.scope),
        )
        if self._revocations.has(identity, self._now()):
            raise Refused(RefusalCode.TOKEN_REVOKED, "the token was revoked")
        self.statistics.verified += 1
        return identity

    def _check_times(self, claims: _Claims) -> None:
        now, leeway_s = self._now(), self._settings.leeway_s
        if claims.exp is None:
            if self._settings.require_exp:
                raise _invalid("the token has no exp")
        elif claims.exp > LATEST_S:
            raise _invalid("the token's exp is out of range")
        elif claims.exp <= now - leeway_s:
            raise Refused(RefusalCode.TOKEN_EXPIRED, "the token has expired")
        if claims.nbf is not None and claims.nbf > now + leeway_s:
            raise _invalid("the token is not valid yet (nbf)")
        # A token from the future would outlive the revocation of its user.
        if claims.iat is not None and claims.iat > now + leeway_s:
            raise _invalid("the token was issued in the future (iat)")

    def _check_names(self, claims: _Claims) -> None:
        if not is_user(claims.sub):
            raise _invalid("the token's sub is empty, too long or has control characters")
        if claims.jti is not None and len(claims.jti) > MAX_TOKEN_ID_LENGTH:
            raise _invalid(f"the token's jti is above {MAX_TOKEN_ID_LENGTH} characters")
        if self._settings.issuer is not None and claims.iss != self._settings.issuer:
            raise _invalid("the token is from another issuer")
        # RFC 7519, section 4.1.3: who is not named in an aud that is there must reject the token.
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        if (self._settings.audience or audiences) and self._settings.audience not in audiences:
            raise _invalid("the token is for another audience")

    def revoke(
        self,
        *,
        user: str | None,
        token_id: str | None,
        until: float | None,
        issued_before: float | None = None,
    ) -> None:
        """
        Refuse from now on all tokens that *user* was issued before now, and the one *token_id*.

        Args:
            until: seconds since the epoch when this lapses, at best when the last such token has
                expired; None = in 24 hours.
            issued_before: the "now" above, seconds since the epoch, so that all edges can agree
                on one; None = this edge's now. Tokens without an iat count as older.
        """
        if user is None and token_id is None:
            raise ValueError("a revocation names a user or a token")
        now = self._now()
        lapses_at = now + REVOCATION_LIFETIME_S if until is None else until
        before = now if issued_before is None else issued_before
        for kind, name in ((USER, user), (TOKEN, token_id)):
            if name is not None:
                dropped = self._revocations.add((kind, name), before, lapses_at, now)
                self.statistics.revocations_dropped += dropped
        self.statistics.revocations = len(self._revocations)

    def is_revoked(self, identity: Identity) -> bool:
        """Whether *identity* comes from a token that was revoked since it was verified."""
        return self._revocations.has(identity, self._now())

    def mint(
        self,
        *,
        user: str,
        rooms: Mapping[str, Sequence[str]] | None,
        lifetime_s: float,
        is_service: bool = False,
    ) -> str:
        """
        Make an HS256 token that this authenticator accepts; *rooms* None leaves the claim out.

        Raises:
            ValueError: there is no secret to sign with, or *user* cannot be one.
        """
        settings = self._settings
        if settings.secret is None or not is_user(user):
            raise ValueError("minting needs a secret, and a user that tokens may be for")
        now = self._now()
        claims = {
            "sub": user,
            "jti": secrets.token_urlsafe(12),
            "iat": round(now, 3),
            "exp": round(now + lifetime_s, 3),
            "rooms": None if rooms is None else {room: list(what) for room, what in rooms.items()},
            "scope": SERVICE_SCOPE if is_service else None,
            "iss": settings.issuer,
            "aud": settings.audience,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, settings.secret, algorithm="HS256")

    async def aclose(self) -> None:
        """Close the connections for fetching keys."""
        if self._source is not None:
            await self._source.aclose()


def is_user(name: str) -> bool:
    """Whether *name* can be a user's: the sub of a token."""
    return 0 < len(name) <= MAX_USER_LENGTH and _CONTROL.search(name) is None


def _is_signed(signed: SignedToken, keys: Iterable[Key]) -> bool:
    for key in keys:
        if key.has_signed(signed):
            return True
    return False


@lru_cache(maxsize=4096)
def _parse_rooms(claim: bytes) -> RoomGrants | None:
    """
    Parse a ``rooms`` claim; the same claim gives the same object, so it is compiled once.

    A list of patterns, or one pattern, gives both rights. Unknown rights give nothing.
    """
    rooms = _rooms_decoder.decode(claim)
    if rooms is None:
        return None
    if isinstance(rooms, str):
        rooms = [rooms]
    if isinstance(rooms, list):
        return RoomGrants(dict.fromkeys(rooms, _ALL_RIGHTS))
    return RoomGrants({pattern: _ALL_RIGHTS.intersection(r) for pattern, r in rooms.items()})


def _has_service_scope(scope: str | list[str] | None) -> bool:
    return scope is not None and SERVICE_SCOPE in (
        scope.split(" ") if isinstance(scope, str) else scope
    )


def _invalid(sentence: str) -> Refused:
    return Refused(RefusalCode.TOKEN_INVALID, sentence)
