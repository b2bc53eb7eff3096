"""Tokens that are revoked: by user, by token, until when, and how many are remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.signing import (
    NOW,
    SECRET,
    authenticator,
    claims,
    hs256,
    refusal,
    verify,
)
from roomful.edge import auth as auth_module
from roomful.edge.auth import Authenticator, AuthSettings, Identity
from roomful.protocol.errors import RefusalCode
from support.clock import Clock


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
