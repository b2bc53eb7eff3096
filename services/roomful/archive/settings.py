"""The settings of the archive: of those who fill it (`roomful archive`) and those who read it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from roomful.archive.base import Rule
from roomful.archive.retention import parse_rules
from roomful.cluster.glob import Glob

__all__ = ["ArchiveSettings", "RoomClass", "classes_by_key"]

RoomClass = str
"""`1` required, `0` best effort, `-` off: as the function library takes it."""

_CLASSES: Final = {"required": "1", "best-effort": "0", "off": "-"}
_POSITIVE: Final = (
    "connections",
    "timeout_s",
    "outbox_entries",
    "outbox_bytes",
    "retention_every_s",
    "partition_days",
    "batch_messages",
    "batch_bytes",
    "batch_age_s",
    "claim_after_s",
)
_CLASS_RULE: Final = re.compile(r"(.{1,255})=(required|best-effort|off)")


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Where messages are kept for good, and how they come there."""

    # The PostgreSQL of a cluster, postgresql://user:password@host:port/database; PgBouncer in
    # transaction mode will do. Empty: one process keeps its history in SQLite in state_dir.
    url: str = ""
    # Connections to it, of each process.
    connections: int = 4
    # Seconds for one statement of the hot paths; after that the archive counts as unavailable.
    timeout_s: float = 10.0
    # Which rooms are archived, by pattern; the first that fits counts. required: publishes are
    # refused (ARCHIVE_LAGGING) while the outbox is full; best-effort: they go on, and the archive
    # may miss them; off: not archived.
    rooms: tuple[str, ...] = ("*=required",)
    # Entries (of one room and batch each) that a shard keeps for the archiver.
    outbox_entries: int = 500_000
    # Their bytes.
    outbox_bytes: int = 256 << 20
    # How long messages are kept, by pattern, such as temp-*=1d, *=365d (h, d, or forever); the
    # first that fits counts, and without one they stay for good.
    retention: tuple[str, ...] = ()
    # Seconds between two rounds of retention and of making partitions.
    retention_every_s: float = 3600.0
    # Days of one partition. It is dropped whole, so the longest rule of retention may let go so
    # many days late; and a page of history looks into each, so many partitions make it slow.
    partition_days: int = 28
    # Messages of one transaction at most.
    batch_messages: int = 10_000
    # Their bytes.
    batch_bytes: int = 8 << 20
    # Seconds that a message waits for others before they are written together.
    batch_age_s: float = 0.2
    # Seconds after which another archiver takes over what one had fetched and not written.
    claim_after_s: float = 30.0
    # The port of the archiver's metrics and probes; 0: none.
    port: int = 9180

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, check in (
            ("retention", lambda: self.rules),
            ("rooms", lambda: self.classes),
        ):
            _collect(f"archive.{name}", check, problems)
        if self.url and not self.url.startswith(("postgresql://", "postgres://")):
            problems.append("archive.url: postgresql://user:password@host:port/database")
        problems += [
            f"archive.{name} must be above 0"
            for name in _POSITIVE
            if not 0 < getattr(self, name) < math.inf
        ]
        if not 0 <= self.port <= 65535:
            problems.append(f"archive.port {self.port} is not between 0 and 65535")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of retention."""
        return parse_rules(self.retention)

    @property
    def classes(self) -> Callable[[str], RoomClass]:
        """What gives the class of a room; `-` when no pattern fits."""
        found = []
        for word in self.rooms:
            match = _CLASS_RULE.fullmatch(word)
            if match is None:
                raise ValueError(f"{word!r}: a pattern, =, and required, best-effort or off")
            found.append((Glob(frozenset([match[1]])), _CLASSES[match[2]]))

        @lru_cache(maxsize=65_536)
        def class_of(room: str) -> RoomClass:
            return next((one for glob, one in found if glob.matches(room)), "-")

        return class_of


def classes_by_key(settings: ArchiveSettings) -> RoomClass | Callable[[bytes], RoomClass]:
    """Give the one class of all rooms, or what gives that of a room by the key of its log."""
    if len(settings.rooms) == 1 and settings.rooms[0].startswith("*="):
        return settings.classes("")
    class_of = settings.classes

    @lru_cache(maxsize=65_536)
    def class_of_key(key: bytes) -> RoomClass:
        return class_of(key.split(b"}l:", 1)[1].decode())

    return class_of_key


def _collect(name: str, check: Callable[[], object], problems: list[str]) -> None:
    try:
        check()
    except ValueError as exc:
        problems.append(f"{name}: {exc}")
