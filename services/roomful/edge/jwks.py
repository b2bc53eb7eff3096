"""
Signed tokens and the keys that prove them: JWS compact form, PEM keys, and a JWK set by URL.

A key is bound to one algorithm when it is loaded, by what it is, and never by what a token says
(RFC 8725, section 3.1). So HS256 is only ever tried with the secret, RS256 and ES256 only with
public keys, and "none" has no key at all. The signatures themselves are PyJWT's.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWTError
from jwt.algorithms import Algorithm, get_default_algorithms

from roomful.protocol.errors import RefusalCode, Refused

__all__ = [
    "FETCHED_ALGORITHMS",
    "JwkSource",
    "JwkStatistics",
    "Key",
    "SignedToken",
    "build_keys",
    "parse_token",
]

AlgorithmName = Literal["HS256", "RS256", "ES256"]

MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: as long as the hash
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3
MAX_SET_BYTES = 512 * 1024
MAX_SET_KEYS = 64

# A URL that is down is asked again after this long, while older keys still serve. It is also the
# pace of fetches for unknown kids, so that invented ones cannot make an edge hammer the URL; a few
# may come at once, because a key can be rotated right after a fetch, or after an invented kid.
REFETCH_AFTER_S = 10.0
FETCHES_AT_ONCE = 5
# With no key at all everyone is locked out, so the next attempt comes sooner.
RETRY_EMPTY_AFTER_S = 1.0
# From this part of its life on, a set is fetched again while it still serves.
REFRESH_AHEAD = 0.8

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TO_PLAIN_BASE64 = bytes.maketrans(b"-_", b"+/")
_ALGORITHMS = get_default_algorithms()
# What a key from a URL can be for; a token with another algorithm is not worth a fetch.
FETCHED_ALGORITHMS = frozenset({"RS256", "ES256"})
_ALGORITHM_OF_KIND: dict[str, AlgorithmName] = {"RSA": "RS256", "EC": "ES256"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, bound to the one algorithm it is for."""

    algorithm: AlgorithmName
    material: Any  # what PyJWT's algorithm of that name takes: bytes, or a cryptography key
    key_id: str | None = None

    def has_signed(self, token: SignedToken) -> bool:
        """Whether *token* says this key's algorithm and carries this key's signature."""
        if token.algorithm != self.algorithm:
            return False
        verifier: Algorithm = _ALGORITHMS[self.algorithm]
        return verifier.verify(token.signed, self.material, token.signature)

    def __repr__(self) -> str:
        return f"<Key {self.algorithm} kid={self.key_id!r}>"


class SignedToken(NamedTuple):
    """A token taken apart; nothing of it is proven yet."""

    algorithm: str
    key_id: str | None
    signed: bytes  # what the signature is over: header "." payload, as they came
    signature: bytes
    payload: bytes  # the claims, JSON


class _Header(msgspec.Struct, frozen=True, gc=False):
    alg: str
    kid: str | None = None
    crit: msgspec.UnsetType | Any = msgspec.UNSET


_header_decoder = msgspec.json.Decoder(_Header)


def parse_token(token: str) -> SignedToken:
    """
    Take a token in JWS compact form apart.

    Raises:
        Refused: TOKEN_INVALID when it is not one, or asks for an extension (``crit``).

    Source: RFC 7515, sections 3.1, 4.1.11 and 5.2
    """
    if _COMPACT.fullmatch(token) is None:
        raise _invalid("the token is not a JWS in compact form")
    head, payload, signature = token.split(".")
    try:
        header = _parse_header(head)
        return SignedToken(
            algorithm=header.alg,
            key_id=header.kid,
            signed=token[: len(head) + 1 + len(payload)].encode("ascii"),
            signature=_decode_segment(signature),
            payload=_decode_segment(payload),
        )
    except (ValueError, RecursionError) as exc:
        raise _invalid("the token's header or encoding is not valid") from exc


@lru_cache(maxsize=64)
def _parse_header(segment: str) -> _Header:
    """Parse a header; cached, because all tokens of one issuer and key have the same."""
    header = _header_decoder.decode(_decode_segment(segment))
    if header.crit is not msgspec.UNSET:
        raise _invalid("the token asks for an extension (crit) that is not known here")
    return header


def _decode_segment(segment: str) -> bytes:
    padded = segment.encode("ascii").translate(_TO_PLAIN_BASE64) + b"=" * (-len(segment) % 4)
    return binascii.a2b_base64(padded, strict_mode=True)


def _invalid(sentence: str) -> Refused:
    return Refused(RefusalCode.TOKEN_INVALID, sentence)


def build_keys(secret: str | None, public_keys: Iterable[str]) -> tuple[Key, ...]:
    """
    Make the HS256 key of a shared secret, and those of PEM public keys (RS256, ES256).

    Raises:
        ValueError: the secret is too short or a key by mistake, or a public key is not one.
    """
    own = () if secret is None else (_build_secret_key(secret),)
    return (*own, *map(_build_pem_key, public_keys))


def _build_secret_key(secret: str) -> Key:
    encoded = secret.encode()
    if len(encoded) < MIN_SECRET_BYTES:
        raise ValueError(f"auth: the secret must have at least {MIN_SECRET_BYTES} bytes")
    try:
        return Key("HS256", _ALGORITHMS["HS256"].prepare_key(encoded))
    except PyJWTError as exc:
        raise ValueError(f"auth: the secret cannot be used: {exc}") from exc


def _build_pem_key(pem: str) -> Key:
    """Make a key of PEM; a private one is refused too, an edge needs none."""
    try:
        material = load_pem_public_key(pem.encode())
    except (ValueError, TypeError) as exc:
        raise ValueError("auth: a public key is not PEM ('-----BEGIN PUBLIC KEY-----')") from exc
    key = _bind(material, None)
    if key is None:
        raise ValueError(
            f"auth: a public key must be RSA of {MIN_RSA_BITS} bits or more, or EC P-256"
        )
    return key


def _bind(material: object, key_id: str | None) -> Key | None:
    """Bind *material* to the algorithm of its kind; None for kinds that are not used here."""
    if isinstance(material, RSAPublicKey) and material.key_size >= MIN_RSA_BITS:
        return Key("RS256", material, key_id)
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return Key("ES256", material, key_id)
    return None


def parse_key_set(document: bytes) -> tuple[Key, ...]:
    """
    Take the usable keys out of a JWK set: public RSA and P-256 keys that are for signatures.

    Everything else in it is left out, above all symmetric keys: a document anyone can read
    must not hold a secret.

    Raises:
        ValueError: not a JWK set, or no usable key in it.
    """
    try:
        listed = msgspec.json.decode(document, type=_KeySet).keys[:MAX_SET_KEYS]
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"not a JWK set: {exc}") from exc
    found = map(_parse_key, listed)
    keys = tuple(key for key in found if key is not None)
    if not keys:
        raise ValueError("the JWK set has no RSA or P-256 key for signatures")
    return keys


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[Any]  # each is looked at alone: an unusable one does not spoil the others


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    use: str = "sig"
    alg: str | None = None
    kid: str | None = None
    key_ops: frozenset[str] = frozenset({"verify"})


def _parse_key(member: Any) -> Key | None:
    """Make the key of one *member* of a set; None when it is not usable here."""
    try:
        jwk = msgspec.convert(member, _Jwk)
    except msgspec.ValidationError:
        return None
    algorithm = _ALGORITHM_OF_KIND.get(jwk.kty)
    if algorithm is None or jwk.alg not in (None, algorithm):
        return None
    if jwk.use != "sig" or "verify" not in jwk.key_ops:
        return None
    try:
        return _bind(PyJWK(member, algorithm).key, jwk.kid)
    except PyJWTError:
        return None


@dataclass(slots=True)
class JwkStatistics:
    """What a source of keys has done since it began."""

    fetches: int = 0
    failures: int = 0
    keys: int = 0  # usable ones in the newest set


class JwkSource:
    """
    The keys at a JWKS URL: fetched when needed, one fetch at a time, kept while it is down.

    A set serves for *lifetime_s* and is fetched again ahead of its end. If that fails it serves on
    until *stale_limit_s*, with a new attempt every 10 s that nobody waits for. A kid it does not
    have makes a new fetch too, at most five at once and one per 10 s.
    """

    # State: _keys as of _fetched_at (-inf: never); _tried_at and _has_failed tell of the newest
    # attempt, _spare how many more could have come with it; _flight is the fetch under way.
    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        lifetime_s: float,
        stale_limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.statistics = JwkStatistics()
        self._url = url
        self._timeout_s = timeout_s
        self._lifetime_s = lifetime_s
        self._stale_limit_s = max(stale_limit_s, lifetime_s)
        self._clock = clock
        self._client = httpx.AsyncClient(timeout=timeout_s)
        self._keys: tuple[Key, ...] = ()
        self._fetched_at = self._tried_at = float("-inf")
        self._has_failed = False
        self._spare = 0.0
        self._flight: asyncio.Task[None] | None = None

    def find(self, token: SignedToken) -> Iterable[Key] | None:
        """
        Keys that may have signed *token*, without waiting; None when a fetch has to come first.

        Raises:
            Refused: AUTH_UNAVAILABLE when there are no keys and it is too early to ask again.
        """
        now = self._clock()
        age_s = now - self._fetched_at
        may_retry = self._may_retry(now)
        if age_s >= self._stale_limit_s:
            if may_retry:
                return None
            raise _unavailable()
        if age_s >= self._lifetime_s and not self._has_failed:
            return None
        if age_s >= self._lifetime_s * REFRESH_AHEAD and may_retry:
            self._fetch()
        keys = self._matching(token)
        if keys or self._flight is not None:
            return keys or None
        if self._has_failed:
            if may_retry:
                return None
            raise _unavailable()
        return None if self._fetches_left(now) >= 1 else keys

    async def find_after_fetch(self, token: SignedToken) -> Iterable[Key]:
        """
        Keys that may have signed *token*, after a fetch.

        Raises:
            Refused: AUTH_UNAVAILABLE when it failed and what is known is too old or not enough.
        """
        await asyncio.wait([self._fetch()])  # a caller that gives up does not end it for others
        keys = self._matching(token)
        is_too_old = self._clock() - self._fetched_at >= self._stale_limit_s
        if is_too_old or (not keys and self._has_failed):
            raise _unavailable()
        return keys

    async def aclose(self) -> None:
        """Stop a fetch under way and close the connections."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])
        await self._client.aclose()

    def _matching(self, token: SignedToken) -> list[Key]:
        return [
            key
            for key in self._keys
            if key.algorithm == token.algorithm and token.key_id in (None, key.key_id)
        ]

    def _may_retry(self, now: float) -> bool:
        """Whether a fetch is under way to be waited for, or may begin after the last one."""
        if self._flight is not None or not self._has_failed:
            return True
        is_empty = now - self._fetched_at >= self._stale_limit_s
        return now - self._tried_at >= (RETRY_EMPTY_AFTER_S if is_empty else REFETCH_AFTER_S)

    def _fetches_left(self, now: float) -> float:
        return min(FETCHES_AT_ONCE, self._spare + (now - self._tried_at) / REFETCH_AFTER_S)

    def _fetch(self) -> asyncio.Task[None]:
        if self._flight is None:
            now = self._clock()
            self._spare = max(0.0, self._fetches_left(now) - 1)
            self._tried_at = now
            self._flight = asyncio.create_task(self._fetch_once(), name="jwks fetch")
        return self._flight

    async def _fetch_once(self) -> None:
        self.statistics.fetches += 1
        has_failed = True
        try:
            async with asyncio.timeout(self._timeout_s):
                self._keys = parse_key_set(await self._download())
            self._fetched_at = self._clock()
            self.statistics.keys = len(self._keys)
            has_failed = False
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as exc:
            self.statistics.failures += 1
            logger.warning("jwks fetch failed", extra={"error": repr(exc)})
        finally:
            self._has_failed = has_failed
            self._flight = None

    async def _download(self) -> bytes:
        document = bytearray()
        async with self._client.stream("GET", self._url) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                document += chunk
                if len(document) > MAX_SET_BYTES:
                    raise ValueError(f"the JWK set is above {MAX_SET_BYTES} bytes")
        return bytes(document)


def _unavailable() -> Refused:
    return Refused(RefusalCode.AUTH_UNAVAILABLE, "the keys to check the token are not available")
