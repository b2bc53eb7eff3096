"""
What people ask of a cluster's shards, and how a topology takes it up: pure.

A request says what shall be, so it can be taken up again; what cannot be is refused in words. Only
the controller that leads writes a topology, so two requests at a time do not overwrite each other.

Source: docs/adr/0024-what-people-ask-of-a-cluster.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, Move, moves, place
from roomful.cluster.topology import NO_INTENTS, Address, BadTopology, Intents, Topology
from roomful.protocol.errors import RoomfulError

__all__ = [
    "AddShard",
    "CannotBe",
    "DrainShard",
    "PinBucket",
    "Request",
    "decode_request",
    "encode_request",
    "planned_moves",
    "take_up",
]


class CannotBe(RoomfulError):
    """A request that would not be safe, or that means nothing; the words say why."""


class AddShard(msgspec.Struct, frozen=True, tag="add-shard"):
    """Begin a shard of *servers*, which are sealed and empty, and give it its share of buckets."""

    name: ShardName
    servers: tuple[Address, ...]


class DrainShard(msgspec.Struct, frozen=True, tag="drain-shard"):
    """Give all of a shard's buckets to the others, and take it out."""

    name: ShardName
    is_wanted: bool = True
    """False: it shall stay after all, and is given a share again."""


class PinBucket(msgspec.Struct, frozen=True, tag="pin-bucket"):
    """Put a bucket on a shard, and let it stay there; another one goes back for it."""

    bucket: int
    shard: ShardName | None
    """None: it may be wherever is even."""

    def __str__(self) -> str:
        return f"bucket {self.bucket} goes to {self.shard or 'wherever is even'}"


Request = AddShard | DrainShard | PinBucket

_decoder: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)


def encode_request(request: Request) -> bytes:
    """Give *request* as JSON."""
    return msgspec.json.encode(request)


def decode_request(document: bytes) -> Request:
    """
    Read a request.

    Raises:
        CannotBe: it is none that this version knows.
    """
    try:
        return _decoder.decode(document)
    except (msgspec.MsgspecError, UnicodeError) as exc:
        raise CannotBe(f"there is no such request: {exc}") from exc


def take_up(topology: Topology, request: Request) -> Topology:
    """
    Give *topology* with what *request* wants, of the next generation; itself if it has it.

    Raises:
        CannotBe: nothing of it is taken up.
    """
    match request:
        case AddShard():
            intents = _join(topology, request)
        case DrainShard():
            intents = _drain(topology, request)
        case PinBucket():
            intents = _pin(topology, request)
    if intents == topology.intents:
        return topology
    try:
        return msgspec.structs.replace(
            topology,
            generation=topology.generation + 1,
            intents=NO_INTENTS if intents == NO_INTENTS else intents,
        )
    except BadTopology as exc:
        raise CannotBe(str(exc)) from exc


def planned_moves(topology: Topology) -> tuple[Move, ...]:
    """Give what will move until *topology* is as it is wanted, those that join among them."""
    shards = {*topology.owners, *topology.intents.joining}
    return moves(topology.buckets, place(shards, topology.buckets, dict(topology.intents.pins)))


def _join(topology: Topology, request: AddShard) -> Intents:
    intents, name = topology.intents, request.name
    record = topology.shards.get(name)
    if record is not None:
        if {record.primary, *record.replicas} == set(request.servers):
            return intents
        raise CannotBe(f"there is a shard {name} of other servers")
    if name in intents.retired:
        raise CannotBe(f"a shard {name} has left this cluster: name the new one otherwise")
    if len(request.servers) <= topology.acks:
        raise CannotBe(
            f"acks wait for {topology.acks} replicas, so shard {name} needs "
            f"{topology.acks + 1} servers or more, and {len(request.servers)} are named"
        )
    used = {
        address: shard
        for shard, record in topology.shards.items()
        for address in (record.primary, *record.replicas)
    }
    for address in request.servers:
        if address in used:
            raise CannotBe(f"{address} is a server of shard {used[address]}")
    return msgspec.structs.replace(intents, joining={**intents.joining, name: request.servers})


def _drain(topology: Topology, request: DrainShard) -> Intents:
    intents, name = topology.intents, request.name
    if not request.is_wanted:
        if name not in topology.shards:
            raise CannotBe(f"there is no shard {name}")
        return intents.without_drain(name)
    if name in intents.joining:
        joining: Mapping[ShardName, tuple[Address, ...]] = {
            one: servers for one, servers in intents.joining.items() if one != name
        }
        # Not to join after all, whoever still has it among the shards that are to be there.
        retired = tuple(sorted({*intents.retired, name}))
        return msgspec.structs.replace(intents, joining=joining, retired=retired)
    if name in intents.retired:
        return intents
    if name not in topology.shards:
        raise CannotBe(f"there is no shard {name}: {', '.join(topology.shards)}")
    if topology.owners in ((name,), ()):
        raise CannotBe(f"shard {name} is the last one: its rooms have nowhere to go")
    return msgspec.structs.replace(
        intents,
        draining=tuple(sorted({*intents.draining, name})),
        pins=tuple(pin for pin in intents.pins if pin[1] != name),
    )


def _pin(topology: Topology, request: PinBucket) -> Intents:
    intents, bucket, shard = topology.intents, request.bucket, request.shard
    if not 0 <= bucket < BUCKETS:
        raise CannotBe(f"there is no bucket {bucket}: 0 to {BUCKETS - 1}")
    pins = {one: name for one, name in intents.pins if one != bucket}
    if shard is None:
        return msgspec.structs.replace(intents, pins=tuple(sorted(pins.items())))
    if shard not in topology.owners:
        why = "is drained" if shard in topology.shards else "is not there"
        raise CannotBe(f"shard {shard} {why}: {', '.join(topology.owners)} can have the bucket")
    share = BUCKETS // len(topology.owners)
    if list(pins.values()).count(shard) >= share:
        raise CannotBe(f"{share} buckets were put on shard {shard} already, which is its share")
    pins[bucket] = shard
    return msgspec.structs.replace(intents, pins=tuple(sorted(pins.items())))
