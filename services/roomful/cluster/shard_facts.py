"""
What is known of one shard at one moment, and what can be ordered: the words of failover.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from roomful.cluster.topology import Address, ShardRecord

__all__ = [
    "NO_PLACE",
    "Attach",
    "Fence",
    "HandOver",
    "Order",
    "Patience",
    "Promote",
    "Publish",
    "ServerFacts",
    "ShardFacts",
    "TakeTerm",
    "Wish",
]

NO_PLACE: Final = 1
"""
The offset that a replica gives which has lost its place in the stream: it began to copy
everything anew, and did not come to its end. No command is so short that it could be a real one.
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one server says about itself."""

    address: Address
    run_id: str
    """The process: another one after each start."""
    is_primary: bool
    """Whether it takes writes; a sealed server and a replica do not."""
    stream: str = ""
    """The replication id: offsets of the same stream can be compared."""
    offset: int = 0
    """How much of the stream it has, in bytes; NO_PLACE: nobody can say."""
    previous: str = ""
    """The stream that it was on before this one, and had up to *turned_at*."""
    turned_at: int = 0
    upstream: Address | None = None
    """Whom it follows; None: nobody, it is a primary or sealed."""
    is_linked: bool = False
    """Whether it hears the one whom it follows."""
    silence_s: float | None = None
    """Seconds since it last did; None: never."""
    is_copying: bool = False
    """Whether it reads its file or gets everything anew: what it has is not whole."""
    is_handing_over: bool = False
    shard: str | None = None
    """The shard whose data it has; None: no data, or nobody can say."""
    has_nothing: bool = False
    """Whether it is certain that it has no shard's data."""
    term: int = 0
    sequence: int = 0
    """The newest offset given out, as its data says."""
    base: int = 0
    """The newest offset before its term began."""
    online: frozenset[Address] = frozenset()
    """The replicas that follow this primary and are whole."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person, or a rolling restart, wants of the shard."""

    hand_over: bool = False
    """Let a replica take the role, with the primary's consent."""
    target: Address | None = None
    """Which one; None: the one that has most."""
    force: bool = False
    """Promote without a quorum: what only missing servers have is lost."""


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One shard at one moment: what is recorded, and what is seen."""

    name: str
    record: ShardRecord
    acks: int
    """W: how many replicas have a message before its sender hears that it is stored."""
    seen: Mapping[Address, ServerFacts]
    """The servers of the record that answered."""
    missing_s: Mapping[Address, float] = field(default_factory=dict)
    """For how many seconds each of the others has not."""
    wish: Wish = Wish()

    @property
    def servers(self) -> tuple[Address, ...]:
        """All of the record, the primary first."""
        return (self.record.primary, *self.record.replicas)


@dataclass(frozen=True, slots=True)
class Patience:
    """When a silence is a death."""

    fail_after_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Fence:
    """Make *server* listen to nobody."""

    server: Address


@dataclass(frozen=True, slots=True)
class Promote:
    """Make *server* a primary."""

    server: Address


@dataclass(frozen=True, slots=True)
class TakeTerm:
    """Begin *term* at the primary *server*; it takes nothing of another term after."""

    server: Address
    term: int


@dataclass(frozen=True, slots=True)
class Attach:
    """Make *server* a replica of *primary*; close its clients' connections if it was one itself."""

    server: Address
    primary: Address


@dataclass(frozen=True, slots=True)
class HandOver:
    """Let *primary* change places with *target* when that has everything."""

    primary: Address
    target: Address


@dataclass(frozen=True, slots=True)
class Publish:
    """Put *record* into the topology: edges may use it."""

    record: ShardRecord


Order = Fence | Promote | TakeTerm | Attach | HandOver | Publish
