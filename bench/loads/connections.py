"""Loads of connections: how fast they are opened, and what an idle one costs in memory."""

from __future__ import annotations

from bench.meter import Meter, Result
from bench.peer import Target, build_tickets, open_peers
from bench.plan import Handshakes, Idle
from bench.procfs import read_rss_bytes
from bench.reactor import NAP_S, Reactor, StuckError

__all__ = ["run_handshakes", "run_idle"]

_HEARTBEAT_TIMEOUT_S = 60.0
_SETTLE_ATTEMPTS = 12
_STABLE_S = 5.0
_STABLE_SHARE = 0.002  # memory that changes by less in _STABLE_S is settled


def run_handshakes(shape: Handshakes, target: Target, tokens: list[str]) -> Result:
    """
    Sign in the connections of *shape* and give how many per second.

    A connection counts when its CONNECT reply is read: TCP, WebSocket upgrade, Engine.IO open,
    CONNECT with its own token. All stay open, so closing costs nothing in the window.
    """
    reactor = Reactor(nap_s=NAP_S)
    try:
        tickets = list(build_tickets(target, tokens))
        open_peers(reactor, target, tickets[: shape.warmup], at_once=shape.at_once)
        counted = tickets[shape.warmup :]
        meter = Meter(reactor, target)
        open_peers(reactor, target, counted, at_once=shape.at_once)
        shares = meter.read()
    finally:
        reactor.close()
    metrics = {"connections_per_s": len(counted) / shares.seconds}
    return Result(metrics, shares, {"connections": len(counted)})


def run_idle(shape: Idle, target: Target, tokens: list[str]) -> Result:
    """
    Hold the connections of *shape* and give the server's memory for each, in KB (1,000 bytes).

    Measured when every connection has answered a heartbeat (if the shape says so) and the memory
    has stopped changing.
    """
    reactor = Reactor(nap_s=None)
    try:
        tickets = list(build_tickets(target, tokens))
        open_peers(reactor, target, tickets[: shape.warmup])
        before = _settle(reactor, target.group)
        meter = Meter(reactor, target)
        peers = open_peers(reactor, target, tickets[shape.warmup :])
        if shape.with_heartbeat:
            reactor.run_until(
                lambda: all(peer.heartbeats for peer in peers),
                "a heartbeat on every connection",
                _HEARTBEAT_TIMEOUT_S,
            )
        after = _settle(reactor, target.group)
        shares = meter.read()
    finally:
        reactor.close()
    metrics = {"kb_per_connection": (after - before) / len(peers) / 1_000}
    details: dict[str, float] = {
        "rss_before_bytes": before,
        "rss_after_bytes": after,
        "connections": len(peers),
    }
    return Result(metrics, shares, details)


def _settle(reactor: Reactor, group: int) -> int:
    """Wait until the server's memory stays the same for a while; give it, in bytes."""
    current = read_rss_bytes(group)
    for _ in range(_SETTLE_ATTEMPTS):
        previous = current
        reactor.run_for(_STABLE_S)
        current = read_rss_bytes(group)
        if abs(current - previous) <= current * _STABLE_SHARE:
            return current
    raise StuckError(f"the server's memory still changes: {previous} to {current} bytes")
