"""One cluster for all tests that want one: each leaves it whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from local.machine import EDGES, SERVERS, Machine
from support.ports import claim_ports


@pytest.fixture(scope="session")
def running_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A cluster that runs."""
    machine = Machine(tmp_path_factory.mktemp("cluster"), claim_ports(EDGES + SERVERS))
    try:
        machine.start()
        yield machine
    finally:
        machine.close()


@pytest.fixture
def machine(running_machine: Machine) -> Iterator[Machine]:
    """The cluster; what it said is shown when the test fails."""
    yield running_machine
    sys.stdout.write(running_machine.said())
