"""Fixtures of several files here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from edge.webhook import Hook
from support.http_app import serving_app


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
