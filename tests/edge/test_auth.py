"""What a token says and which claims are good, the settings of it, and tokens of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from edge.signing import (
    BOTH,
    EC_KEY,
    KEYS,
    NOW,
    OTHER_RSA_KEY,
    P384_KEY,
    RSA_KEY,
    SECRET,
    SMALL_RSA_KEY,
    PrivateKey,
    authenticator,
    claims,
    hs256,
    pem,
    private_pem,
    refusal,
    signed,
    verify,
)
from roomful.edge.auth import Authenticator, AuthSettings, Identity
from roomful.protocol.errors import RefusalCode

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


# Settings and minting


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
