"""The command `roomful topology`: which shard is where, and how it is."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import msgspec

from roomful.cluster.topology import Address, encode_topology
from roomful.control.reading import Reading
from roomful.control.view import ShardStatus
from roomful.local.finding import add_cluster_options, read_named_cluster

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
        description="Reads a cluster from its shards; changes nothing and needs no controller. One "
        "server that answers is enough.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(topology)
    topology.add_argument("--json", action="store_true", help="for machines")
    topology.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    reading = read_named_cluster(options)
    sys.stdout.write(_encode(reading) if options.json else describe_reading(reading))
    is_whole = all(shard.is_whole for shard in reading.shards()) and not reading.unreachable
    return 0 if is_whole else NOT_WHOLE


def _encode(reading: Reading) -> str:
    assert reading.topology is not None
    document = msgspec.json.decode(encode_topology(reading.topology))
    document["status"] = {
        shard.name: {"phase": shard.phase.value, "reason": shard.reason}
        for shard in reading.shards()
    }
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
        lines.append(f"{shard.name}  {shard.phase}{why}  term {record.term}, {share} buckets")
        for address in (record.primary, *record.replicas):
            role = "primary" if address == record.primary else "replica"
            lines.append(f"  {role}  {address}{_lack(reading, shard, address)}")
    return "\n".join(lines) + "\n"


def _lack(reading: Reading, shard: ShardStatus, address: Address) -> str:
    if address in reading.unreachable:
        return f"  unreachable: {reading.unreachable[address]}"
    return "" if address in (shard.primary, *shard.online) else "  does not follow yet"
