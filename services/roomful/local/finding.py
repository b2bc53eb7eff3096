"""Which cluster a command is about: named by its servers, or by a directory on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from roomful.cluster.topology import Address, Topology
from roomful.control.command import parse_address
from roomful.control.link import Credentials
from roomful.control.reading import Reading, read_cluster
from roomful.local.layout import BadCluster, Layout, default_state_directory

__all__ = [
    "add_cluster_options",
    "add_state_dir",
    "find_cluster",
    "read_known",
    "read_named_cluster",
]


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a cluster to the command line."""
    parser.add_argument(
        "servers", nargs="*", metavar="HOST:PORT", help="servers of the cluster's shards"
    )
    add_state_dir(parser)


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a cluster of this machine."""
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="of a `roomful cluster` on this machine (default: .roomful/cluster)",
    )


def find_cluster(servers: Sequence[str], state_dir: Path | None) -> list[Address]:
    """
    Give servers of the cluster that is meant.

    Raises:
        BadCluster, BadOption: there is none, or it cannot be meant.
    """
    if servers and state_dir:
        raise BadCluster("name servers or --state-dir, not both")
    if servers:
        return [parse_address(text) for text in servers]
    directory = state_dir or default_state_directory()
    layout = Layout.read(directory)
    if layout is None:
        raise BadCluster(f"there is no cluster in {directory}: name its servers (HOST:PORT)")
    return [place.address for place in layout.servers()]


async def read_known(addresses: Iterable[Address]) -> tuple[Reading, Topology]:
    """
    Read the cluster at *addresses*, and give its topology too.

    Raises:
        BadCluster: no server there has one.
    """
    reading = await read_cluster(addresses, Credentials.of(os.environ))
    if reading.topology is None:
        unreachable = [f"  {address}: {why}" for address, why in reading.unreachable.items()]
        found = "no server knows a topology" if reading.seen else "no server could be read"
        raise BadCluster("\n".join([found, *sorted(unreachable)]))
    return reading, reading.topology


def read_named_cluster(options: argparse.Namespace) -> Reading:
    """
    Read the cluster that *options* name; its topology is known.

    Raises:
        BadCluster, BadOption: there is none, or it cannot be meant.
    """
    reading, _ = asyncio.run(read_known(find_cluster(options.servers, options.state_dir)))
    return reading
