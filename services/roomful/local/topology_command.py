"""The command `roomful topology`: which shard is where, and how it is."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from roomful.cluster.requests import planned_moves
from roomful.cluster.topology import Address, Topology, encode_topology
from roomful.control.link import Credentials
from roomful.control.reading import MoveUnderWay, Reading, read_moves
from roomful.control.view import ShardStatus
from roomful.local.finding import add_cluster_options, find_cluster, read_known

__all__ = ["add_topology_command", "describe_reading"]

NOT_WHOLE: Final = 1

EPILOG = """\
exit status: 0 every shard serves with all its replicas; 1 some does not; 2 there is no cluster.
"""


def add_topology_command(commands: Any) -> None:
    """Add `topology` to the command line."""
    topology = commands.add_parser(
        "topology",
        help="show a cluster's shards: where they are, and how",
        description="Reads a cluster from its shards; changes nothing and needs no controller.\n"
        "One server that answers is enough.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(topology)
    topology.add_argument("--json", action="store_true", help="for machines")
    topology.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    return asyncio.run(_show(options))


async def _show(options: argparse.Namespace) -> int:
    reading, topology = await read_known(find_cluster(options.servers, options.state_dir))
    under_way = await read_moves(topology, Credentials.of(os.environ))
    if options.json:
        sys.stdout.write(_encode(reading, under_way))
    else:
        sys.stdout.write(describe_reading(reading) + _describe_moves(topology, under_way))
    is_whole = all(shard.is_whole for shard in reading.shards()) and not reading.unreachable
    return 0 if is_whole else NOT_WHOLE


def _encode(reading: Reading, under_way: Sequence[MoveUnderWay]) -> str:
    assert reading.topology is not None
    document = msgspec.json.decode(encode_topology(reading.topology))
    document["status"] = {
        shard.name: {"phase": shard.phase.value, "reason": shard.reason}
        for shard in reading.shards()
    }
    document["moves"] = [
        {"bucket": one.bucket, "from": one.source, "to": one.target, "state": one.state.value}
        for one in under_way
    ]
    document["toMove"] = len(planned_moves(reading.topology))
    document["unreachable"] = {str(one): why for one, why in reading.unreachable.items()}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def describe_reading(reading: Reading) -> str:
    """Give the table of shards, one line for each and one for each of its servers."""
    topology = reading.topology
    assert topology is not None
    durability = "fsynced" if topology.is_fsynced else "replicated" if topology.acks else "memory"
    lines = [f"generation {topology.generation}, durability {durability}, acks {topology.acks}"]
    for shard in reading.shards():
        record = topology.shards[shard.name]
        share = len(topology.buckets_of(shard.name))
        why = f" ({shard.reason})" if shard.reason else ""
        drained = ", is drained" if shard.name in topology.intents.draining else ""
        lines.append(
            f"{shard.name}  {shard.phase}{why}  term {record.term}, {share} buckets{drained}"
        )
        for address in (record.primary, *record.replicas):
            role = "primary" if address == record.primary else "replica"
            lines.append(f"  {role}  {address}{_lack(reading, shard, address)}")
    return "\n".join(lines) + "\n"


def _describe_moves(topology: Topology, under_way: Sequence[MoveUnderWay]) -> str:
    """Give a line for each shard that is to come, and what moves; empty when all is in place."""
    lines = [
        f"{name}  joins  {', '.join(map(str, servers))}"
        for name, servers in sorted(topology.intents.joining.items())
    ]
    if waiting := planned_moves(topology):
        lines.append(f"{len(waiting)} buckets have to move")
    for one in under_way:
        version = topology.versions[one.bucket]
        lines.append(
            f"  bucket {one.bucket} (version {version})  {one.source} to {one.target}  "
            f"{one.state.value.lower()}"
        )
    return "".join(line + "\n" for line in lines)


def _lack(reading: Reading, shard: ShardStatus, address: Address) -> str:
    if address in reading.unreachable:
        return f"  unreachable: {reading.unreachable[address]}"
    return "" if address in (shard.primary, *shard.online) else "  does not follow yet"
