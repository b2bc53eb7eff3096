"""Authentication: good tokens of each kind, ways to forge one, revocation, JWKS over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
from hypothesis import event, given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roomful.edge import auth as auth_module
from roomful.edge.auth import Authenticator, AuthSettings, Identity
from roomful.protocol.errors import RefusalCode, Refused
from support.deadline import within
from support.http_app import serving_app

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


# What a good token says


def test_identity_is_what_the_token_says() -> None:
    """Every claim that is used arrives as it was signed."""
    token = hs256(claims(rooms={"team-*": ["join", "send"], "lobby": ["join"]}, scope="service"))
    assert verify(authenticator(), token) == Identity(
        user="ann",
        token_id="token-1",
        issued_at=NOW - 60,
        expires_at=NOW + 600,
        rooms={"team-*": frozenset({"join", "send"}), "lobby": frozenset({"join"})},
        is_service=True,
    )


def test_claims_that_are_left_out_are_none() -> None:
    """sub and exp are enough; what is absent gives nothing."""
    identity = verify(authenticator(), hs256({"sub": "ann", "exp": NOW + 1}))
    assert identity == Identity("ann", None, None, NOW + 1, None, is_service=False)


BOTH = frozenset({"join", "send"})


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        pytest.param("*", {"*": BOTH}, id="one pattern"),
        pytest.param(["team-*", "lobby"], {"team-*": BOTH, "lobby": BOTH}, id="list"),
        pytest.param({"lobby": []}, {"lobby": frozenset()}, id="no rights"),
        pytest.param({"lobby": ["join", "admin"]}, {"lobby": frozenset({"join"})}, id="unknown"),
        pytest.param({}, {}, id="no rooms"),
    ],
)
def test_rooms_claim_has_three_forms(claim: object, expected: Mapping[str, frozenset[str]]) -> None:
    """A pattern or a list of them gives both rights, an object what it says; unknown gives none."""
    assert verify(authenticator(), hs256(claims(rooms=claim))).rooms == expected


def test_same_rooms_claim_is_one_object() -> None:
    """Tokens with the same rooms share the compiled claim, so it costs nothing per connection."""
    auth = authenticator()
    first = verify(auth, hs256(claims(rooms=["team-*"])))
    second = verify(auth, hs256(claims(sub="bob", rooms=["team-*"])))
    assert first.rooms is second.rooms


@pytest.mark.parametrize(
    ("scope", "is_service"),
    [
        ("service", True),
        ("openid service", True),
        (["a", "service"], True),
        ("services", False),
        ("", False),
        ([], False),
    ],
)
def test_service_is_a_word_of_the_scope(scope: object, is_service: bool) -> None:
    """Only the whole word makes a service."""
    assert verify(authenticator(), hs256(claims(scope=scope))).is_service is is_service


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY], ids=["RS256", "ES256"])
def test_public_keys_verify_their_algorithm(key: PrivateKey) -> None:
    """A PEM key accepts what its private half signed, next to others."""
    auth = authenticator(public_keys=(pem(OTHER_RSA_KEY), pem(RSA_KEY), pem(EC_KEY)))
    assert verify(auth, signed(claims(), key)).user == "ann"


def test_minted_token_is_accepted_for_its_lifetime() -> None:
    """What mint makes says what it was asked to say, and ends on time."""
    now = NOW
    auth = Authenticator(
        AuthSettings(secret=SECRET, issuer="me", audience="rooms", leeway_s=0.0), now=lambda: now
    )
    token = auth.mint(user="ann", rooms={"lobby": ["join"]}, lifetime_s=60, is_service=True)
    identity = verify(auth, token)
    assert (identity.user, identity.expires_at, identity.is_service) == ("ann", NOW + 60, True)
    assert identity.rooms == {"lobby": frozenset({"join"})}
    assert identity.token_id != verify(auth, auth.mint(user="ann", rooms={}, lifetime_s=1)).token_id
    now = NOW + 60
    assert refusal(auth, token) is RefusalCode.TOKEN_EXPIRED


def test_minted_token_without_rooms_has_no_claim() -> None:
    """None leaves the claim out, an empty mapping says "no rooms"."""
    auth = authenticator()
    assert verify(auth, auth.mint(user="ann", rooms=None, lifetime_s=9)).rooms is None
    assert verify(auth, auth.mint(user="ann", rooms={}, lifetime_s=9)).rooms == {}


# Claims that are not good


@pytest.mark.parametrize("token", [None, ""])
def test_no_token_is_missing(token: object) -> None:
    """A client that sent none is told so, in the log."""
    assert refusal(authenticator(), token) is RefusalCode.TOKEN_MISSING


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"exp": NOW - 6}, RefusalCode.TOKEN_EXPIRED, id="expired"),
        pytest.param({"exp": NOW - 5}, RefusalCode.TOKEN_EXPIRED, id="expired, leeway used up"),
        pytest.param({"exp": NOW - 4.9}, None, id="expired within the leeway"),
        pytest.param({"exp": None}, RefusalCode.TOKEN_INVALID, id="no exp"),
        pytest.param({"exp": str(NOW + 9)}, RefusalCode.TOKEN_INVALID, id="exp is a string"),
        pytest.param({"exp": True}, RefusalCode.TOKEN_INVALID, id="exp is a boolean"),
        pytest.param({"exp": float("inf")}, RefusalCode.TOKEN_INVALID, id="exp is not JSON"),
        pytest.param({"nbf": NOW + 6}, RefusalCode.TOKEN_INVALID, id="not yet"),
        pytest.param({"nbf": NOW + 4}, None, id="not yet, within the leeway"),
        pytest.param({"iat": NOW + 6}, RefusalCode.TOKEN_INVALID, id="issued in the future"),
        pytest.param({"sub": None}, RefusalCode.TOKEN_INVALID, id="no sub"),
        pytest.param({"sub": ""}, RefusalCode.TOKEN_INVALID, id="empty sub"),
        pytest.param({"sub": "x" * 128}, None, id="longest sub"),
        pytest.param({"sub": "x" * 129}, RefusalCode.TOKEN_INVALID, id="sub too long"),
        pytest.param({"sub": "a\nb"}, RefusalCode.TOKEN_INVALID, id="sub with a line end"),
        pytest.param({"sub": "a\x85b"}, RefusalCode.TOKEN_INVALID, id="sub with a C1 control"),
        pytest.param({"sub": "\ud800"}, RefusalCode.TOKEN_INVALID, id="sub with half a character"),
        pytest.param({"sub": "Ann Ö. 🙂"}, None, id="sub with a space and more than ASCII"),
        pytest.param({"jti": "x" * 257}, RefusalCode.TOKEN_INVALID, id="jti too long"),
        pytest.param({"rooms": {"lobby": "join"}}, RefusalCode.TOKEN_INVALID, id="rights no list"),
        pytest.param({"rooms": 1}, RefusalCode.TOKEN_INVALID, id="rooms is a number"),
        pytest.param({"aud": "other"}, RefusalCode.TOKEN_INVALID, id="for someone else"),
        pytest.param({"aud": []}, None, id="for nobody in particular"),
    ],
)
def test_claims_are_checked(changes: Mapping[str, Any], expected: RefusalCode | None) -> None:
    """A good signature is not enough."""
    if changes.get("sub") is not None and expected is None:
        assert verify(authenticator(), hs256(claims(**changes))).user == changes["sub"]
    elif expected is None:
        verify(authenticator(), hs256(claims(**changes)))
    else:
        assert refusal(authenticator(), hs256(claims(**changes))) is expected


@pytest.mark.parametrize(
    ("settings", "changes", "is_good"),
    [
        ({"issuer": "https://id.example"}, {"iss": "https://id.example"}, True),
        ({"issuer": "https://id.example"}, {"iss": "https://id.example/"}, False),
        ({"issuer": "https://id.example"}, {}, False),
        ({"audience": "rooms"}, {"aud": "rooms"}, True),
        ({"audience": "rooms"}, {"aud": ["other", "rooms"]}, True),
        ({"audience": "rooms"}, {"aud": ["other"]}, False),
        ({"audience": "rooms"}, {}, False),
        ({"require_exp": False}, {"exp": None}, True),
    ],
)
def test_settings_narrow_what_is_accepted(
    settings: Mapping[str, Any], changes: Mapping[str, Any], is_good: bool
) -> None:
    """issuer and audience must be in the token once they are set; exp unless it is waived."""
    token = hs256(claims(**changes))
    auth = authenticator(**settings)
    if is_good:
        assert verify(auth, token).user == "ann"
    else:
        assert refusal(auth, token) is RefusalCode.TOKEN_INVALID


# Forgeries


UNSIGNED = ".".join([encode(b'{"alg":"none"}'), encode(json.dumps(claims()).encode()), ""])
KEYS = {"public_keys": (pem(RSA_KEY), pem(EC_KEY))}
PAYLOAD = json.dumps(claims()).encode()


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        pytest.param({}, hs256(claims(), "another-secret-of-at-least-32-bytes"), id="other secret"),
        pytest.param({}, UNSIGNED, id="alg none"),
        pytest.param({}, UNSIGNED + "AA", id="none, signed"),
        pytest.param({}, forged({"alg": "None"}, PAYLOAD, b""), id="alg None"),
        pytest.param(
            {}, forged({"alg": "hs256"}, PAYLOAD, SECRET.encode()), id="alg in lower case"
        ),
        pytest.param({}, forged({"typ": "JWT"}, PAYLOAD, SECRET.encode()), id="no alg"),
        pytest.param({}, forged({"alg": None}, PAYLOAD, SECRET.encode()), id="alg null"),
        pytest.param({}, jwt.encode(claims(), SECRET * 2, algorithm="HS512"), id="HS512"),
        pytest.param({}, forged({"alg": "HS256"}, PAYLOAD, b""), id="empty secret"),
        pytest.param(
            KEYS | {"secret": None},
            forged({"alg": "HS256"}, PAYLOAD, pem(RSA_KEY).encode()),
            id="HS256 with the public key as secret",
        ),
        pytest.param(
            KEYS,
            forged({"alg": "HS256"}, PAYLOAD, pem(RSA_KEY).strip().encode()),
            id="the same, next to a secret",
        ),
        pytest.param(KEYS, forged({"alg": "RS256"}, PAYLOAD, SECRET.encode()), id="RS256 by HMAC"),
        pytest.param(KEYS, signed(claims(), OTHER_RSA_KEY), id="other RSA key"),
        pytest.param(KEYS, signed(claims(), RSA_KEY, name="RS512"), id="RS512"),
        pytest.param(KEYS, signed(claims(), RSA_KEY, name="PS256"), id="PS256"),
        pytest.param({}, signed(claims(), RSA_KEY), id="RS256 without public keys"),
        pytest.param(
            {},
            forged({"alg": "HS256", "crit": ["exp"], "exp": 1}, PAYLOAD, SECRET.encode()),
            id="crit",
        ),
        pytest.param(
            {},
            forged({"alg": "HS256", "crit": None}, PAYLOAD, SECRET.encode()),
            id="crit null",
        ),
        pytest.param({}, forged({"alg": "HS256", "kid": 1}, PAYLOAD, SECRET.encode()), id="kid 1"),
        pytest.param({}, forged({"alg": "HS256"}, b"[1]", SECRET.encode()), id="claims no object"),
        pytest.param({}, forged({"alg": "HS256"}, b"\xff", SECRET.encode()), id="claims no UTF-8"),
        pytest.param(
            {}, forged({"alg": "HS256"}, b'{"a":' + b"[" * 5_000, SECRET.encode()), id="deep claims"
        ),
        pytest.param({}, encode(b'{"alg":' + b"[" * 5_000) + ".AA.AA", id="deep header"),
        pytest.param({}, hs256(claims(x="x" * 8_192)), id="too long"),
        pytest.param({}, hs256(claims()) + "=", id="padding"),
        pytest.param({}, hs256(claims()) + "\n", id="line end"),
        pytest.param({}, " " + hs256(claims()), id="space"),
        pytest.param({}, hs256(claims()) + ".AA", id="four parts"),
        pytest.param({}, "Bearer " + hs256(claims()), id="with its scheme"),
        pytest.param({}, hs256(claims()).encode(), id="bytes"),
        pytest.param({}, 17, id="number"),
        pytest.param({}, {"token": "x"}, id="object"),
    ],
)
def test_forged_tokens_are_invalid(settings: Mapping[str, Any], token: object) -> None:
    """No header, no encoding and no key of the wrong kind gets in, and nothing else is raised."""
    assert refusal(authenticator(**settings), token) is RefusalCode.TOKEN_INVALID


GOOD_TOKEN = hs256(claims())
FOR_ALL = authenticator(**KEYS)


@given(
    at=st.integers(0, len(GOOD_TOKEN) - 1),
    character=st.sampled_from("ABCXYZabcxyz0189-_.") | st.characters(),
)
def test_a_changed_token_never_says_something_else(at: int, character: str) -> None:
    """One character changed anywhere: refused, or (spare bits of base64) exactly the same."""
    changed = GOOD_TOKEN[:at] + character + GOOD_TOKEN[at + 1 :]
    try:
        identity = verify(FOR_ALL, changed)
    except Refused as refused:
        event(refused.code)
    else:
        assert identity == verify(FOR_ALL, GOOD_TOKEN)


@given(st.text() | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}", fullmatch=True))
def test_noise_is_only_ever_refused(token: str) -> None:
    """Whatever a client sends as its token, the answer is a refusal and not a crash."""
    assert refusal(FOR_ALL, token) in {RefusalCode.TOKEN_INVALID, RefusalCode.TOKEN_MISSING}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "jti", "aud", "iss", "scope", "rooms"]), JSON
    )
)
def test_signed_claims_of_any_shape_are_an_identity_or_refused(payload: dict[str, Any]) -> None:
    """Types are checked, not trusted, also in tokens that an app's own backend has signed."""
    try:
        token = forged({"alg": "HS256"}, json.dumps(claims(**payload)).encode(), SECRET.encode())
        identity = verify(FOR_ALL, token)
    except Refused:
        return
    assert isinstance(identity.user, str)
    assert identity.rooms is None or all(rights <= BOTH for rights in identity.rooms.values())


# Settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({}, "no key", id="nothing"),
        pytest.param({"secret": "x" * 31}, "at least 32 bytes", id="short secret"),
        pytest.param({"secret": pem(RSA_KEY)}, "secret cannot be used", id="secret is a key"),
        pytest.param({"public_keys": ("x",)}, "not PEM", id="no PEM"),
        pytest.param({"public_keys": (private_pem(RSA_KEY),)}, "not PEM", id="private key"),
        pytest.param({"public_keys": (pem(SMALL_RSA_KEY),)}, "2048", id="small RSA key"),
        pytest.param({"public_keys": (pem(P384_KEY),)}, "P-256", id="other curve"),
        pytest.param({"jwks_url": "id.example/keys"}, "http", id="no URL"),
        pytest.param({"secret": SECRET, "leeway_s": -1.0}, "leeway_s", id="negative leeway"),
        pytest.param({"secret": SECRET, "jwks_timeout_s": 0}, "jwks_timeout_s", id="no time"),
    ],
)
def test_keys_that_cannot_work_are_refused_at_the_start(
    settings: Mapping[str, Any], sentence: str
) -> None:
    """An edge that could only refuse everyone, or accept too many, does not start."""
    with pytest.raises(ValueError, match=sentence):
        Authenticator(AuthSettings(**settings))


def test_secret_is_not_printed() -> None:
    """Settings go to logs; their secret does not."""
    assert SECRET not in repr(AuthSettings(secret=SECRET))


def test_minting_needs_a_secret() -> None:
    """An edge with public keys only cannot make tokens."""
    auth = authenticator(secret=None, **KEYS)
    with pytest.raises(ValueError, match="secret"):
        auth.mint(user="ann", rooms={}, lifetime_s=1)


@pytest.mark.parametrize("user", ["", "a\nb", "x" * 129])
def test_minting_makes_no_token_that_nobody_accepts(user: str) -> None:
    """A user that would be refused at sign-in is refused here already."""
    with pytest.raises(ValueError, match="user"):
        authenticator().mint(user=user, rooms={}, lifetime_s=1)


# Revocation


class Clock:
    """Time that passes when told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time it is."""
        return self.now


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        pytest.param({"iat": NOW - 1}, True, id="issued before"),
        pytest.param({"iat": NOW}, True, id="issued at that moment"),
        pytest.param({"iat": None}, True, id="issued nobody knows when"),
        pytest.param({"iat": NOW + 1}, False, id="issued after"),
        pytest.param({"iat": NOW - 1, "sub": "bob"}, False, id="other user"),
    ],
)
def test_revoking_a_user_refuses_the_tokens_until_now(
    changes: Mapping[str, Any], is_refused: bool
) -> None:
    """Older tokens of the user are refused at sign-in and known to be so while connected."""
    auth = authenticator()
    token = hs256(claims(**changes))
    identity = verify(auth, token)
    assert not auth.is_revoked(identity)
    auth.revoke(user="ann", token_id=None, until=None)
    assert auth.is_revoked(identity) is is_refused
    if is_refused:
        assert refusal(auth, token) is RefusalCode.TOKEN_REVOKED
    else:
        verify(auth, token)


def test_revoking_a_token_refuses_that_one() -> None:
    """Other tokens of the user go on."""
    auth = authenticator()
    auth.revoke(user=None, token_id="token-1", until=None)
    assert refusal(auth, hs256(claims())) is RefusalCode.TOKEN_REVOKED
    verify(auth, hs256(claims(jti="token-2")))
    verify(auth, hs256(claims(jti=None)))
    verify(auth, hs256(claims(jti=None, sub="token-1")))


def test_revocation_can_name_its_moment() -> None:
    """Edges that hear of it later agree on which tokens it is about."""
    auth = authenticator()
    auth.revoke(user="ann", token_id=None, until=None, issued_before=NOW - 30)
    assert refusal(auth, hs256(claims(iat=NOW - 31))) is RefusalCode.TOKEN_REVOKED
    verify(auth, hs256(claims(iat=NOW - 29)))


@pytest.mark.parametrize("until", [None, NOW + 500.0])
def test_revocation_lapses(until: float | None) -> None:
    """At `until`, after 24 hours by default, it is over and takes no memory after the next one."""
    clock = Clock(NOW)
    auth = Authenticator(AuthSettings(secret=SECRET), now=clock)
    identity = Identity("ann", "token-1", NOW - 1, None, None, is_service=False)
    auth.revoke(user="ann", token_id="token-1", until=until)
    end = NOW + 86_400 if until is None else until
    clock.now = end - 0.1
    assert auth.is_revoked(identity)
    clock.now = end
    assert not auth.is_revoked(identity)
    auth.revoke(user="bob", token_id=None, until=None)
    assert auth.statistics.revocations == 1
    assert auth.statistics.revocations_dropped == 0


def test_second_revocation_never_weakens_the_first() -> None:
    """The later end and the later moment hold, in whatever order they come."""
    clock = Clock(NOW)
    auth = Authenticator(AuthSettings(secret=SECRET), now=clock)
    auth.revoke(user="ann", token_id=None, until=NOW + 100)
    auth.revoke(user="ann", token_id=None, until=NOW + 10, issued_before=NOW - 50)
    clock.now = NOW + 99
    assert auth.is_revoked(Identity("ann", None, NOW - 1, None, None, is_service=False))


def test_revocation_of_nobody_is_a_bug() -> None:
    """A call without user and token is a mistake, not a no-op."""
    with pytest.raises(ValueError, match="user or a token"):
        authenticator().revoke(user=None, token_id=None, until=None)


def test_revocations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bound the soonest to lapse goes, and the statistics say so."""
    monkeypatch.setattr(auth_module, "MAX_REVOCATIONS", 3)
    auth = authenticator()
    for token_id, until in [("a", 40.0), ("b", 10.0), ("c", 30.0), ("d", 20.0), ("e", 50.0)]:
        auth.revoke(user=None, token_id=token_id, until=NOW + until)
    known = [
        token_id
        for token_id in "abcde"
        if auth.is_revoked(Identity("ann", token_id, None, None, None, is_service=False))
    ]
    assert known == ["a", "c", "e"]
    assert (auth.statistics.revocations, auth.statistics.revocations_dropped) == (3, 2)


def test_revoking_one_user_again_and_again_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one revocation longer a thousand times leaves no thousand traces."""
    monkeypatch.setattr(auth_module, "MAX_REVOCATIONS", 3)
    auth = authenticator()
    for second in range(1_000):
        auth.revoke(user="ann", token_id=None, until=NOW + second)
    assert auth.statistics.revocations == 1
    assert len(auth._revocations._order) <= 7  # nothing public shows what it holds inside


@given(st.data())
def test_revocations_agree_with_a_plain_list(data: st.DataObject) -> None:
    """Below the bound nothing is lost: in any order of calls and times, as if all were kept."""
    clock = Clock(NOW)
    auth = Authenticator(AuthSettings(secret=SECRET), now=clock)
    calls: list[tuple[str, float, float]] = []
    for _ in range(data.draw(st.integers(1, 12))):
        clock.now += data.draw(st.floats(0, 20))
        user, until = data.draw(st.sampled_from("ab")), clock.now + data.draw(st.floats(-5, 30))
        auth.revoke(user=user, token_id=None, until=until)
        calls.append((user, clock.now, until))
        at = NOW + data.draw(st.floats(-1, 100))
        for name in "ab":
            live = [call for call in calls if call[0] == name and call[2] > clock.now]
            identity = Identity(name, None, at, None, None, is_service=False)
            refused_before = max((before for _, before, _ in live), default=float("-inf"))
            if at <= refused_before:
                assert auth.is_revoked(identity)
            if not live:
                assert not auth.is_revoked(identity)
            assert auth.statistics.revocations <= 2


# JWKS


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
    """A kid that is not known is fetched, long before the set is old."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock) as auth:
        await sign_in(auth, BY_RSA)
        provider.keys.append(jwk(OTHER_RSA_KEY, "rsa-2"))
        clock.now += 10.0
        assert isinstance(await sign_in(auth, BY_NEW), Identity)
        assert isinstance(auth.verify(BY_NEW), Identity)
    assert provider.fetches == 2


async def test_invented_kids_cause_one_fetch_in_ten_seconds(provider: KeyServer) -> None:
    """A stranger cannot make an edge hammer the provider."""
    clock = Clock(1_000.0)
    async with fetching(provider, clock) as auth:
        await sign_in(auth, BY_RSA)
        for second in range(20):
            clock.now = 1_000.0 + second
            for number in range(5):
                token = signed(claims(), EC_KEY, key_id=f"kid-{second}-{number}")
                assert await sign_in(auth, token) is INVALID
    assert provider.fetches == 2


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
