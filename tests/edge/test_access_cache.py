"""How long a webhook's answer holds, for which question, and until when it is forgotten."""

from __future__ import annotations

import asyncio
import json

import pytest

from edge.webhook import Hook, accessing, ask, identity
from roomful.edge.auth import Identity
from roomful.edge.grants import Right
from roomful.protocol.errors import RefusalCode, Refused
from support.clock import Clock
from support.deadline import within


@pytest.mark.parametrize("allow", [True, False])
async def test_answers_are_cached_for_their_time(hook: Hook, allow: bool) -> None:
    """Within webhook_cache_s the answer is at hand, yes or no; after it the hook is asked again."""
    clock = Clock(1_000.0)
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
    clock = Clock(1_000.0)
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


async def test_failure_is_kept_for_one_second_only(hook: Hook) -> None:
    """Retries within a second do not reach a failing hook; after it the question is asked again."""
    clock = Clock(1_000.0)
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
