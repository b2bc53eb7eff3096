"""
The topology: which shard owns each bucket, and which process is each shard's primary.

One frozen document. The controller writes it, every shard keeps a copy, and edges route by the
one with the highest generation they have heard of. It can be out of date at any time: what
decides about a message is the term and the bucket's record on the shard itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, UNPLACED, bucket_of, place
from roomful.protocol.errors import RoomfulError

__all__ = [
    "MAX_ACKS",
    "MAX_COUNT",
    "MAX_SHARDS",
    "MAX_TERM",
    "NO_INTENTS",
    "Address",
    "BadTopology",
    "Intents",
    "ShardRecord",
    "Topology",
    "decode_topology",
    "encode_topology",
    "first_topology",
]

MAX_TERM: Final = 2**13 - 1
"""An offset is term * 2**40 + n, and Lua and JavaScript count exactly only below 2**53."""

TERM_SIZE: Final = 2**40

MAX_COUNT: Final = 2**53 - 1
"""The highest generation and version, for the same reason."""

MAX_ACKS: Final = 8
"""More than anyone waits for; a number above it is a mistake."""

MAX_SHARDS: Final = 120
"""So many always fit in a cursor, whatever their names and offsets."""

_SHARD_NAME: Final = re.compile(r"[a-z][a-z0-9]{0,15}")
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_SHOWN: Final = 5


class BadTopology(RoomfulError):
    """
    A document that no cluster can have.

    Args:
        faults: one sentence for each thing that is wrong, and all of them.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class Address(msgspec.Struct, frozen=True):
    """Where a process listens; *host* is a name or an IP address, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ShardRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A shard's processes and who of them may write."""

    term: int
    """The failover counter, 1 to MAX_TERM; a primary of a lower term is refused."""
    primary: Address
    replicas: tuple[Address, ...] = ()
    run_id: str | None = None
    """
    The run id of the process that is the primary of this term; one that has restarted since is
    not. None: it was not asked yet.
    """
    stream: str | None = None
    """The replication id of this primary: what a replica has is measured on it, and only on it."""


class Intents(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What people want of the shards, and what is remembered of what they had.

    It is in the topology, so that whichever controller is at work knows it; requests.py changes it.
    """

    joining: Mapping[ShardName, tuple[Address, ...]] = {}
    """Shards that shall be begun: their servers, the first of them the first primary."""
    draining: tuple[ShardName, ...] = ()
    """Shards that shall give away everything and leave, by name."""
    emptied: Mapping[ShardName, int] = {}
    """
    Since when those of them that have given away everything have had nothing: UNIX time in ms, by
    the clock of the shard's server. Here, so that the next controller does not count anew.
    """
    pins: tuple[tuple[int, ShardName], ...] = ()
    """Buckets that somebody put on a shard, in order: there they stay, and others go instead."""
    retired: tuple[ShardName, ...] = ()
    """Shards that have left, by name. No other may ever be called so: cursors hold the name."""

    def without_drain(self, name: ShardName) -> Intents:
        """Give these when *name* is no longer drained, since it stays or has left."""
        return msgspec.structs.replace(
            self,
            draining=tuple(one for one in self.draining if one != name),
            emptied={one: at for one, at in self.emptied.items() if one != name},
        )


NO_INTENTS: Final = Intents()
"""Always this one for nothing: it is left out of the document by its identity."""


class Topology(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A valid topology: one that is not cannot be made.

    Raises:
        BadTopology: naming everything that is wrong with it.
    """

    generation: int
    """From 1; grows by each change."""
    shards: Mapping[ShardName, ShardRecord]
    buckets: tuple[ShardName, ...]
    """The owner of each bucket."""
    versions: tuple[int, ...]
    """The version of each bucket, from 1; grows by each change of its record on a shard."""
    acks: int = 0
    """
    How many replicas have a message before its sender hears that it is stored (W); 0: none.
    Edges wait for so many, and a failover is safe because the controller counts on it.
    """
    is_fsynced: bool = False
    """Whether the primary and these replicas have it on disk by then, not only in memory."""
    intents: Intents = NO_INTENTS

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise BadTopology(faults)

    def newer_than(self, other: Topology | None) -> bool:
        """
        Whether this one replaces *other*; every topology replaces None.

        The same generation is written twice only when the first was lost with a primary that had
        just announced it: then a term of the second is higher.
        """
        return other is None or self._age > other._age

    @property
    def _age(self) -> tuple[int, int]:
        return self.generation, sum(shard.term for shard in self.shards.values())

    def shard_of(self, name: str) -> ShardName:
        """Give the shard of the room or the session with this *name*."""
        return self.buckets[bucket_of(name)]

    @property
    def owners(self) -> tuple[ShardName, ...]:
        """The shards that shall own buckets, by name."""
        return tuple(sorted(self.shards.keys() - set(self.intents.draining)))

    def buckets_of(self, shard: ShardName) -> tuple[int, ...]:
        """Give the buckets that *shard* owns; none when it is drained or not known."""
        return tuple(bucket for bucket, owner in enumerate(self.buckets) if owner == shard)


def first_topology(
    shards: Mapping[ShardName, ShardRecord], *, acks: int = 0, is_fsynced: bool = False
) -> Topology:
    """
    Give the topology of a new cluster: all buckets placed on *shards*, all at version 1.

    Raises:
        BadTopology: *shards* cannot be a cluster's.
    """
    if not shards:
        raise BadTopology(["there are no shards"])
    owners = place(shards, UNPLACED)
    return Topology(1, shards, owners, (1,) * BUCKETS, acks, is_fsynced)


def encode_topology(topology: Topology) -> bytes:
    """Give *topology* as JSON; the same topology always gives the same bytes."""
    return msgspec.json.encode(topology, order="deterministic")


def decode_topology(document: bytes | str) -> Topology:
    """
    Read a topology.

    Fields that are not known here are passed over, so that a newer controller can add some; who
    writes a document back must therefore know all of them.

    Raises:
        BadTopology: not JSON, not of this shape (then the first place of it is named), or not
            valid (then everything that is wrong).
    """
    try:
        return _decoder.decode(document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise BadTopology([str(exc)]) from exc


_decoder: Final = msgspec.json.Decoder(Topology)


def _faults(topology: Topology) -> Iterator[str]:
    if not 1 <= topology.generation <= MAX_COUNT:
        yield f"generation {topology.generation} is not 1 to 2**53 - 1"
    if not 0 <= topology.acks <= MAX_ACKS:
        yield f"acks {topology.acks} is not 0 to {MAX_ACKS}"
    yield from _shard_faults(topology.shards)
    yield from _address_faults(topology.shards)
    yield from _bucket_faults(topology)
    yield from _intent_faults(topology)


def _shard_faults(shards: Mapping[ShardName, ShardRecord]) -> Iterator[str]:
    if not shards:
        yield "there are no shards"
    if len(shards) > MAX_SHARDS:
        yield f"{len(shards)} shards are more than {MAX_SHARDS}"
    for name, shard in shards.items():
        if not _SHARD_NAME.fullmatch(name):
            yield f"{name!r} is no name of a shard: [a-z][a-z0-9]{{0,15}}"
        if not 1 <= shard.term <= MAX_TERM:
            yield f"shard {name}: term {shard.term} is not 1 to {MAX_TERM}"


def _address_faults(shards: Mapping[ShardName, ShardRecord]) -> Iterator[str]:
    used: Counter[Address] = Counter()
    for name, shard in shards.items():
        addresses = (shard.primary, *shard.replicas)
        used.update(addresses)
        for address in addresses:
            if not _HOST.fullmatch(address.host):
                yield f"shard {name}: {address.host!r} is no host"
            if not 1 <= address.port <= 65535:
                yield f"shard {name}: {address.port} is no port"
    yield from (f"{address} is used {times} times" for address, times in used.items() if times > 1)


def _bucket_faults(topology: Topology) -> Iterator[str]:
    for field, count in (("buckets", len(topology.buckets)), ("versions", len(topology.versions))):
        if count != BUCKETS:
            yield f"{field} has {count} entries, not {BUCKETS}"
    for owner in sorted(set(topology.buckets) - topology.shards.keys()):
        yield f"{owner!r} is no shard and owns buckets: {_some(topology.buckets_of(owner))}"
    versions = enumerate(topology.versions)
    odd = tuple(bucket for bucket, version in versions if not 1 <= version <= MAX_COUNT)
    if odd:
        yield f"versions are not 1 to 2**53 - 1 of buckets: {_some(odd)}"


def _intent_faults(topology: Topology) -> Iterator[str]:
    intents = topology.intents
    for name, addresses in intents.joining.items():
        if not _SHARD_NAME.fullmatch(name) or not addresses:
            yield f"{name!r} cannot join: it is no name of a shard, or has no servers"
    for name in sorted(intents.joining.keys() & topology.shards.keys()):
        yield f"shard {name} joins and is there"
    for name in sorted({*topology.shards, *intents.joining} & set(intents.retired)):
        yield f"shard {name} has left, and its name is used again"
    for name in sorted(set(intents.draining) - topology.shards.keys()):
        yield f"{name!r} is no shard and is drained"
    for name in sorted(intents.emptied.keys() - set(intents.draining)):
        yield f"{name!r} is empty and is not drained"
    if topology.shards and not topology.owners:
        yield "every shard is drained"
    for bucket, name in intents.pins:
        if not 0 <= bucket < BUCKETS or name not in topology.owners:
            yield f"bucket {bucket} cannot be kept on {name!r}"


def _some(buckets: Sequence[int]) -> str:
    more = f" and {len(buckets) - _SHOWN} more" if len(buckets) > _SHOWN else ""
    return ", ".join(map(str, buckets[:_SHOWN])) + more
