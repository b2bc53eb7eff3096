"""`roomful token`: what it prints, an edge of the same environment takes."""

from __future__ import annotations

import pytest

from roomful.cli import main
from roomful.edge.auth import Authenticator, Identity
from roomful.edge.settings import load_settings

SECRET = "a-secret-of-this-test-that-is-long-enough"


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="a secret"),
        pytest.param({"ROOMFUL_AUTH_AUDIENCE": "rooms"}, id="an audience"),
        pytest.param({"ROOMFUL_AUTH_ISSUER": "https://login.example"}, id="an issuer"),
        pytest.param({"ROOMFUL_AUTH_ISSUER": "", "ROOMFUL_AUTH_AUDIENCE": ""}, id="empty ones"),
    ],
)
def test_an_edge_takes_it(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where only tokens of an issuer, or for an audience, are good."""
    environment = {"ROOMFUL_AUTH_SECRET": SECRET, **more}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["token", "--user", "ann", "--rooms", "team-*=join"]) == 0
    settings = load_settings(environment, overrides={})
    identity = Authenticator(settings.auth).verify(capsys.readouterr().out.strip())
    assert isinstance(identity, Identity)
    assert identity.user == "ann"
    assert identity.rooms == {"team-*": frozenset({"join"})}


@pytest.mark.parametrize("user", ["", "a\nb", "u" * 129], ids=["empty", "control", "too long"])
def test_a_user_that_no_token_can_be_for(user: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused in a sentence, and no token of somebody else is made instead."""
    assert main(["token", "--user", user]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("roomful: bad settings:\n  - --user: 1 to 128 characters")
