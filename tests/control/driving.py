"""A controller that a test drives pass by pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import ShardRecord
from roomful.control.controller import Controller
from roomful.control.spec import ClusterStatus, Pace
from roomful.control.view import ShardStatus
from support.deadline import DEADLINE_S

__all__ = ["QUICK", "Driven"]

Condition = Callable[[ClusterStatus], bool]

QUICK = Pace(interval_s=0.05, step_s=0.0, timeout_s=5.0, fail_after_s=0.3, quiet_s=0.0)
"""Patient with a loaded machine, and quick with a dead server, which refuses connections."""


class Driven:
    """A controller, and what its last pass found."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    async def once(self) -> ClusterStatus:
        """Make one pass."""
        return await self.controller.look_after()

    async def until(self, condition: Condition) -> ClusterStatus:
        """Make passes until *condition* holds."""
        try:
            async with asyncio.timeout(6 * DEADLINE_S):
                while not condition(status := await self.once()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            shards = list(self.controller.status.shards.values())
            raise AssertionError(f"it never came to that: {shards}") from None
        return status

    async def serve(self) -> ClusterStatus:
        """Make passes until all shards serve."""
        return await self.until(lambda status: status.is_serving)

    def shard(self, name: str = "s1") -> ShardStatus:
        """Give what the last pass said of a shard."""
        return self.controller.status.shards[ShardName(name)]

    def record(self, name: str = "s1") -> ShardRecord:
        """Give what the topology says of a shard."""
        assert self.controller.topology is not None
        return self.controller.topology.shards[ShardName(name)]
