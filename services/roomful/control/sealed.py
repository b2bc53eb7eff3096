"""
How a shard's server is started: sealed, so that it takes no write until the controller says so.

Sealed is a replica of an address where nobody listens. It keeps the data that it has, answers who
asks what it is, and refuses writes: a primary that comes back from anywhere cannot take up
its old role by itself. docs/adr/0008-sealed-servers-and-the-lead.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from roomful.cluster.topology import Address

__all__ = ["BACKLOG_BYTES", "SEALED", "ServerOptions", "build_server_options", "render_config"]

SEALED: Final = Address("127.0.0.1", 1)
"""
Where nobody is: the port of tcpmux on the server's own machine. An address and not a name,
since the server looks names up while it does nothing else.
"""

BACKLOG_BYTES: Final = 64 * 2**20
"""Of what was written last, kept for replicas that were away: they need not copy everything."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What differs from server to server; the rest is the same for all."""

    address: Address
    """How others reach it; replicas announce it, so that the controller knows them again."""
    bind: str
    """The addresses that it listens on, apart by spaces."""
    directory: str
    """Where its append-only file is; it outlives the process."""
    max_memory_bytes: int | None = None
    """
    For data. Above it writes are refused, nothing is ever evicted; None: what the machine has.
    """


def build_server_options(options: ServerOptions) -> dict[str, str]:
    """
    Give the configuration of a shard's server: names and values of redis.conf.

    The same for Redis from 7.0 and Valkey from 8 on. Each comment says what the default breaks.
    """
    values = {
        "port": str(options.address.port),
        "bind": options.bind,
        "dir": options.directory,
        # Others reach it through a network that the cluster's owner closes, or by a password.
        "protected-mode": "no",
        "replicaof": f"{SEALED.host} {SEALED.port}",
        "replica-announce-ip": options.address.host,
        "replica-announce-port": str(options.address.port),
        # A replica that could be written to would differ from its primary.
        "replica-read-only": "yes",
        # The controller reads a sealed server's data: whose it is and how much it has.
        "replica-serve-stale-data": "yes",
        # Replicas are witnesses of their primary's death: they must miss it within a second
        # or two, not within ten.
        "repl-ping-replica-period": "1",
        "repl-timeout": "15",
        # Five seconds of waiting for more replicas would be five seconds without an ack.
        "repl-diskless-sync-delay": "0",
        "repl-backlog-size": str(BACKLOG_BYTES),
        "repl-backlog-ttl": "0",
        # A primary that has lost its replicas says so soon; what keeps acks honest is WAIT.
        "min-replicas-max-lag": "5",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # A client whose machine is gone is noticed within a minute.
        "tcp-keepalive": "15",
    }
    if options.max_memory_bytes is not None:
        # The backlog counts, and fills up whatever is written: it would leave data less and less.
        values["maxmemory"] = str(options.max_memory_bytes + BACKLOG_BYTES)
    return values


def render_config(values: dict[str, str]) -> str:
    """Give the text of a redis.conf with *values*."""
    return "".join(f"{name} {_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    # Several words are several arguments, but for a directory, which may have a space in it.
    if value and "/" not in value and '"' not in value and "\\" not in value:
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
