"""A controller that meets what nobody foresaw."""

from __future__ import annotations

import asyncio

import pytest

from control.driving import QUICK
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.controller import Controller
from roomful.control.spec import ClusterSpec
from roomful.telemetry.lasting import failures
from support.deadline import until

PORTLESS = Address("127.0.0.1", 70_000)
"""No address is read with a port that high: to connect there fails as nothing is expected to."""


async def test_a_pass_that_fails_is_followed_by_others() -> None:
    """It is told, and the controller looks after the cluster again."""
    before = failures["controller"]
    controller = Controller(ClusterSpec({ShardName("s1"): (PORTLESS,)}), pace=QUICK)
    task = asyncio.create_task(controller.run())
    await until(lambda: failures["controller"] > before + 1)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
