"""Real servers for the edge's side of a shard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from functions.server import PRODUCTS, RunningServer, serving
from remote.cluster import Cluster, running_cluster
from remote.stage import Stage, staged

assert PRODUCTS, "these tests need redis-server or valkey-server (Debian: redis-server, faketime)"


@pytest.fixture(scope="module", params=PRODUCTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Give a server that holds nothing."""
    with serving(request.param, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
async def stage(server: RunningServer) -> AsyncIterator[Stage]:
    """A shard of our own."""
    async with staged(server) as one:
        yield one


@pytest.fixture(scope="module", params=PRODUCTS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two shards; each test uses rooms and buckets of its own."""
    with running_cluster(request.param, tmp_path_factory.mktemp("cluster"), shards=2) as running:
        yield running
