"""
Open loop: messages leave by the clock, whatever the server does, and each delivery is timed.

A message's time begins when it was due, not when the load got round to sending it: a server that
stalls pays for all the messages that were due meanwhile (no coordinated omission). The moment it
was due travels in its content, and every member of its room reads it there.
"""

from __future__ import annotations

from array import array
from time import perf_counter_ns

from bench.member import Member, Sender
from bench.meter import Meter, Result
from bench.peer import Peer, Target, build_tickets, join_rooms, open_peers
from bench.plan import OpenLoop
from bench.reactor import NAP_S, Reactor

__all__ = ["run_open_loop"]

_DRAIN_TIMEOUT_S = 30.0


def run_open_loop(
    shape: OpenLoop, target: Target, tokens: list[str], *, warmup_s: float, duration_s: float
) -> Result:
    """
    Run *shape* and give percentiles of the time from due to delivered, in milliseconds.

    Raises:
        ProtocolFault: a member heard an error, a hole, a double or a wrong order.
        StuckError: not all deliveries came.
    """
    reactor = Reactor(nap_s=NAP_S)
    times = array("q")
    try:
        peers = open_peers(reactor, target, list(build_tickets(target, tokens)))
        rooms = join_rooms(reactor, peers, shape.members)
        senders = []
        for index, (peer, room) in enumerate(zip(peers, rooms, strict=True)):
            if index % shape.members:
                Member(peer, times)
            else:
                senders.append(Sender(peer, room, f"s{index}", times))
        _pace(reactor, senders, shape.rate, warmup_s)
        _drain(reactor, shape, peers, senders)
        del times[:]
        meter = Meter(reactor, target)
        late_ms = _pace(reactor, senders, shape.rate, duration_s)
        shares = meter.read()
        _drain(reactor, shape, peers, senders)
    finally:
        reactor.close()
    ordered = sorted(times)
    metrics = {
        "p50_ms": _percentile(ordered, 0.50) / 1e6,
        "p99_ms": _percentile(ordered, 0.99) / 1e6,
        "max_ms": ordered[-1] / 1e6,
    }
    return Result(
        metrics, shares, {"deliveries_checked": len(ordered), "load_late_p99_ms": late_ms}
    )


def _pace(reactor: Reactor, senders: list[Sender], rate: int, seconds: float) -> float:
    """Send *rate* messages/s in turn from *senders*; give the p99 of the load's lateness in ms."""
    start, interval = perf_counter_ns(), 1_000_000_000 // rate
    lateness: list[int] = []
    for number in range(int(rate * seconds)):
        due = start + number * interval
        while (left := due - perf_counter_ns()) > 0:
            reactor.turn(left / 1e9)
        lateness.append(perf_counter_ns() - due)
        senders[number % len(senders)].send_next(due)
    return _percentile(sorted(lateness), 0.99) / 1e6


def _drain(reactor: Reactor, shape: OpenLoop, peers: list[Peer], senders: list[Sender]) -> None:
    expected = sum(sender.sent for sender in senders) * shape.members
    reactor.run_until(
        lambda: sum(peer.deliveries for peer in peers) == expected,
        f"all of {expected} deliveries",
        _DRAIN_TIMEOUT_S,
    )


def _percentile(ordered: list[int], part: float) -> int:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
