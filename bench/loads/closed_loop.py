"""
Closed loops: a sender's next message leaves when its last one is acknowledged and heard back.

The server's speed sets the pace, so the number is the most that it can do with so much in flight.
"""

from __future__ import annotations

from bench.member import Sender
from bench.meter import Meter, Result
from bench.peer import Peer, Target, build_tickets, join_rooms, open_peers
from bench.plan import ClosedLoop
from bench.reactor import NAP_S, Reactor
from bench.wire import ProtocolFault

__all__ = ["run_closed_loop"]

_DRAIN_TIMEOUT_S = 30.0


class _Driver(Sender):
    """Keeps *window* messages in flight: sent, and not yet both acknowledged and heard."""

    __slots__ = ("_is_running", "_window")

    def start(self, window: int) -> None:
        """Send the first messages, and go on until `stop`."""
        self._window = window
        self._is_running = True
        self.on_progress()

    def stop(self) -> None:
        """Send no more."""
        self._is_running = False

    @property
    def is_idle(self) -> bool:
        """Whether all that was sent is acknowledged and heard."""
        return self.acked == self.sent == self.heard

    def on_progress(self) -> None:
        """An own message was heard or acknowledged: perhaps the one that the next waits for."""
        while self._is_running and (
            self.sent - self.acked < self._window and self.sent - self.heard < self._window
        ):
            self.send_next()


def run_closed_loop(
    shape: ClosedLoop, target: Target, tokens: list[str], *, warmup_s: float, duration_s: float
) -> Result:
    """
    Run *shape* and give deliveries and acknowledged messages, per second.

    Raises:
        ProtocolFault: a sender heard an error, a hole, a double or a wrong order, or
            the deliveries counted over the whole run are not messages sent × members.
    """
    reactor = Reactor(nap_s=NAP_S)
    try:
        peers = open_peers(reactor, target, list(build_tickets(target, tokens)))
        drivers = _take_places(reactor, shape, peers)
        for driver in drivers:
            driver.start(shape.window)
        reactor.run_for(warmup_s)
        delivered, acked = _count(reactor, peers), sum(driver.acked for driver in drivers)
        meter = Meter(reactor, target)
        reactor.run_for(duration_s)
        shares = meter.read()
        delivered, acked = _count(reactor, peers) - delivered, sum(d.acked for d in drivers) - acked
        checked = _drain(reactor, shape, peers, drivers)
    finally:
        reactor.close()
    metrics = {
        "deliveries_per_s": delivered / shares.seconds,
        "acked_per_s": acked / shares.seconds,
    }
    return Result(metrics, shares, {"deliveries_checked": checked})


def _take_places(reactor: Reactor, shape: ClosedLoop, peers: list[Peer]) -> list[_Driver]:
    rooms = join_rooms(reactor, peers, shape.members)
    stride = shape.members // shape.senders  # senders are spread over the room's members
    drivers = []
    for index, (peer, room) in enumerate(zip(peers, rooms, strict=True)):
        place = index % shape.members
        if place % stride == 0 and place // stride < shape.senders:
            drivers.append(_Driver(peer, room, f"s{index}"))
        else:
            peer.count_only()
    return drivers


def _count(reactor: Reactor, peers: list[Peer]) -> int:
    reactor.catch_up()
    return sum(peer.deliveries for peer in peers)


def _drain(reactor: Reactor, shape: ClosedLoop, peers: list[Peer], drivers: list[_Driver]) -> int:
    """Let what is in flight arrive; hold all deliveries of the run to what was sent."""
    for driver in drivers:
        driver.stop()
    expected = sum(driver.sent for driver in drivers) * shape.members

    def is_done() -> bool:
        return all(driver.is_idle for driver in drivers) and _count(reactor, peers) >= expected

    reactor.run_until(is_done, f"all of {expected} deliveries", _DRAIN_TIMEOUT_S)
    reactor.run_for(0.1)  # a double would come now
    if (counted := _count(reactor, peers)) != expected:
        raise ProtocolFault(f"{counted} deliveries counted, {expected} expected")
    return expected
