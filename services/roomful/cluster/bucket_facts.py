"""
What is known of all buckets at one moment, and what can be ordered: the words of reshard.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import RoomfulError

__all__ = [
    "NO_RECORD",
    "Activate",
    "BadRecord",
    "Begin",
    "BucketRecord",
    "Clear",
    "Drop",
    "Order",
    "RecordState",
    "ReshardFacts",
    "Thaw",
    "parse_record",
]


class RecordState(Enum):
    """What a shard's record says that the shard is to a bucket."""

    NONE = "NONE"
    OWNED = "OWNED"
    MOVING = "MOVING"
    """Owned, open for everything, and being copied."""
    FROZEN = "FROZEN"
    """Owned, and closed for a moment."""
    GONE = "GONE"
    IMPORTING = "IMPORTING"


_OWNING: Final = (RecordState.OWNED, RecordState.MOVING, RecordState.FROZEN)


class BadRecord(RoomfulError):
    """A record that no shard of this version writes."""


@dataclass(frozen=True, slots=True)
class BucketRecord:
    """One shard's record of one bucket."""

    state: RecordState
    version: int = 0
    migration: str = ""
    other: ShardName | None = None
    """Where it goes or went to; of IMPORTING, where it comes from."""
    is_whole: bool = False
    """Of IMPORTING: everything is here."""

    @property
    def is_owning(self) -> bool:
        """Whether the shard decides about the bucket."""
        return self.state in _OWNING


NO_RECORD: Final = BucketRecord(RecordState.NONE)


def parse_record(text: str) -> BucketRecord:
    """
    Read a record as `roomful_v1_buckets` gives it (shard/functions.lua).

    Raises:
        BadRecord: it is none.
    """
    match text.split():
        case ["NONE", _]:
            return NO_RECORD
        case ["OWNED", version] if version.isdecimal():
            return BucketRecord(RecordState.OWNED, int(version))
        case [
            "MOVING" | "FROZEN" | "GONE" | "IMPORTING" as state,
            version,
            migration,
            other,
            *rest,
        ] if version.isdecimal():
            shard = ShardName(other)
            return BucketRecord(
                RecordState(state), int(version), migration, shard, rest == ["whole"]
            )
    raise BadRecord(f"a bucket's record is {text!r}")


@dataclass(frozen=True, slots=True)
class ReshardFacts:
    """All buckets at one moment: where they shall be, and where they are."""

    owners: Sequence[ShardName]
    """Of each bucket, as the topology has it."""
    versions: Sequence[int]
    shards: frozenset[ShardName]
    """All of the topology."""
    members: frozenset[ShardName]
    """Those that shall have buckets."""
    records: Mapping[ShardName, Sequence[BucketRecord]]
    """Of every shard that could be read, its record of each bucket."""
    serving: frozenset[ShardName]
    """The shards that take orders, and whose replicas follow."""
    under_way: frozenset[str] = frozenset()
    """The attempts that this controller makes; before the records were read."""
    pins: Mapping[int, ShardName] = field(default_factory=dict)
    cleared: frozenset[tuple[ShardName, int, str]] = frozenset()
    """What is known to be deleted: shard, bucket and the migration with which it went."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin to move a bucket."""

    bucket: int
    source: ShardName
    target: ShardName
    version: int
    """The one in which *source* owns it."""
    newest: int
    """The newest that any shard remembers: later, if *source* lost the end of an attempt."""
    is_clear: bool = False
    """Whether *target* has nothing of it for certain, of an earlier stay or attempt."""


@dataclass(frozen=True, slots=True)
class Thaw:
    """Give an attempt up at its source: the bucket stays."""

    bucket: int
    shard: ShardName
    migration: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Give an attempt up at its target: what was copied is nothing."""

    bucket: int
    shard: ShardName
    migration: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Make *target* the owner, once the replicas of *source* know of the release."""

    bucket: int
    source: ShardName
    target: ShardName
    migration: str
    version: int
    """That of the release, and of the bucket from then on."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Delete what *shard* still has of a bucket that went with *migration*."""

    bucket: int
    shard: ShardName
    migration: str


Order = Begin | Thaw | Drop | Activate | Clear
