"""The command `roomful cluster`: a whole cluster on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from roomful.edge.settings import Settings, load_settings
from roomful.local.cluster import LocalCluster
from roomful.local.layout import (
    DURABILITIES,
    PORTS,
    BadCluster,
    Layout,
    Shape,
    default_state_directory,
    hold_directory,
)
from roomful.local.plan import EdgePlan
from roomful.local.ports import HOST
from roomful.local.programs import find_server_program
from roomful.telemetry.logging import configure_logging

__all__ = ["add_cluster_command"]

SHARD_PORTS_ABOVE = 10_000
MAX_EDGES = 64
MAX_ARCHIVERS = 16

DESCRIPTION = """\
Runs a whole cluster on this machine: shard servers (Redis or Valkey) with replicas, the
controller, and edges on consecutive ports. Each is a process of its own and is started again when
it ends; a shard whose primary dies gets another one. Ctrl-C stops everything in order, and the same
command goes on with the same data later. docs/cluster.md says what survives what.
"""

EPILOG = """\
examples:
  roomful cluster --dev                      two edges, two shards, a replica each
  roomful cluster --dev --edges 3 --shards 3 --replicas 2
  roomful cluster --edges 0                  shards and controller only
  roomful topology --state-dir DIR           what is where, and how it is

Settings of the edges come from --config FILE and ROOMFUL_* in the environment, as for
`roomful serve`; without --dev they need at least ROOMFUL_AUTH_SECRET. With ROOMFUL_ARCHIVE_URL
(a PostgreSQL of yours) messages are archived too.
"""


def add_cluster_command(commands: Any) -> None:
    """Add `cluster` to the command line."""
    cluster = commands.add_parser(
        "cluster",
        help="run edges, shards and the controller on this machine",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = cluster.add_argument
    add("--edges", type=int, default=2, metavar="N", help="edges to run (default: 2)")
    add(
        "--archivers",
        type=int,
        default=1,
        metavar="N",
        help="archivers to run where ROOMFUL_ARCHIVE_URL is set (default: 1)",
    )
    add("--shards", type=int, metavar="N", help="shards of a new cluster (default: 2)")
    add("--replicas", type=int, metavar="N", help="replicas of each shard (default: 1)")
    add(
        "--durability",
        choices=DURABILITIES,
        help="what an ack means: stored by the primary (memory), by a replica too (replicated; "
        "default where there are replicas), or on the disk of both (fsynced)",
    )
    add("--dev", action="store_true", help="as for `roomful serve`: for a laptop, no secrets")
    add("--config", type=Path, metavar="FILE", help="settings of the edges, in TOML")
    add("--host", help="address of the edges (default: all; 127.0.0.1 with --dev)")
    add("--port", type=int, help="port of the first edge (default: 8080)")
    add(
        "--shard-port",
        type=int,
        metavar="PORT",
        help="a new cluster's servers take the free ports from here on (default: --port + 10000); "
        "they listen on 127.0.0.1 only, and keep their ports",
    )
    add(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where the cluster is kept (default: .roomful/cluster)",
    )
    add(
        "--redis-server",
        metavar="PATH",
        help="the server program: Redis from 7.0 or Valkey from 8.0 on (default: what is here)",
    )
    cluster.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if not 0 <= options.edges <= MAX_EDGES:
        raise BadCluster(f"--edges {options.edges}: 0 to {MAX_EDGES}")
    if not 0 <= options.archivers <= MAX_ARCHIVERS:
        raise BadCluster(f"--archivers {options.archivers}: 0 to {MAX_ARCHIVERS}")
    program = find_server_program(options.redis_server)
    settings = _settings(options)
    directory = options.state_dir or default_state_directory()
    if settings.port + options.edges > PORTS.stop:
        raise BadCluster(f"--port {settings.port} with --edges {options.edges}: ports end at 65535")
    if options.shard_port is not None and options.shard_port not in PORTS:
        raise BadCluster(f"--shard-port {options.shard_port}: {PORTS.start} to {PORTS.stop - 1}")
    first_port = options.shard_port or settings.port + SHARD_PORTS_ABOVE
    file = ["--config", str(options.config)] if options.config else []
    edges = EdgePlan(
        options.edges,
        settings.host,
        settings.port,
        [*(["--dev"] if options.dev else []), *file],
        settings.drain_window_s,
        options.archivers if settings.archive.url else 0,
        file,
    )
    configure_logging(settings.log_level, settings.log_format)
    with hold_directory(directory):
        shape = Shape(options.shards, options.replicas, options.durability)
        layout = Layout.take_up(directory, shape, first_port)
        asyncio.run(LocalCluster(layout, edges, program).run())
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Read the edges' settings here too, so that what is wrong is said before anything runs."""
    # Each edge is told where the shards are; which are not known yet, only that there will be some.
    overrides: dict[str, Any] = {"shards": [f"redis://{HOST}:{PORTS.start}"]}
    if options.dev:
        overrides["dev"] = True
    if options.host is not None:
        overrides["host"] = options.host
    if options.port is not None:
        overrides["port"] = options.port
    if not options.edges:
        return Settings(host=options.host or HOST, port=options.port or 8080)
    return load_settings(os.environ, file=options.config, overrides=overrides)
