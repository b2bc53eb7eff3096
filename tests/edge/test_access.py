"""Access to rooms: claims first, then the webhook (a real one, over HTTP), then no."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roomful.cluster.glob import Glob
from roomful.edge.access import AccessSettings, RoomAccess
from roomful.edge.auth import Identity
from roomful.edge.grants import Right, RoomGrants
from roomful.protocol.errors import RefusalCode, Refused
from support.deadline import within
from support.http_app import serving_app

BOTH = frozenset({"join", "send"})
JOIN, SEND = frozenset({"join"}), frozenset({"send"})


def identity(
    rooms: Mapping[str, frozenset[str]] | None = None,
    *,
    user: str = "ann",
    token_id: str | None = "token-1",  # noqa: S107 - a name, not a secret
    issued_at: float | None = None,
) -> Identity:
    """Return what a token of *user* with a *rooms* claim says."""
    return Identity(user, token_id, issued_at, None, rooms, is_service=False)


async def outcome(answer: Awaitable[None] | None) -> RefusalCode | None:
    """Wait for what ``check`` gave; None when allowed, else the code of the refusal."""
    try:
        if answer is not None:
            await within(answer)
    except Refused as refused:
        return refused.code
    return None


async def ask(access: RoomAccess, who: Identity, room: str, right: Right) -> RefusalCode | None:
    """Check, and wait if a hook has to be asked."""
    try:
        answer = access.check(who, room, right)
    except Refused as refused:
        return refused.code
    return await outcome(answer)


# Patterns


def reference(pattern: str, name: str) -> bool:
    """Match as fnmatch does, by a regular expression, with nothing special but the star."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


FEW_LETTERS = st.text(alphabet="ab*", max_size=8)
NAMES = st.text(alphabet="ab", max_size=12) | st.text(max_size=12)


@given(patterns=st.frozensets(FEW_LETTERS | st.text(max_size=6), max_size=4), name=NAMES)
@example(patterns=frozenset({"ab*ba"}), name="aba")
@example(patterns=frozenset({"*ab*ab*"}), name="aab")
@example(patterns=frozenset({"*ab*b"}), name="ab")
@example(patterns=frozenset({"**"}), name="")
@example(patterns=frozenset({"a?[b]"}), name="aab")
@example(patterns=frozenset({"a*"}), name="a\nb")
def test_glob_agrees_with_a_regular_expression(patterns: frozenset[str], name: str) -> None:
    """A name fits when one of the patterns fits all of it; only the star is special."""
    assert Glob(patterns).matches(name) is any(reference(p, name) for p in patterns)


def test_a_hostile_pattern_takes_no_time() -> None:
    """What makes a backtracking matcher run for years is answered: each star is looked at once."""
    pattern = "*".join(["a"] * 60) + "*b"
    assert not Glob(frozenset({pattern})).matches("a" * 255)
    assert Glob(frozenset({pattern})).matches("a" * 254 + "b")


# Claims


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


# The webhook


class Hook:
    """A webhook of an application: keeps what it was asked and answers what it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.requests: list[tuple[bytes, str | None]] = []  # bodies and signatures
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.status = 200
        self.body = b'{"allow":true}'
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, request: Request) -> Response:
        """Answer one question once the gate is open."""
        body = await request.body()
        self.requests.append((body, request.headers.get("Roomful-Signature")))
        self.asked.append(json.loads(body))
        status, answer = self.status, self.body
        self.arrived.put_nowait(None)
        await self.open.wait()
        return Response(answer, status)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    """A running webhook."""
    hook = Hook()
    async with serving_app(
        Starlette(routes=[Route("/access", hook.answer, methods=["POST"])])
    ) as url:
        hook.url = url + "/access"
        yield hook
        hook.open.set()


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time it is."""
        return self.now


@asynccontextmanager
async def accessing(
    hook: Hook, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[RoomAccess]:
    """Room access that asks *hook*."""
    access = RoomAccess(
        AccessSettings(webhook_url=hook.url, **settings), clock=clock or Clock(), now=lambda: 1.8e9
    )
    try:
        yield access
    finally:
        await access.aclose()


async def test_hook_is_asked_what_the_documentation_says(hook: Hook) -> None:
    """The question is {userId, roomId, right, tokenId} as JSON."""
    async with accessing(hook) as access:
        assert await ask(access, identity(), "lobby", Right.SEND) is None
    assert hook.asked == [
        {"userId": "ann", "roomId": "lobby", "right": "send", "tokenId": "token-1"}
    ]


async def test_signature_proves_body_and_time(hook: Hook) -> None:
    """A receiver can compute the header from the secret, the time in it and the body alone."""
    async with accessing(hook, webhook_secret="hook-secret") as access:
        await ask(access, identity(), "lobby", Right.JOIN)
    body, signature = hook.requests[0]
    mac = hmac.new(b"hook-secret", b"1800000000." + body, hashlib.sha256).hexdigest()
    assert signature == f"t=1800000000,v1={mac}"


async def test_without_a_secret_nothing_is_signed(hook: Hook) -> None:
    """A header that proves nothing is not sent."""
    async with accessing(hook) as access:
        await ask(access, identity(), "lobby", Right.JOIN)
    assert hook.requests[0][1] is None


@pytest.mark.parametrize(
    ("rooms", "room", "expected_questions"),
    [
        pytest.param({"team-*": BOTH}, "team-7", 0, id="claim fits"),
        pytest.param({"team-*": BOTH}, "lobby", 1, id="claim does not fit"),
        pytest.param(None, "lobby", 1, id="no claim"),
        pytest.param({"*": BOTH}, "user:bob", 0, id="reserved"),
    ],
)
async def test_hook_is_asked_only_where_the_claim_does_not_decide(
    hook: Hook, rooms: Mapping[str, frozenset[str]] | None, room: str, expected_questions: int
) -> None:
    """Claims cost no question, and reserved rooms are not up to the hook."""
    async with accessing(hook) as access:
        await ask(access, identity(rooms), room, Right.JOIN)
    assert len(hook.asked) == expected_questions


async def test_with_a_hook_dev_mode_allows_nothing_by_itself(hook: Hook) -> None:
    """A configured hook decides, also under --dev."""
    hook.body = b'{"allow":false}'
    async with accessing(hook, allow_all=True) as access:
        assert await ask(access, identity(), "lobby", Right.JOIN) is RefusalCode.FORBIDDEN


@pytest.mark.parametrize("allow", [True, False])
async def test_answers_are_cached_for_their_time(hook: Hook, allow: bool) -> None:
    """Within webhook_cache_s the answer is at hand, yes or no; after it the hook is asked again."""
    clock = Clock()
    hook.body = json.dumps({"allow": allow}).encode()
    expected = None if allow else RefusalCode.FORBIDDEN
    async with accessing(hook, clock, webhook_cache_s=30.0) as access:
        assert await ask(access, identity(), "lobby", Right.JOIN) is expected
        clock.now += 29.9
        if allow:
            assert access.check(identity(), "lobby", Right.JOIN) is None
        else:
            with pytest.raises(Refused):
                access.check(identity(), "lobby", Right.JOIN)
        assert len(hook.asked) == 1
        clock.now += 0.2
        assert await ask(access, identity(), "lobby", Right.JOIN) is expected
    assert len(hook.asked) == 2
    assert access.statistics.cached == 1


@pytest.mark.parametrize(
    ("ttl_s", "fresh_after_s", "stale_after_s"),
    [
        pytest.param(5, 4.9, 5.1, id="shorter"),
        pytest.param(100.5, 100.4, 100.6, id="longer"),
        pytest.param(1e9, 299.9, 300.1, id="at most ten times webhook_cache_s"),
        pytest.param(0, None, 0.0, id="not at all"),
        pytest.param(-1, None, 0.0, id="negative is not at all"),
    ],
)
async def test_hook_sets_the_time_of_its_answer(
    hook: Hook, ttl_s: float, fresh_after_s: float | None, stale_after_s: float
) -> None:
    """ttl_s in an answer goes before the setting, up to ten times it."""
    clock = Clock()
    hook.body = json.dumps({"allow": True, "ttl_s": ttl_s}).encode()
    async with accessing(hook, clock, webhook_cache_s=30.0) as access:
        await ask(access, identity(), "lobby", Right.JOIN)
        if fresh_after_s is not None:
            clock.now = 1_000.0 + fresh_after_s
            await ask(access, identity(), "lobby", Right.JOIN)
        assert len(hook.asked) == 1
        clock.now = 1_000.0 + stale_after_s
        await ask(access, identity(), "lobby", Right.JOIN)
    assert len(hook.asked) == 2


@pytest.mark.parametrize(
    ("who", "room", "right"),
    [
        pytest.param(identity(user="bob"), "lobby", Right.JOIN, id="other user"),
        pytest.param(identity(token_id="token-2"), "lobby", Right.JOIN, id="other token"),
        pytest.param(identity(token_id=None), "lobby", Right.JOIN, id="token without jti"),
        pytest.param(identity(), "lobby-2", Right.JOIN, id="other room"),
        pytest.param(identity(), "lobby", Right.SEND, id="other right"),
    ],
)
async def test_an_answer_is_for_one_question_only(
    hook: Hook, who: Identity, room: str, right: Right
) -> None:
    """User, token, room and right all have to be the same for an answer to be used again."""
    async with accessing(hook) as access:
        await ask(access, identity(), "lobby", Right.JOIN)
        hook.body = b'{"allow":false}'
        assert await ask(access, who, room, right) is RefusalCode.FORBIDDEN


async def test_tokens_without_jti_are_told_apart_by_their_time(hook: Hook) -> None:
    """A refreshed token without jti is asked about anew."""
    async with accessing(hook) as access:
        await ask(access, identity(token_id=None, issued_at=1.0), "lobby", Right.JOIN)
        await ask(access, identity(token_id=None, issued_at=2.0), "lobby", Right.JOIN)
    assert len(hook.asked) == 2


async def test_the_same_question_is_asked_once_at_a_time(hook: Hook) -> None:
    """A hundred joins of one user to one room while the hook thinks are one question."""
    hook.open.clear()
    async with accessing(hook) as access:
        waiting = [
            asyncio.create_task(ask(access, identity(), "lobby", Right.JOIN)) for _ in range(100)
        ]
        await within(hook.arrived.get())
        hook.open.set()
        assert await asyncio.gather(*waiting) == [None] * 100
    assert len(hook.asked) == 1


async def test_one_who_gives_up_takes_the_answer_from_nobody(hook: Hook) -> None:
    """Cancelling one of two that wait leaves the question under way."""
    hook.open.clear()
    async with accessing(hook) as access:
        gives_up = asyncio.create_task(ask(access, identity(), "lobby", Right.JOIN))
        stays = asyncio.create_task(ask(access, identity(), "lobby", Right.JOIN))
        await within(hook.arrived.get())
        gives_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gives_up
        hook.open.set()
        assert await within(stays) is None
    assert len(hook.asked) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(500, b'{"allow":true}', id="500"),
        pytest.param(403, b'{"allow":false}', id="403"),
        pytest.param(204, b"", id="204"),
        pytest.param(302, b"", id="redirect"),
        pytest.param(200, b"yes", id="not JSON"),
        pytest.param(200, b'{"allow":"true"}', id="allow is not a boolean"),
        pytest.param(200, b'{"allow":1}', id="allow is a number"),
        pytest.param(200, b"{}", id="no allow"),
        pytest.param(200, b'{"allow":true,"ttl_s":"5"}', id="ttl_s is not a number"),
        pytest.param(200, b'{"allow":true,"x":' + b"[" * 9_000, id="nested without end"),
        pytest.param(200, b'{"allow":true,"x":"' + b"x" * 20_000 + b'"}', id="too long"),
    ],
)
async def test_anything_but_an_answer_is_unavailable(hook: Hook, status: int, body: bytes) -> None:
    """A hook that fails allows nothing and forbids nothing: it may be tried again later."""
    hook.status, hook.body = status, body
    async with accessing(hook) as access:
        code = await ask(access, identity(), "lobby", Right.JOIN)
        assert code is RefusalCode.ACCESS_UNAVAILABLE
        assert code.is_retryable
        assert access.statistics.failed == 1


async def test_failure_is_kept_for_one_second_only(hook: Hook) -> None:
    """Retries within a second do not reach a failing hook; after it the question is asked again."""
    clock = Clock()
    hook.status = 503
    async with accessing(hook, clock) as access:
        await ask(access, identity(), "lobby", Right.JOIN)
        clock.now += 0.9
        unavailable = RefusalCode.ACCESS_UNAVAILABLE
        assert await ask(access, identity(), "lobby", Right.JOIN) is unavailable
        assert len(hook.asked) == 1
        hook.status = 200
        clock.now += 0.2
        assert await ask(access, identity(), "lobby", Right.JOIN) is None


async def test_hook_that_does_not_answer_is_given_up(hook: Hook) -> None:
    """After webhook_timeout_s the one who waits is refused, and may try again."""
    hook.open.clear()
    async with accessing(hook, webhook_timeout_s=0.05) as access:
        code = await ask(access, identity(), "lobby", Right.JOIN)
    assert code is RefusalCode.ACCESS_UNAVAILABLE


async def test_hook_that_is_not_there_is_unavailable() -> None:
    """A refused connection is a failure like any other."""
    listener = socket.create_server(("127.0.0.1", 0))
    hook = Hook()
    hook.url = f"http://127.0.0.1:{listener.getsockname()[1]}/access"
    listener.close()
    async with accessing(hook) as access:
        code = await ask(access, identity(), "lobby", Right.JOIN)
    assert code is RefusalCode.ACCESS_UNAVAILABLE


async def test_questions_at_once_and_waiting_are_bounded(hook: Hook) -> None:
    """The hook sees at most webhook_concurrency at once; beyond the waiting ones: no, at once."""
    hook.open.clear()
    async with accessing(hook, webhook_concurrency=2, webhook_waiting=3) as access:
        waiting = [
            asyncio.create_task(ask(access, identity(), f"room-{number}", Right.JOIN))
            for number in range(5)
        ]
        await within(hook.arrived.get())
        await within(hook.arrived.get())
        with pytest.raises(Refused) as refused:
            access.check(identity(), "room-5", Right.JOIN)
        assert refused.value.code is RefusalCode.ACCESS_UNAVAILABLE
        assert len(hook.asked) == 2
        hook.open.set()
        assert await asyncio.gather(*waiting) == [None] * 5
        assert access.statistics.refused_busy == 1
        assert await ask(access, identity(), "room-5", Right.JOIN) is None


async def test_waiting_for_a_turn_ends(hook: Hook) -> None:
    """Who does not get a turn within webhook_timeout_s is refused: nobody waits without end."""
    hook.open.clear()
    async with accessing(hook, webhook_concurrency=1, webhook_timeout_s=0.05) as access:
        codes = await asyncio.gather(
            *(ask(access, identity(), f"room-{number}", Right.JOIN) for number in range(20))
        )
    assert set(codes) == {RefusalCode.ACCESS_UNAVAILABLE}
    assert len(hook.asked) < 20


async def test_cache_is_bounded_and_the_oldest_goes_first(hook: Hook) -> None:
    """With more answers than webhook_cache_entries, the newest are kept."""
    async with accessing(hook, webhook_cache_entries=3) as access:
        for number in range(5):
            await ask(access, identity(), f"room-{number}", Right.JOIN)
        assert access.check(identity(), "room-4", Right.JOIN) is None
        assert access.check(identity(), "room-2", Right.JOIN) is None
        assert await ask(access, identity(), "room-1", Right.JOIN) is None
    assert [question["roomId"] for question in hook.asked][5:] == ["room-1"]


async def test_answer_for_this_once_pushes_out_no_other(hook: Hook) -> None:
    """An answer with ttl_s 0 takes no place in the cache."""
    async with accessing(hook, webhook_cache_entries=1) as access:
        await ask(access, identity(), "lobby", Right.JOIN)
        hook.body = b'{"allow":true,"ttl_s":0}'
        await ask(access, identity(), "other", Right.JOIN)
        assert access.check(identity(), "lobby", Right.JOIN) is None


async def test_forgetting_a_user_leaves_the_others(hook: Hook) -> None:
    """After forget the user's answers are asked for again, for each token; others' are kept."""
    tokens = [identity(token_id="token-1"), identity(token_id="token-2")]
    bob = identity(user="bob")
    async with accessing(hook) as access:
        for who in [*tokens, bob]:
            await ask(access, who, "lobby", Right.JOIN)
        access.forget("ann")
        access.forget("nobody")
        hook.body = b'{"allow":false}'
        for who in tokens:
            assert await ask(access, who, "lobby", Right.JOIN) is RefusalCode.FORBIDDEN
        assert access.check(bob, "lobby", Right.JOIN) is None


async def test_answer_on_its_way_is_forgotten_too(hook: Hook) -> None:
    """What was asked before forget is not kept, and not shared with who asks after it."""
    hook.open.clear()
    async with accessing(hook) as access:
        before = asyncio.create_task(ask(access, identity(), "lobby", Right.JOIN))
        await within(hook.arrived.get())
        access.forget("ann")
        hook.body = b'{"allow":false}'
        after = asyncio.create_task(ask(access, identity(), "lobby", Right.JOIN))
        await within(hook.arrived.get())
        hook.open.set()
        assert await within(before) is None
        assert await within(after) is RefusalCode.FORBIDDEN
        with pytest.raises(Refused):
            access.check(identity(), "lobby", Right.JOIN)


@pytest.mark.parametrize("has_arrived", [True, False], ids=["asked", "not yet begun"])
async def test_closing_refuses_who_waits(hook: Hook, has_arrived: bool) -> None:
    """At shutdown nobody is left waiting, and nobody sees a cancellation of someone else."""
    hook.open.clear()
    async with accessing(hook) as access:
        answer = access.check(identity(), "lobby", Right.JOIN)
        if has_arrived:
            await within(hook.arrived.get())
        await access.aclose()
        assert await outcome(answer) is RefusalCode.ACCESS_UNAVAILABLE


# Settings


def test_settings_refuse_what_cannot_work_and_hide_the_secret() -> None:
    """All bad numbers in one error; a URL that is none; the secret is not printed."""
    with pytest.raises(ValueError, match="webhook_timeout_s, webhook_concurrency"):
        AccessSettings(webhook_timeout_s=0, webhook_concurrency=-1)
    with pytest.raises(ValueError, match="webhook_url"):
        AccessSettings(webhook_url="hook.example/access")
    assert "hush" not in repr(AccessSettings(webhook_secret="hush"))
