"""Access to rooms by a webhook (a real one, over HTTP): what it is asked, and how it fails."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
from collections.abc import Mapping

import pytest

from edge.webhook import BOTH, Hook, accessing, ask, identity, outcome
from roomful.edge.grants import Right
from roomful.protocol.errors import RefusalCode, Refused
from support.deadline import within


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
