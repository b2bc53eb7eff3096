"""A real server for each module, and for each test a shard that is new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from functions.calls import BUCKETS, TERM, Calls, Ear, bucket_of
from functions.edges import ROOM, Edge
from functions.moving import Journey
from functions.server import PRODUCTS, RunningServer, serving
from roomful.shard.library import library_source

assert PRODUCTS, "these tests need redis-server or valkey-server (Debian: redis-server, faketime)"


@pytest.fixture(scope="module", params=PRODUCTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with the library."""
    directory = tmp_path_factory.mktemp("server")
    with serving(request.param, directory) as running:
        running.connect().command("FUNCTION", "LOAD", library_source())
        yield running


@pytest.fixture
def bare(server: RunningServer) -> Calls:
    """A shard that nobody gave a term or a bucket."""
    calls = server.connect()
    calls.command("FLUSHALL")
    return calls


@pytest.fixture
def shard(bare: Calls) -> Calls:
    """A shard in its first term that owns all buckets in their first version."""
    bare("take_term", [], "s1", TERM)
    bare("claim", [f"{{{number}}}b" for number in range(BUCKETS)], TERM, 1)
    return bare


@pytest.fixture(scope="module")
def second(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Another server with the library."""
    with serving(server.product, tmp_path_factory.mktemp("second")) as running:
        running.connect().command("FUNCTION", "LOAD", library_source())
        yield running


@pytest.fixture
def target(second: RunningServer) -> Calls:
    """A shard that owns nothing."""
    calls = second.connect()
    calls.command("FLUSHALL")
    calls("take_term", [], "s2", TERM)
    return calls


@pytest.fixture
def journey(shard: Calls, target: Calls) -> Journey:
    """An attempt to move the bucket of room a."""
    return Journey(shard, target, bucket_of("a"))


@pytest.fixture
def edge(shard: Calls) -> Edge:
    """An edge."""
    return Edge(shard)


@pytest.fixture
def other(server: RunningServer, edge: Edge) -> Edge:
    """Another edge."""
    return Edge(server.connect(), "edge2")


@pytest.fixture
def ear(shard: Calls) -> Ear:
    """One who hears the room."""
    return shard.listen(f"r:{ROOM}")
