"""Ports of this machine: whether a server can have one, and how to keep some for later."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from roomful.protocol.errors import RoomfulError

__all__ = ["HOST", "NoPorts", "hold_port", "hold_ports", "is_free", "obstacle"]

HOST: Final = "127.0.0.1"
"""Where shard servers listen: they have no password, so nobody else may reach them."""

_ROWS: Final = range(16_384, 32_768)
"""Where ports in a row are sought: below those that Linux gives to connections."""
_ALIGNED: Final = 16
"""A row begins at a multiple of it, so that few attempts meet part of another row."""


class NoPorts(RoomfulError):
    """There are not that many free ports in a row."""


def is_free(host: str, port: int) -> bool:
    """Whether a server can listen on *port* of *host*."""
    return obstacle(host, port) is None


def obstacle(host: str, port: int) -> OSError | None:
    """Give what keeps a server from listening on *port* of *host*; None if nothing does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc
    return None


def hold_port(port: int = 0) -> socket.socket:
    """
    Keep *port* of HOST, or a free one if it is 0, for a server to come, until the socket is closed.

    A socket that is bound and does not listen keeps its port (on Linux) from all connections, from
    every bind to port 0 and from whoever holds ports like this, but not from a server, which sets
    SO_REUSEADDR: so it is the server's before it is started, and while it is down.

    Raises:
        OSError: somebody has it.
    """
    held = socket.socket()
    try:
        held.bind((HOST, port))
    except OSError:
        held.close()
        raise
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return held


def hold_ports(count: int) -> list[socket.socket]:
    """
    Keep *count* ports in a row, as hold_port does.

    Raises:
        NoPorts: there are not so many.
    """
    for first in _ROWS[:: -(-count // _ALIGNED) * _ALIGNED]:
        with contextlib.ExitStack() as row, contextlib.suppress(OSError):
            held = [row.enter_context(hold_port(port)) for port in range(first, first + count)]
            row.pop_all()
            return held
    raise NoPorts(f"there are no {count} free ports in a row")
