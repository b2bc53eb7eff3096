"""Real servers for each test, and a controller of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from control.driving import QUICK, Driven
from control.leading import Leader
from control.servers import Fleet, running_fleet
from functions.server import PRODUCTS
from remote.cluster import Cluster, running_cluster
from roomful.control.controller import Controller
from roomful.control.spec import Pace
from roomful.control.waits import Listener
from support.users import CONTROLLER, USERS


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Make servers; those of one test are gone after it."""
    with ExitStack() as stack:
        yield lambda **shape: stack.enter_context(
            running_fleet(
                tmp_path / f"fleet{len(list(tmp_path.iterdir()))}", has_users=True, **shape
            )
        )


@pytest.fixture
async def control() -> AsyncIterator[Callable[..., Driven]]:
    """Make controllers of a fleet; those of one test are closed after it."""
    made: list[Controller] = []

    def make(
        fleet: Fleet,
        *,
        acks: int = 0,
        pace: Pace = QUICK,
        insists: bool = False,
        only: Sequence[str] = (),
        listener: Listener | None = None,
    ) -> Driven:
        controller = Controller(
            fleet.spec(acks, only),
            credentials=CONTROLLER,
            users=USERS,
            pace=pace,
            insists=insists,
            listener=listener,
        )
        made.append(controller)
        return Driven(controller)

    yield make
    for controller in made:
        await controller.aclose()


@pytest.fixture(scope="module", params=PRODUCTS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two shards with a replica each; buckets stay where tests have brought them."""
    directory = tmp_path_factory.mktemp("cluster")
    with running_cluster(request.param, directory, shards=2, replicas=1) as running:
        yield running


@pytest.fixture
async def leader(cluster: Cluster) -> AsyncIterator[Leader]:
    """A controller with nothing to do but this."""
    leading = Leader(cluster)
    yield leading
    leading.close()
    await asyncio.sleep(0)
