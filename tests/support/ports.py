"""Ports for servers that a test starts: nobody else gets one, before they listen or after."""

from __future__ import annotations

from collections import deque
from socket import socket

from roomful.local.ports import hold_port, hold_ports

__all__ = ["claim_port", "claim_ports"]

_HELD: deque[socket] = deque(maxlen=256)
"""The newest claims; those of servers long gone make room for them."""


def claim_port() -> int:
    """Return a port that is this process's own."""
    return _claim(hold_port())


def claim_ports(count: int) -> int:
    """Return the first of *count* ports in a row, all this process's own."""
    return [_claim(held) for held in hold_ports(count)][0]


def _claim(held: socket) -> int:
    _HELD.append(held)
    port: int = held.getsockname()[1]
    return port
