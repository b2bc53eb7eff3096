"""No token gets in that nobody signed with a key of ours, and nothing but a refusal comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from edge.signing import (
    BOTH,
    KEYS,
    OTHER_RSA_KEY,
    PAYLOAD,
    RSA_KEY,
    SECRET,
    UNSIGNED,
    authenticator,
    claims,
    encode,
    forged,
    hs256,
    pem,
    refusal,
    signed,
    verify,
)
from roomful.protocol.errors import RefusalCode, Refused


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
