"""One kind cluster for all end-to-end tests; of a test that fails the pods' logs are kept."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from e2e.installation import Installation, installed
from e2e.shell import ROOT, say

LOGS = ROOT / ".ci/logs/e2e"

# pytest gives reports to hooks only; this is where a fixture finds those of its own test.
_reports = pytest.StashKey[dict[str, pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the report where fixtures find it."""
    report = yield
    item.stash.setdefault(_reports, {})[report.when] = report
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Give the installed chart, Ready."""
    with installed(tmp_path_factory.mktemp("cluster")) as one:
        yield one


@pytest.fixture
def chart(cluster: Installation, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Give the installed chart, and keep all logs if the test fails."""
    cluster.settle()
    yield cluster
    report = request.node.stash.get(_reports, {}).get("call")
    if report is None or report.failed:
        directory = LOGS / re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)
        say(f"logs are kept in {directory.relative_to(ROOT)}")
        cluster.keep_logs(directory)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give where a program's diagnostics go."""
    return tmp_path / "program.log"
