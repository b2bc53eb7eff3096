"""A controller as a process that kills itself after a step: for test_killed_controllers.py."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from roomful.cluster.cursor import ShardName
from roomful.control.bucket_orders import BucketOrders
from roomful.control.command import parse_address
from roomful.control.controller import Controller
from roomful.control.server import Server
from roomful.control.spec import ClusterSpec, Pace

Method = Callable[..., Awaitable[Any]]


def dying_after(method: Method, is_it: Callable[..., bool]) -> Method:
    """Give *method*, after which the process dies when *is_it* of its arguments."""

    @functools.wraps(method)
    async def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        reply = await method(self, *args, **kwargs)
        if is_it(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    return dying


def main(step: str, *addresses: str) -> None:
    """Look after the shards s1, s2, ... with a primary at each of *addresses*, and die."""
    if hasattr(Server, step):
        setattr(Server, step, dying_after(getattr(Server, step), lambda *_: True))
    else:
        is_step = dying_after(BucketOrders._call, lambda order, *_: order == step)
        setattr(BucketOrders, "_call", is_step)  # noqa: B010 - mypy takes no method for it
    shards = {
        ShardName(f"s{number}"): tuple(map(parse_address, members.split(",")))
        for number, members in enumerate(addresses, 1)
    }
    asyncio.run(Controller(ClusterSpec(shards), pace=Pace(interval_s=0.05)).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
