"""One suite for all implementations of Shard: a test that takes `site` runs against each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from shard.clock import ClockLoop
from shard.site import DelayingSite, JournaledSite, MemorySite, Site

IMPLEMENTATIONS: Mapping[str, Callable[[Path], Site]] = {
    "memory": MemorySite,
    "journaled": JournaledSite,
    "delaying": DelayingSite,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run coroutines on a clock of their own."""
    return {"clock": ClockLoop}


@pytest.fixture(params=list(IMPLEMENTATIONS.values()), ids=list(IMPLEMENTATIONS))
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """Where shards of one implementation can be had."""
    made: Site = request.param(tmp_path)
    yield made
    await made.aclose()
