"""Fixtures of the tests over real sockets, and the servers' logs in the reports of failures."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from functions.server import PRODUCTS, SUPPORTED
from support import eio
from support.server import RUNNING, Server, serving

# How long an example takes is the machine's affair, and what else runs on it. In CI a change is not
# refused for what luck finds: that is for all other runs (.ci/run says the order).
settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("ours")

HERE = Path(__file__).parent

_LONG = ("whole", "verify", "local", "control", "peers", "archive")
"""
Folders whose files take longest, most first: begun first, or one process would still be at it when
all others have nothing left to do.
"""

_LOG_BEGINS = pytest.StashKey[dict[int, int]]()
"""How long each server's log was when the test began."""


def pytest_report_header() -> str:
    """Say which servers shards are tested on."""
    found = [f"{name} {'on' if name in PRODUCTS else 'is not'} here" for name in SUPPORTED]
    return "shards: memory, " + ", ".join(found)


@pytest.fixture(scope="module")
def server_arguments() -> tuple[str, ...]:
    """Arguments of `roomful serve`; a module that needs others overrides this."""
    return ("--dev",)


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """`ROOMFUL_*` settings of the module's server; a module that needs some overrides this."""
    return {}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    server_arguments: tuple[str, ...],
    server_settings: Mapping[str, str],
) -> Iterator[Server]:
    """A running server, one for the whole test module."""
    directory = tmp_path_factory.mktemp("server")
    with serving(directory, *server_arguments, settings=server_settings) as running:
        yield running


@pytest.fixture(autouse=True)
def _logging_ends_with_the_test() -> Iterator[None]:
    """A command that runs in the process logs to what stands for stderr then, and is closed."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for one test."""
    async with eio.http_client() as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long; the order is random otherwise."""
    ranks = {HERE / folder: rank for rank, folder in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path.parent, len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show below a failed test what the running servers wrote meanwhile."""
    if call.when == "setup":
        item.stash[_LOG_BEGINS] = {running.port: running.log_bytes() for running in RUNNING}
    report = yield
    if report.failed:
        begins = item.stash.get(_LOG_BEGINS, {})
        for running in RUNNING:
            said = running.log_since(begins.get(running.port, 0))
            report.sections.append((f"log of the server on {running.port}", said))
    return report
