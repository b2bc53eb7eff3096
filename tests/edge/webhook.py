"""A webhook of an application that says who may do what in a room, and who asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from roomful.edge.access import AccessSettings, RoomAccess
from roomful.edge.auth import Identity
from roomful.edge.grants import Right
from roomful.protocol.errors import RefusalCode, Refused
from support.clock import Clock
from support.deadline import within

__all__ = ["BOTH", "JOIN", "SEND", "Hook", "accessing", "ask", "identity", "outcome"]

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


@asynccontextmanager
async def accessing(
    hook: Hook, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[RoomAccess]:
    """Room access that asks *hook*."""
    access = RoomAccess(
        AccessSettings(webhook_url=hook.url, **settings),
        clock=clock or Clock(1_000.0),
        now=lambda: 1.8e9,
    )
    try:
        yield access
    finally:
        await access.aclose()
