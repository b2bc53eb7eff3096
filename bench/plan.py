"""What is measured: the loads, their shapes, their units and the targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "LOADS",
    "ClosedLoop",
    "Handshakes",
    "Idle",
    "Load",
    "Metric",
    "OpenLoop",
    "Shape",
    "count_tokens",
]


SERVER_CORE = 0
LOAD_CORE = 1


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Rooms of so many members, of whom some send, each with *window* messages in flight."""

    rooms: int
    members: int
    senders: int
    window: int


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Rooms of so many members, one of whom sends; *rate* messages/s over all rooms."""

    rooms: int
    members: int
    rate: int


@dataclass(frozen=True, slots=True)
class Handshakes:
    """*peers* connections after *warmup* others, opened by *at_once*, each followed by the next."""

    peers: int
    warmup: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Idle:
    """*peers* idle connections after *warmup* others, with a heartbeat heard on each or without."""

    peers: int
    warmup: int
    with_heartbeat: bool


Shape = ClosedLoop | OpenLoop | Handshakes | Idle


def count_tokens(shape: Shape) -> int:
    """Count the connections, and so the tokens, that a run of *shape* needs."""
    match shape:
        case ClosedLoop() | OpenLoop():
            return shape.rooms * shape.members
        case Handshakes() | Idle():
            return shape.warmup + shape.peers


@dataclass(frozen=True, slots=True)
class Metric:
    """
    One number of a load.

    More is better, or less if *is_cost*. Targets: Roomful is at least *least_ratio* times better
    than a rival, and its number is at most *most*; None: no such target.
    """

    key: str
    title: str
    unit: str
    is_cost: bool = False
    least_ratio: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """
    One load: the *metrics* that its runs give, the headline first.

    With *is_shared* it is put on servers that share their rooms with others, through Redis.
    """

    key: str
    title: str
    shape: Shape
    metrics: tuple[Metric, ...]
    is_shared: bool = False

    def shortened(self) -> Load:
        """Give the same load with fewer connections, for a look during work."""
        match self.shape:
            case Handshakes() as shape:
                return replace(self, shape=replace(shape, peers=2_500))
            case Idle() as shape:
                return replace(self, shape=replace(shape, peers=2_000, with_heartbeat=False))
            case ClosedLoop() | OpenLoop():
                return self

    def shared(self, key: str, least_ratio: float) -> Load:
        """Give the same load, as *key*, for servers that share rooms, with another target."""
        headline = replace(self.metrics[0], least_ratio=least_ratio)
        return replace(self, key=key, metrics=(headline, *self.metrics[1:]), is_shared=True)


_DELIVERIES = Metric("deliveries_per_s", "deliveries", "1/s")
_ACKED = Metric("acked_per_s", "acknowledged messages", "1/s")

_ALL = (
    Load(
        "a",
        "1 room of 500, one sender with 4 messages in flight",
        ClosedLoop(rooms=1, members=500, senders=1, window=4),
        (replace(_DELIVERIES, least_ratio=2.5),),
    ),
    Load(
        "b",
        "50 rooms of 10, one sender each, with one message in flight",
        ClosedLoop(rooms=50, members=10, senders=1, window=1),
        (_DELIVERIES,),
    ),
    Load(
        "c",
        "250 rooms of 2, one sender each, with one message in flight",
        ClosedLoop(rooms=250, members=2, senders=1, window=1),
        (replace(_ACKED, least_ratio=2.0),),
    ),
    Load(
        "d",
        "50 rooms of 10 at a fixed 1,000 messages/s: time from due to delivered",
        OpenLoop(rooms=50, members=10, rate=1_000),
        (
            Metric("p99_ms", "p99", "ms", is_cost=True, least_ratio=1.0),
            Metric("p50_ms", "p50", "ms", is_cost=True),
            Metric("max_ms", "max", "ms", is_cost=True),
        ),
    ),
    Load(
        "e",
        "15,000 idle connections, each after a heartbeat",
        Idle(peers=15_000, warmup=10, with_heartbeat=True),
        (Metric("kb_per_connection", "memory per connection", "KB", is_cost=True, most=11.0),),
    ),
    Load(
        "f",
        "8,000 new connections, each with its own token, 64 at a time",
        Handshakes(peers=8_000, warmup=500, at_once=64),
        (Metric("connections_per_s", "connections", "1/s", least_ratio=2.0),),
    ),
)

_A, _B, _C, _D, *_ = _ALL

_SHARED = (
    _A.shared("ra", 4.0),
    _B.shared("rb", 2.0),
    _C.shared("rc", 2.5),
    _D.shared("rd", 1.0),
)

LOADS = {load.key: load for load in (*_ALL, *_SHARED)}
