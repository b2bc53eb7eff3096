"""The commands of the controller: `roomful controller` and `roomful topology`."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
from typing import Any

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import MAX_ACKS, Address
from roomful.control.controller import Controller
from roomful.control.link import Credentials
from roomful.control.spec import ClusterSpec, Pace
from roomful.protocol.errors import RoomfulError
from roomful.telemetry.logging import configure_logging

__all__ = ["BadOption", "add_controller_command", "parse_address"]

DESCRIPTION = """\
Looks after shards whose servers were started sealed: gives each a primary and replicas, replaces
a primary that died, keeps the topology. Several may run, one of them leads. `roomful cluster`
and the operator run it by themselves. Servers with users (`roomful users`) want
ROOMFUL_REDIS_USERNAME=controller and ROOMFUL_REDIS_PASSWORD; servers with TLS ROOMFUL_REDIS_TLS_CA.
"""


class BadOption(RoomfulError):
    """An argument of the command line that cannot be meant."""


def parse_address(text: str) -> Address:
    """
    Read `host:port`, or `[host]:port` of IPv6.

    Raises:
        BadOption: it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text.strip())
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise BadOption(f"{text!r} is no address: host:port")
    return Address(match[1] or match[2], int(match[3]))


def add_controller_command(commands: Any) -> None:
    """Add `controller` to the command line."""
    controller = commands.add_parser(
        "controller",
        help="look after the shards of a cluster",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = controller.add_argument
    add(
        "--shard",
        action="append",
        required=True,
        metavar="NAME=HOST:PORT,...",
        help="a shard and its servers; may be repeated",
    )
    add(
        "--acks",
        type=int,
        default=0,
        metavar="W",
        help="of a new cluster: replicas in an ack (default: 0)",
    )
    add("--fsynced", action="store_true", help="of a new cluster: acks wait for the disk too")
    add(
        "--fail-after",
        type=float,
        default=Pace().fail_after_s,
        metavar="SECONDS",
        help="without an answer for so long a primary is replaced (default: %(default)s)",
    )
    controller.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not 0 <= options.acks <= MAX_ACKS:
        raise BadOption(f"--acks {options.acks}: 0 to {MAX_ACKS}")
    if not options.fail_after > 0:
        raise BadOption(f"--fail-after {options.fail_after}: a number of seconds above 0")
    named = [_shard(text) for text in options.shard]
    shards = dict(named)
    servers = [server for some in shards.values() for server in some]
    if len(shards) < len(named) or len(set(servers)) < len(servers):
        raise BadOption("--shard: a shard, or a server, is there twice")
    spec = ClusterSpec(shards, options.acks, options.fsynced)
    configure_logging("info", "text")
    pace = Pace(fail_after_s=options.fail_after)
    asyncio.run(_control(Controller(spec, credentials=Credentials.of(os.environ), pace=pace)))
    return 0


def _shard(text: str) -> tuple[ShardName, tuple[Address, ...]]:
    name, _, addresses = text.partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", name) or not addresses:
        raise BadOption(f"--shard {text!r}: name=host:port,host:port")
    return ShardName(name), tuple(parse_address(one) for one in addresses.split(","))


async def _control(controller: Controller) -> None:
    task = asyncio.create_task(controller.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
