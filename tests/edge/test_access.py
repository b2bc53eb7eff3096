"""Access to rooms without a webhook: what a token's claim says, and then no."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edge.webhook import BOTH, JOIN, SEND, ask, identity
from roomful.edge.access import AccessSettings, RoomAccess
from roomful.edge.grants import Right, RoomGrants
from roomful.protocol.errors import RefusalCode

TEAM = {"team-*": BOTH, "lobby": JOIN, "inbox": SEND, "nothing": frozenset[str]()}


@pytest.mark.parametrize(
    ("room", "right", "expected"),
    [
        pytest.param("team-7", Right.JOIN, None, id="pattern"),
        pytest.param("team-7", Right.SEND, None, id="pattern, send"),
        pytest.param("lobby", Right.JOIN, None, id="exact name"),
        pytest.param("lobby", Right.SEND, RefusalCode.FORBIDDEN, id="join is not send"),
        pytest.param("inbox", Right.SEND, None, id="send only"),
        pytest.param("inbox", Right.JOIN, RefusalCode.FORBIDDEN, id="send is not join"),
        pytest.param("nothing", Right.JOIN, RefusalCode.FORBIDDEN, id="no rights"),
        pytest.param("team", Right.JOIN, RefusalCode.FORBIDDEN, id="part of a pattern"),
        pytest.param("Lobby", Right.JOIN, RefusalCode.FORBIDDEN, id="other case"),
        pytest.param("other", Right.JOIN, RefusalCode.FORBIDDEN, id="not named"),
    ],
)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
async def test_the_claim_decides(
    room: str, right: Right, expected: RefusalCode | None, compiled: bool
) -> None:
    """What the claim names is allowed with the rights it gives, nothing else."""
    rooms = RoomGrants(TEAM) if compiled else TEAM
    assert await ask(RoomAccess(AccessSettings()), identity(rooms), room, right) is expected


@pytest.mark.parametrize(
    ("rooms", "allow_all", "expected"),
    [
        pytest.param(None, False, RefusalCode.FORBIDDEN, id="no claim: denied by default"),
        pytest.param(None, True, None, id="no claim under --dev"),
        pytest.param({}, True, RefusalCode.FORBIDDEN, id="empty claim, also under --dev"),
        pytest.param(TEAM, True, RefusalCode.FORBIDDEN, id="claim, also under --dev"),
    ],
)
async def test_without_a_webhook_nobody_else_decides(
    rooms: Mapping[str, frozenset[str]] | None, allow_all: bool, expected: RefusalCode | None
) -> None:
    """Denied by default; --dev opens the rooms only to tokens that say nothing of rooms."""
    access = RoomAccess(AccessSettings(allow_all=allow_all))
    assert await ask(access, identity(rooms), "other", Right.JOIN) is expected


@pytest.mark.parametrize("room", ["user:ann", "user:bob", "user:"])
@pytest.mark.parametrize("right", list(Right))
@pytest.mark.parametrize("rooms", [None, {"*": BOTH}], ids=["no claim", "all rooms"])
async def test_rooms_of_users_are_reserved(
    room: str, right: Right, rooms: Mapping[str, frozenset[str]] | None
) -> None:
    """No claim and no mode opens a user's room, not even to that user."""
    access = RoomAccess(AccessSettings(allow_all=True))
    assert await ask(access, identity(rooms), room, right) is RefusalCode.RESERVED_ROOM


def test_settings_refuse_what_cannot_work_and_hide_the_secret() -> None:
    """All bad numbers in one error; a URL that is none; the secret is not printed."""
    with pytest.raises(ValueError, match="webhook_timeout_s, webhook_concurrency"):
        AccessSettings(webhook_timeout_s=0, webhook_concurrency=-1)
    with pytest.raises(ValueError, match="webhook_url"):
        AccessSettings(webhook_url="hook.example/access")
    assert "hush" not in repr(AccessSettings(webhook_secret="hush"))
