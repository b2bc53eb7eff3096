"""
The commands `roomful failover` and `roomful promote`: a person gives a shard another primary.

Both take the lead from the controller that is at work, and leave it when they are done; it goes on
from what it finds then.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.shard_facts import Promote, Wish
from roomful.cluster.topology import Address, Topology
from roomful.control.command import parse_address
from roomful.control.controller import Controller
from roomful.control.link import Credentials, ServerUnreachable
from roomful.control.reading import Reading
from roomful.control.server import OrderRefused
from roomful.control.spec import ClusterSpec, ClusterStatus
from roomful.control.succession import HAND_OVER_S, plan_succession
from roomful.control.view import Phase, ShardStatus
from roomful.local.finding import add_cluster_options, read_named_cluster
from roomful.local.layout import BadCluster

__all__ = ["add_role_commands"]

NOT_DONE: Final = 1
PASS_S: Final = 0.05
MOST_S: Final = 30.0

EPILOG = """\
exit status: 0 done; 1 it was begun and is not done; 2 it was refused, nothing was changed.
"""

FORCED = """\
Gives the role to the best of the servers that are there, though others are missing that may have
newer messages: those are LOST, acknowledged ones too, and a missing server that comes back is
copied over. Without this a shard waits until enough servers are back. Only for a shard whose other
servers will not come back. If all are there and none has any data, it begins anew, with nothing.
"""


def add_role_commands(commands: Any) -> None:
    """Add `failover` and `promote` to the command line."""
    failover = commands.add_parser(
        "failover",
        help="hand a shard's role to one of its replicas, without a loss",
        description="The primary pauses writes, some milliseconds, until the replica has\n"
        "everything, and changes places with it. Nothing is lost, whatever comes between.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    failover.add_argument("shard", help="its name, as `roomful topology` shows it")
    add_cluster_options(failover)
    failover.add_argument("--to", metavar="HOST:PORT", help="which replica (default: the best)")
    failover.add_argument("--dry-run", action="store_true", help="say what would be done")
    failover.set_defaults(run=_failover)

    promote = commands.add_parser(
        "promote",
        help="give a shard that is blocked a primary, and lose what only missing servers have",
        description=FORCED,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    promote.add_argument("shard", help="its name, as `roomful topology` shows it")
    add_cluster_options(promote)
    promote.add_argument("--force", action="store_true", help="yes, messages may be lost")
    promote.add_argument("--dry-run", action="store_true", help="say what would be done")
    promote.set_defaults(run=_promote)


# failover ---------------------------------------------------------------------------------------


def _failover(options: argparse.Namespace) -> int:
    wanted = None if options.to is None else parse_address(options.to)
    reading = read_named_cluster(options)
    topology, status = _known(reading, options.shard)
    target = _target(status, wanted)
    _say(f"{status.name}: {status.primary} hands over to {target} (term {status.term})")
    if options.dry_run:
        return 0
    return asyncio.run(_hand_over(topology, status, target))


def _target(status: ShardStatus, wanted: Address | None) -> Address:
    if status.phase is not Phase.SERVING:
        raise BadCluster(
            f"shard {status.name} is {status.phase} ({status.reason}): only a primary that serves "
            "can hand its role over"
        )
    if wanted == status.primary:
        raise BadCluster(f"{wanted} is the primary of {status.name} already")
    if wanted is not None and wanted not in status.online:
        have = ", ".join(map(str, status.online)) or "none"
        raise BadCluster(f"{wanted} is no whole replica of {status.name}; those are: {have}")
    if not status.online:
        raise BadCluster(f"shard {status.name} has no replica that could take the role")
    return wanted or status.online[0]


async def _hand_over(topology: Topology, before: ShardStatus, target: Address) -> int:
    credentials = Credentials.of(os.environ)
    controller = Controller(ClusterSpec.of(topology), credentials=credentials, insists=True)
    began = time.monotonic()

    try:
        if not await _pass_until(controller, lambda status: status.is_leading):
            _say("the servers do not let this command lead: nothing was changed")
            return NOT_DONE
        try:
            await controller.hand_over(before.name, target)
        except (ServerUnreachable, OrderRefused) as exc:
            raise BadCluster(f"it cannot be done now, and nothing was changed: {exc}") from exc
        if await _pass_until(controller, _is_after(before)):
            _say(f"done in {time.monotonic() - began:.1f} s: {_where(controller, before.name)}")
            return 0
        _say(
            f"not done: {target} did not get everything in {HAND_OVER_S:.0f} s, or the shard waits "
            f"for replicas; nothing is lost. Now: {_where(controller, before.name)}"
        )
        return NOT_DONE
    finally:
        await controller.aclose()


# promote ----------------------------------------------------------------------------------------


def _promote(options: argparse.Namespace) -> int:
    reading = read_named_cluster(options)
    topology, status = _known(reading, options.shard)
    record = topology.shards[status.name]
    if status.phase in (Phase.SERVING, Phase.DEGRADED):
        raise BadCluster(
            f"shard {status.name} has its primary, {status.primary} ({status.phase}): nothing has "
            "to be forced; `roomful failover` changes places"
        )
    plan = plan_succession(reading.view(status.name), record, 0.0, Wish(force=True))
    if not plan.orders:
        raise BadCluster(f"shard {status.name} cannot be promoted: {plan.reason}")
    everyone = (record.primary, *record.replicas)
    missing = [str(address) for address in everyone if address not in reading.seen]
    there = [reading.seen[address] for address in everyone if address in reading.seen]
    is_anew = all(one.state.name is None for one in there)
    _say(f"{status.name}: {plan.reason or plan.state.value}")
    for order in plan.orders:
        if isinstance(order, Promote):
            kept = reading.seen[order.server].state
            _say(
                f"  promotes {order.server}: it has up to offset {kept.sequence}, term {kept.term}"
            )
    if missing:
        _say(f"  LOST is what only these have: {', '.join(missing)}")
    if is_anew:
        _say("  LOST is all that the shard had: none of its servers has anything")
    if options.dry_run:
        return 0
    if (missing or is_anew) and not options.force:
        raise BadCluster("messages may be lost: say --force if that is what you want")
    return asyncio.run(_force(topology, status))


async def _force(topology: Topology, before: ShardStatus) -> int:
    credentials = Credentials.of(os.environ)
    controller = Controller(ClusterSpec.of(topology), credentials=credentials, insists=True)
    controller.wishes[before.name] = Wish(force=True)

    try:
        if await _pass_until(controller, _is_after(before)):
            _say(f"done: {_where(controller, before.name)}")
            return 0
        _say(
            f"begun, and not done: {_where(controller, before.name)}. Start servers of the shard; "
            "the controller goes on with what is there"
        )
        return NOT_DONE
    finally:
        await controller.aclose()


# Both -------------------------------------------------------------------------------------------


def _known(reading: Reading, name: str) -> tuple[Topology, ShardStatus]:
    assert reading.topology is not None
    for status in reading.shards():
        if status.name == name:
            return reading.topology, status
    names = ", ".join(sorted(reading.topology.shards))
    raise BadCluster(f"there is no shard {name!r}: {names}")


def _is_after(before: ShardStatus) -> Callable[[ClusterStatus], bool]:
    """Give what says whether the shard serves in a later term than it did *before*."""

    def is_after(status: ClusterStatus) -> bool:
        shard = status.shards.get(before.name)
        return shard is not None and shard.phase is Phase.SERVING and shard.term > before.term

    return is_after


async def _pass_until(controller: Controller, is_over: Callable[[ClusterStatus], bool]) -> bool:
    """Make passes until *is_over*, at most MOST_S; says each change of phase."""
    end, said = time.monotonic() + MOST_S, ""
    while True:
        status = await controller.look_after()
        if is_over(status):
            return True
        words = "; ".join(
            f"{shard.name} {shard.phase}: {shard.reason}"
            for shard in status.shards.values()
            if shard.reason
        )
        if words and words != said:
            _say(f"  {words}")
            said = words
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(PASS_S)


def _where(controller: Controller, name: ShardName) -> str:
    shard = controller.status.shards.get(name)
    if shard is None:
        return f"{name} is not known"
    why = f", {shard.reason}" if shard.reason else ""
    return f"{name} is {shard.phase}{why}, primary {shard.primary}, term {shard.term}"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)  # noqa: T201 - a command speaks
