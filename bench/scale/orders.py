"""What the leader of a load tells its load processes, and what they tell it: lines of JSON."""

from __future__ import annotations

import msgspec

from bench.scale.plan import Crowd

__all__ = [
    "Cut",
    "Expect",
    "Form",
    "Heartbeats",
    "Open",
    "Order",
    "Result",
    "Say",
    "Step",
]


class Form(msgspec.Struct, frozen=True):
    """The first line: who there is, which share of it this process has, and where the edges are."""

    crowd: Crowd
    process: int
    ports: list[int]
    secret: str
    prefix: str
    """Of the rooms' names."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Connect all, *at_once* at a time; a client that is in all of its rooms makes way."""

    at_once: int


class Heartbeats(msgspec.Struct, frozen=True, tag=True):
    """Say when every client has answered a heartbeat."""


class Say(msgspec.Struct, frozen=True, tag=True):
    """
    Send *messages* messages, each sender one in turn, and say when all are acknowledged. It takes
    the place of what was to be sent before.

    The first is due *first_ns* after *start_ns* of the clock that all processes share, the others
    *interval_ns* after the one before.
    """

    start_ns: int
    first_ns: int
    interval_ns: int
    messages: int


class Cut(msgspec.Struct, frozen=True, tag=True):
    """From now on cut each client, *every_s* after it was back, and let it stay away a while."""

    every_s: float
    offline_s: float


class Expect(msgspec.Struct, frozen=True, tag=True):
    """Cut nobody any more, and say when all are back and have heard all of *rooms*."""

    rooms: dict[str, int]
    timeout_s: float


class Result(msgspec.Struct, frozen=True, tag=True):
    """Write all times into *directory*, say the counts, and end."""

    rooms: dict[str, int]
    directory: str


Order = Open | Heartbeats | Say | Cut | Expect | Result


class Step(msgspec.Struct, frozen=True):
    """What a load process says: it is so far (or only how far it is: `progress`)."""

    name: str
    detail: dict[str, int] = {}
    rooms: dict[str, int] = {}
    """By room: the messages that were sent to it."""
    errors: dict[str, int] = {}
    cpu_s: float = 0.0
