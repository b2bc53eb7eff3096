"""One suite for all implementations of Shard: a test that takes `site` runs against each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from functions.server import PRODUCTS, RunningServer
from shard.clock import ClockLoop
from shard.redis_site import RedisSite, shard_server
from shard.site import DelayingSite, JournaledSite, KilledSite, MemorySite, Site

EMBEDDED: Mapping[str, Callable[[Path], Site]] = {
    "memory": MemorySite,
    "journaled": JournaledSite,
    "killed": KilledSite,
    "delaying": DelayingSite,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run coroutines on a clock of their own."""
    return {"clock": ClockLoop}


@pytest.fixture(scope="session")
def shard_servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], RunningServer]]:
    """One server of each product, begun when it is asked for."""
    with ExitStack() as stack:

        @cache
        def get(product: str) -> RunningServer:
            directory = tmp_path_factory.mktemp(product)
            return stack.enter_context(shard_server(product, directory))

        yield get


@pytest.fixture(params=[*EMBEDDED, *PRODUCTS])
async def site(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shard_servers: Callable[[str], RunningServer],
) -> AsyncIterator[Site]:
    """Where shards of one implementation can be had."""
    name = request.param
    made: Site = EMBEDDED[name](tmp_path) if name in EMBEDDED else RedisSite(shard_servers(name))
    for marker in request.node.iter_markers("needs"):
        (capability,) = marker.args
        if capability in made.lacks:
            pytest.skip(f"{name}: not so that {capability.value}: {made.lacks[capability]}")
    yield made
    await made.aclose()
