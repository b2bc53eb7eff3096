"""The commands that let a cluster's shards come and go: `roomful shard`, `roomful bucket`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.requests import (
    AddShard,
    CannotBe,
    DrainShard,
    PinBucket,
    Request,
    planned_moves,
    take_up,
)
from roomful.cluster.topology import Address, Topology
from roomful.control.asking import leave_request
from roomful.control.command import parse_address
from roomful.control.link import Credentials, ServerUnreachable
from roomful.control.reading import Reading, read_cluster
from roomful.control.view import Phase
from roomful.local.finding import add_state_dir, find_cluster, read_known
from roomful.local.layout import BadCluster, Layout, default_state_directory

__all__ = ["add_reshard_commands"]

NOT_DONE: Final = 1
START_S: Final = 30.0
TAKE_UP_S: Final = 15.0
"""For a controller to take a request up: it looks twice a second."""
LOOK_S: Final = 0.5
TELL_S: Final = 5.0
"""Between two lines of progress where there is no terminal."""

EPILOG = """\
A controller has to be at work: `roomful cluster`, `roomful controller` or the operator. It goes on
if this command is ended; the same command again follows it to its end.

exit status: 0 done; 1 not done (yet); 2 refused, and nothing was changed.
"""


def add_reshard_commands(commands: Any) -> None:
    """Add `shard` and `bucket` to the command line."""
    shard = _group(commands, "shard", "add shards to a running cluster, or drain them")
    add = _command(shard, "add", "begin a shard, and give it its share of all rooms", _add)
    add.add_argument(
        "name", nargs="?", metavar="NAME", help="what it is called (default: the next)"
    )
    add.add_argument(
        "addresses",
        nargs="*",
        metavar="HOST:PORT",
        help="its servers, started sealed and empty, the first primary first; without any, "
        "`roomful cluster` of --state-dir starts them",
    )
    drain = _command(shard, "drain", "give a shard's rooms to the others, and take it out", _drain)
    drain.add_argument("name", metavar="NAME", help="as `roomful topology` shows it")
    drain.add_argument("--cancel", action="store_true", help="let it stay after all")
    bucket = _group(commands, "bucket", "put a bucket of rooms on a shard of your choice")
    move = _command(bucket, "move", "put a bucket on a shard, where it stays", _pin)
    move.add_argument("bucket", type=int, metavar="BUCKET", help="0 to 1023")
    move.add_argument("shard", metavar="SHARD", help="as `roomful topology` shows it")
    free = _command(bucket, "free", "let a bucket be wherever shares are even", _free)
    free.add_argument("bucket", type=int, metavar="BUCKET", help="0 to 1023")


def _group(commands: Any, name: str, words: str) -> Any:
    parser = commands.add_parser(name, help=words, description=words.capitalize() + ".")
    return parser.add_subparsers(dest="what", required=True, metavar="COMMAND")


def _command(
    group: Any, name: str, words: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(
        name,
        help=words,
        description=f"{words.capitalize()}, while everything is used:\n"
        "nothing is lost, acks of a few rooms at a time come later.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_state_dir(parser)
    parser.add_argument(
        "--cluster",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a server of the cluster, instead of --state-dir",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would move, and change nothing"
    )
    parser.add_argument("--no-wait", action="store_true", help="end once it is taken up")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="end with 1 when it is not done by then; it goes on (default: wait for the end)",
    )
    parser.set_defaults(run=run)
    return parser


def _add(options: argparse.Namespace) -> int:
    return asyncio.run(_add_shard(options))


def _drain(options: argparse.Namespace) -> int:
    return asyncio.run(_ask(options, DrainShard(ShardName(options.name), not options.cancel)))


def _pin(options: argparse.Namespace) -> int:
    return asyncio.run(_ask(options, PinBucket(options.bucket, ShardName(options.shard))))


def _free(options: argparse.Namespace) -> int:
    return asyncio.run(_ask(options, PinBucket(options.bucket, None)))


async def _add_shard(options: argparse.Namespace) -> int:
    addresses = tuple(parse_address(text) for text in options.addresses)
    if addresses:
        return await _ask(options, AddShard(ShardName(options.name), addresses))
    if options.cluster:
        raise BadCluster("name the new shard's servers: roomful shard add NAME HOST:PORT...")
    directory = options.state_dir or default_state_directory()
    _, topology = await read_known(find_cluster((), directory))
    layout = Layout.read(directory)
    assert layout is not None, "its servers were found there"
    name, servers = layout.next_shard((*topology.shards, *topology.intents.retired))
    if options.name is not None:
        name = ShardName(options.name)
        servers = layout.shards.get(name, servers)
    request = AddShard(name, servers)
    if not options.dry_run:
        await _check(options, request)
        if name not in layout.shards:
            layout.with_shard(name, servers)
            _say(f"shard {name}: starts {', '.join(map(str, servers))}")
        await _until_started(servers, layout)
    return await _ask(options, request)


async def _until_started(servers: Sequence[Address], layout: Layout) -> None:
    """Wait until `roomful cluster` has started *servers*."""
    end = time.monotonic() + START_S
    while (reading := await read_cluster(servers)).unreachable:
        if time.monotonic() > end:
            raise BadCluster(
                f"{', '.join(map(str, reading.unreachable))} did not start in {START_S:g} s: does "
                f"`roomful cluster --state-dir {layout.directory}` run? Logs: {layout.logs}"
            )
        await asyncio.sleep(LOOK_S)


async def _check(
    options: argparse.Namespace, request: Request
) -> tuple[Reading, Topology, Topology]:
    """
    Give the cluster, its topology, and what that would become.

    Raises:
        CannotBe, BadCluster: it would not be safe, or means nothing.
    """
    reading, topology = await read_known(find_cluster(options.cluster, options.state_dir))
    wanted = take_up(topology, request)
    for shard in reading.shards():
        if shard.phase is not Phase.SERVING:
            raise CannotBe(
                f"shard {shard.name} is {shard.phase}: {shard.reason}. Nothing moves until every "
                "shard serves"
            )
    return reading, topology, wanted


async def _ask(options: argparse.Namespace, request: Request) -> int:
    """Ask for *request*, and follow it to its end."""
    reading, topology, wanted = await _check(options, request)
    sys.stdout.write(_plan(wanted, is_dry=options.dry_run))
    if options.dry_run:
        return 0
    servers = [*reading.seen]
    if wanted is not topology:
        await _leave(topology, request)
    return await _follow(options, servers, request, total=len(planned_moves(wanted)))


def _plan(wanted: Topology, *, is_dry: bool) -> str:
    pairs = Counter((move.source, move.target) for move in planned_moves(wanted))
    lines = [
        f"  {source} to {target}: {count}" for (source, target), count in sorted(pairs.items())
    ]
    verb = "would have" if is_dry else "have"
    lines.insert(0, f"{pairs.total()} buckets {verb} to move{':' if pairs else ''}")
    if is_dry:
        lines.append("nothing was changed")
    return "\n".join(lines) + "\n"


async def _leave(topology: Topology, request: Request) -> None:
    """Leave *request* where the controller finds it."""
    try:
        await leave_request(topology, request, Credentials.of(os.environ))
    except ServerUnreachable as exc:
        raise BadCluster(f"not asked: {exc}") from exc


async def _follow(
    options: argparse.Namespace, servers: list[Address], request: Request, *, total: int
) -> int:
    """Tell how far it is, until it is done; *total* buckets have to move."""
    began, told_at, line = time.monotonic(), 0.0, ""
    while True:
        now = time.monotonic()
        _, topology = await read_known(servers)
        is_taken = _is_taken(topology, request)
        left = len(planned_moves(topology))
        total = max(total, left)
        if is_taken and (options.no_wait or _is_done(topology, request, left)):
            break
        if not is_taken and now > began + TAKE_UP_S:
            _say("not taken up: no controller is at work, or it refused (its log says why)")
            return NOT_DONE
        if options.timeout is not None and now > began + options.timeout:
            _say(f"not done in {options.timeout:g} s: {left} buckets are left; it goes on")
            return NOT_DONE
        moved = total - left if is_taken else 0
        before, line = line, _progress(topology, request, moved, total)
        is_due = sys.stderr.isatty() or now > told_at + TELL_S
        if is_due and line != before:
            _say(line)
            told_at = now
        await asyncio.sleep(LOOK_S)
    took_s = time.monotonic() - began
    shares = ", ".join(f"{name} {len(topology.buckets_of(name))}" for name in topology.shards)
    state = "taken up" if options.no_wait else "done"
    sys.stdout.write(f"{state} after {took_s:.1f} s; buckets: {shares}\n")
    return 0


def _is_taken(topology: Topology, request: Request) -> bool:
    try:
        return take_up(topology, request) is topology
    except CannotBe as exc:
        raise CannotBe(f"the cluster has changed meanwhile: {exc}") from exc


def _is_done(topology: Topology, request: Request, left: int) -> bool:
    match request:
        case AddShard(name=name):
            return name in topology.shards and not left
        case DrainShard(name=name, is_wanted=True):
            return name not in topology.shards
        case _:
            return not left


def _progress(topology: Topology, request: Request, moved: int, total: int) -> str:
    if isinstance(request, AddShard) and request.name in topology.intents.joining:
        return f"shard {request.name} joins"
    if moved < total or not isinstance(request, DrainShard):
        return f"{moved} of {total} buckets moved"
    return f"shard {request.name} has no bucket any more: waits until edges and archive have all"


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
