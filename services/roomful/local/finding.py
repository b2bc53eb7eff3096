"""Which cluster a command is about: named by its servers, or by a directory on this machine."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from roomful.control.command import parse_address
from roomful.control.reading import Reading, read_cluster
from roomful.local.layout import BadCluster, Layout, default_state_directory

__all__ = ["add_cluster_options", "read_named_cluster"]


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a cluster to the command line."""
    parser.add_argument(
        "servers", nargs="*", metavar="HOST:PORT", help="servers of the cluster's shards"
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="of a `roomful cluster` on this machine (default: .roomful/cluster)",
    )


def read_named_cluster(options: argparse.Namespace) -> Reading:
    """
    Read the cluster that *options* name; its topology is known.

    Raises:
        BadCluster, BadOption: there is none, or it cannot be meant.
    """
    if options.servers and options.state_dir:
        raise BadCluster("name servers or --state-dir, not both")
    addresses = [parse_address(text) for text in options.servers]
    if not addresses:
        directory = options.state_dir or default_state_directory()
        layout = Layout.read(directory)
        if layout is None:
            raise BadCluster(f"there is no cluster in {directory}: name its servers (HOST:PORT)")
        addresses = [place.address for place in layout.servers()]
    reading = asyncio.run(read_cluster(addresses))
    if reading.topology is None:
        unreachable = [f"  {address}: {why}" for address, why in reading.unreachable.items()]
        raise BadCluster("\n".join(["no server knows a topology", *unreachable]))
    return reading
