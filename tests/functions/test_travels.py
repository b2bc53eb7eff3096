"""A bucket that travels between two shards while it is used: whatever happens, in any order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from functions.server import PRODUCTS, RunningServer, serving
from functions.travels import Travels
from roomful.shard.library import library_source


@pytest.fixture(scope="module", params=PRODUCTS)
def servers(request: pytest.FixtureRequest) -> Iterator[dict[str, RunningServer]]:
    """Two servers with the library."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(request.param, Path(directory) / "s1") as one,
        serving(request.param, Path(directory) / "s2") as two,
    ):
        for running in (one, two):
            running.connect().command("FUNCTION", "LOAD", library_source())
        yield {"s1": one, "s2": two}


def test_travels(servers: dict[str, RunningServer]) -> None:
    """Nothing is lost, twice or out of order, and the bucket is never in two places."""
    Travels.servers = servers
    run_state_machine_as_test(
        Travels,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
