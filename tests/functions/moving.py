"""A bucket's move done by hand, a step at a time, and what a bucket has in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from functions.calls import TERM, Calls, Post, bucket_of
from functions.edges import Edge

__all__ = [
    "SESSION",
    "A",
    "Arrival",
    "B",
    "Journey",
    "Segment",
    "back",
    "bucket_keys",
    "contents",
    "fill",
    "lineage",
]

A, B = bucket_of("a"), bucket_of("b")
SESSION = f"{A}o:pid"
LONG = -3


def fill(shard: Calls) -> Edge:
    """Leave something of each kind in the bucket, and in another one."""
    shard.store(Post("a", name="x"), Post("e", "2"), Post("a", "3", user="bob"), Post("b", "4"))
    edge = Edge(shard)
    edge.join("alice", status="away")
    edge.join("bob")
    edge.join("carol")
    edge.leave("bob", grace_ms=10_000)
    shard("save_session", [SESSION], TERM, 1, 1, b"record", 60_000, 0)
    return edge


class Segment(msgspec.Struct, array_like=True, frozen=True):
    """A part of a bucket's lineage."""

    shard: str
    upto: int
    terms: list[tuple[int, int]]
    lost: int


class Arrival(msgspec.Struct, frozen=True):
    """What a shard says of a bucket that came to it."""

    bucket: int
    version: int
    origin: str
    upto: int
    since: int

    @classmethod
    def parse(cls, words: bytes) -> Arrival:
        """Read what is published: bucket, version, from, upto, since."""
        bucket, version, origin, upto, since = words.decode().split()
        return cls(int(bucket), int(version), origin, int(upto), int(since))


_lineage = msgspec.msgpack.Decoder(list[Segment])


def lineage(shard: Calls, tag: str) -> tuple[int, list[Segment]]:
    """Give a bucket's version and lineage."""
    version, packed = shard("lineage", [f"{tag}b"], TERM)
    return version, _lineage.decode(packed)


def bucket_keys(shard: Calls, *tags: str, term: int = TERM) -> list[str]:
    """Give all names in some buckets that a move copies."""
    found: set[str] = set()
    cursor: bytes | int = 0
    while True:
        cursor, *names = shard("keys", [], term, cursor, 10, *tags)
        found |= {name.decode() for name in names}
        if cursor == b"0":
            return sorted(found)


def contents(shard: Calls, tag: str) -> Mapping[str, object]:
    """Give all that a bucket has, by key: its value, and whether it ends by itself."""
    found = {name: _content(shard, name) for name in bucket_keys(shard, tag) if name[-1] != "h"}
    # A log of which everything was erased is as good as none.
    return {name: content for name, content in found.items() if content[0] != []}


def _content(shard: Calls, name: str) -> tuple[Any, bool]:
    if name[name.index("}") :].startswith("}d:"):
        for key in shard.command("KEYS", "{ids}*"):
            if (value := shard.command("HGET", key, name)) is not None:
                return value.rsplit(b" ", 1)[0], True
    ends = shard.command("PTTL", name) > 0
    match shard.command("TYPE", name):
        case b"stream":
            return shard.command("XRANGE", name, "-", "+"), ends
        case b"zset":
            return shard.command("ZRANGE", name, 0, -1, "WITHSCORES"), ends
        case b"hash":
            return shard.command("HGETALL", name), ends
        case b"string":
            return shard.command("GET", name), ends
        case other:
            raise AssertionError(f"{name} is {other}")


@dataclass
class Journey:
    """An attempt to move the bucket *tag*."""

    source: Calls
    target: Calls
    tag: str
    migration: str = "m1"
    version: int = 1
    origin: str = "s1"
    to: str = "s2"
    parting: bytes = b""
    term: int = TERM
    """The source's."""
    is_released: bool = False
    log_bytes: int = 1 << 20
    """Logs that take more are copied in parts."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """Of these logs the last entry that was copied."""

    @property
    def key(self) -> str:
        """The bucket's record."""
        return f"{self.tag}b"

    @property
    def steps(self) -> tuple[Callable[[], object], ...]:
        """Its steps in their order, each as it is taken when nothing goes wrong."""
        return (
            self.begin,
            self.copy_all,
            self.freeze,
            self.round,
            self.complete,
            self.release,
            self.activate,
        )

    def begin(self) -> None:
        """Let the source note what changes, and the target take copies, with nothing left there."""
        self.source("move", [self.key], self.term, self.migration, self.version, self.to)
        self.target("begin_import", [self.key], TERM, self.migration, self.version, self.origin)
        self.clear(self.target)

    def clear(self, shard: Calls) -> None:
        """Delete the bucket's keys."""
        term = self.term if shard is self.source else TERM
        if names := bucket_keys(shard, self.tag, term=term):
            shard("clear", names, term, self.migration)

    def copy(self, names: Sequence[str], limit: int = 1 << 20) -> int:
        """Copy some keys as they are now; gives in how many batches."""
        for name in names:
            if name.startswith(f"{self.tag}e:"):
                self.sent.pop(name.replace("}e:", "}l:"), None)
        names = list(dict.fromkeys(name.replace("}e:", "}l:") for name in names))
        batches = 0
        while names:
            words = self.term, self.migration, limit, self.log_bytes
            dumped = self.source("dump", names, *words)
            count = len(dumped) // 2
            sent: list[Any] = []
            for name, payload, left in zip(names, dumped[::2], dumped[1::2], strict=False):
                if left == LONG:
                    self.copy_log(name, limit)
                else:
                    self.sent.pop(name, None)
                    sent += [name, payload or b"", left]
            some = sent[::3]
            pairs = [word for index, word in enumerate(sent) if index % 3]
            if some:
                assert self.target("import", some, TERM, self.migration, *pairs) == len(some)
            names = names[count:]
            batches += 1
        return batches

    def copy_log(self, name: str, limit: int) -> None:
        """Copy what is new in a log."""
        while True:
            after = self.sent.get(name, b"")
            words = self.term, self.migration, after, limit
            left, is_from_start, is_more, _, *entries = self.source("entries", [name], *words)
            if is_from_start:
                after = b""
            if entries or is_from_start:
                self.target("extend", [name], TERM, self.migration, after, left, *entries)
            if entries:
                self.sent[name] = entries[-2]
            if not is_more:
                return

    def copy_all(self) -> None:
        """Copy every key."""
        self.copy(bucket_keys(self.source, self.tag, term=self.term))

    def round(self, count: int = 1000) -> list[str]:
        """Copy what has changed since; gives the names."""
        names = [
            name.decode()
            for name in self.source("changed", [self.key], self.term, self.migration, count)
        ]
        self.copy(names)
        return names

    def freeze(self, hold_ms: int = 2000) -> None:
        """Begin the pause."""
        _, self.parting = self.source("freeze", [self.key], self.term, self.migration, hold_ms)

    def complete(self) -> str:
        """Tell the target that it has everything."""
        return self._say(self.target("complete", [self.key], TERM, self.migration, self.parting))

    def release(self) -> str:
        """Let the source give the bucket up."""
        record = self.source("release", [self.key], self.term, self.migration)
        self.is_released = True
        return self._say(record)

    def activate(self) -> str:
        """Open it at the target."""
        version = self.source.record(self.tag).split()[1]
        return self._say(self.target("activate", [self.key], TERM, self.migration, version))

    def abort(self) -> None:
        """Let it be, as if nothing had been."""
        self.source("thaw", [self.key], self.term, self.migration)
        self.target("drop_import", [self.key], TERM, self.migration)

    def freeze_and_copy(self) -> None:
        """Do what comes first when nothing goes wrong."""
        self.begin()
        self.copy_all()
        self.freeze()
        self.round()

    def travel(self) -> None:
        """Do everything."""
        self.freeze_and_copy()
        self.complete()
        self.release()
        self.activate()
        self.clear(self.source)

    @staticmethod
    def _say(record: bytes) -> str:
        return record.decode()


def back(journey: Journey, migration: str, version: int) -> Journey:
    """Give the journey in the other direction."""
    return Journey(
        journey.target,
        journey.source,
        journey.tag,
        migration,
        version,
        journey.to,
        journey.origin,
    )
