"""
From the number of shards that is wanted to the next step towards it: pure.

Nothing is remembered: what is being done is in the topology (its intents), and what is wanted in
the specification or with the autoscaler. So an operator may end at any moment, and the number may
change in the middle of a move: each look takes the way from where the cluster is now.

New shards have a StatefulSet before they are part of anything, and join when all their servers
are ready; a shard that leaves keeps its objects until no topology names it. A name is never used
again: clients' cursors hold it.

Source: docs/adr/0024-what-people-ask-of-a-cluster.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS
from roomful.cluster.requests import AddShard, DrainShard, planned_moves
from roomful.cluster.topology import Address, Topology
from roomful.control.view import Phase, ShardStatus

__all__ = ["FULLEST", "Resizing", "Shards", "current_count", "in_order", "plan_shards"]

FULLEST: Final = 0.85
"""So much of the memory of the shards that stay may be used when one leaves."""


@dataclass(frozen=True, slots=True)
class Shards:
    """What is known of the shards beside the topology."""

    status: Mapping[ShardName, ShardStatus]
    """How each is, as the controller that leads found it; empty while it does not lead."""
    servers: Mapping[ShardName, tuple[Address, ...]] = field(default_factory=dict)
    """All servers of those whose pods are all ready."""
    memory: Mapping[ShardName, float] = field(default_factory=dict)
    """How much of its memory each uses, 0 to 1, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Resizing:
    """The shards that have objects, the next request, and what people are told."""

    names: tuple[ShardName, ...]
    """In order: those of the topology, those that join, and those that are being made."""
    request: AddShard | DrainShard | None = None
    reason: str = "Idle"
    message: str = ""

    @property
    def is_going_on(self) -> bool:
        """Whether the shards are not yet as they shall be, and something is done about it."""
        return self.reason in ("StartingShards", "MovingBuckets", "DrainingShards")


def in_order(names: Iterable[ShardName]) -> tuple[ShardName, ...]:
    """Give *names* by their numbers: s2 comes before s10."""
    return tuple(sorted(names, key=lambda name: (_number(name), name)))


def current_count(topology: Topology) -> int:
    """Give how many shards there are, or will be when what is under way is done."""
    return len(topology.owners) + len(topology.intents.joining)


def plan_shards(wanted: int, topology: Topology, shards: Shards) -> Resizing:
    """
    Give the next step to *wanted* shards.

    A request says what shall be: it may be left again until the topology shows it.
    """
    intents = topology.intents
    present = in_order((*topology.shards, *intents.joining))
    missing = wanted - current_count(topology)
    if missing == 0:
        return Resizing(present, None, *_progress(topology))
    if missing > 0 and not intents.draining:
        return _grow(missing, topology, shards, present)
    if missing > 0:
        # The one that has given away least: the last whose turn it was.
        request = DrainShard(in_order(intents.draining)[0], is_wanted=False)
        message = f"{request.name} stays after all"
        return _asked(topology, shards, present, request, ("MovingBuckets", message))
    if intents.joining:
        request = DrainShard(in_order(intents.joining)[-1])
        message = f"{request.name} is not wanted any more"
        return _asked(topology, shards, present, request, ("DrainingShards", message))
    return _shrink(topology, shards, present)


def _grow(
    missing: int, topology: Topology, shards: Shards, present: tuple[ShardName, ...]
) -> Resizing:
    used = (*present, *topology.intents.retired)
    first = max(map(_number, used)) + 1
    new = tuple(ShardName(f"s{number}") for number in range(first, first + missing))
    names = (*present, *new)
    ready = next((name for name in new if name in shards.servers), None)
    if ready is None:
        return Resizing(names, None, "StartingShards", f"{', '.join(new)}: servers are started")
    request = AddShard(ready, shards.servers[ready])
    told = ("StartingShards", f"{ready} joins")
    return _asked(topology, shards, names, request, told)


def _shrink(topology: Topology, shards: Shards, present: tuple[ShardName, ...]) -> Resizing:
    leaving = in_order(topology.owners)[-1]
    staying = len(topology.owners) - 1
    if unknown := [name for name in topology.owners if name not in shards.memory]:
        message = f"{leaving} is drained when {', '.join(unknown)} has told its memory"
        return Resizing(present, None, "Waiting", message)
    used = sum(shards.memory[name] for name in topology.owners)
    if used > FULLEST * staying:
        message = (
            f"{leaving} stays: the other {staying} would use {used / staying:.0%} of their memory, "
            f"and {FULLEST:.0%} is the most"
        )
        return Resizing(present, None, "DoesNotFit", message)
    told = ("DrainingShards", f"{leaving} is drained")
    return _asked(topology, shards, present, DrainShard(leaving), told)


def _asked(
    topology: Topology,
    shards: Shards,
    names: tuple[ShardName, ...],
    request: AddShard | DrainShard,
    told: tuple[str, str],
) -> Resizing:
    """Give *request*; none while a shard does not serve: its buckets could not move."""
    for name in topology.shards:
        status = shards.status.get(name)
        if status is None or status.phase is not Phase.SERVING:
            how = f"is {status.phase}" if status else "was not looked at yet"
            why = f": {status.reason}" if status and status.reason else ""
            # What is under way goes on, as far as it can.
            reason, message = _progress(topology)
            waits = f"{told[1]} when all serve: {name} {how}{why}"
            return Resizing(
                names,
                None,
                "Waiting" if reason == "Idle" else reason,
                f"{message}; {waits}" if message else waits,
            )
    return Resizing(names, request, *told)


def _progress(topology: Topology) -> tuple[str, str]:
    """Give what is under way by the topology: reason and message."""
    intents = topology.intents
    left = len(planned_moves(topology))
    said = [f"{left} of {BUCKETS} buckets are to move"] if left else []
    said += [f"{name} joins" for name in in_order(intents.joining)]
    said += [
        f"{name} is drained" if topology.buckets_of(name) else f"{name} has no rooms and leaves"
        for name in in_order(intents.draining)
    ]
    if intents.joining:
        return "StartingShards", "; ".join(said)
    if intents.draining and not left:
        return "DrainingShards", "; ".join(said)
    return "MovingBuckets" if left else "Idle", "; ".join(said)


def _number(name: ShardName) -> int:
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) if digits.isdecimal() else 0
