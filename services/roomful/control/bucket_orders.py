"""
What one shard says and is ordered about the buckets that come to it or go.

All of it goes over the connection on which the lead was when it began, and ends with it: WAIT waits
for the writes of its own connection only, and on another would say at once that all is well.
The orders themselves are in shard/functions_moving.lua.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.link import ServerUnreachable
from roomful.control.server import OrderRefused, Server

__all__ = ["BucketOrders", "Dumped", "LogPart"]

SCANNED: Final = 1000
"""Keys that one step of a scan looks at; some 0.3 ms of the server's time."""
CLEARED: Final = 500
LONG: Final = -3
"""What a dump says instead of a time."""
WAIT_S: Final = 0.1
"""One WAIT; others have orders for the connection too."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """Keys of a bucket as they were at one moment."""

    count: int
    """How many of the names that were asked for this is about."""
    names: Sequence[bytes]
    words: Sequence[bytes | int]
    """Of each its DUMP, empty if it is gone, and what is left of its time in ms."""
    long_logs: Sequence[bytes]
    """Those that are copied in parts instead."""

    @property
    def size(self) -> int:
        """Bytes of the contents."""
        return sum(len(word) for word in self.words if isinstance(word, bytes))


@dataclass(frozen=True, slots=True)
class LogPart:
    """Entries of a log."""

    after: bytes
    """The id of the entry that they come after; empty: they are its first."""
    left_ms: int
    is_last: bool
    """Whether these were all there were."""
    newest: int
    """The newest offset of the shard."""
    entries: Sequence[bytes]
    """Id and envelope of each."""

    @property
    def size(self) -> int:
        """Bytes of the contents."""
        return sum(map(len, self.entries))

    @property
    def reached(self) -> int:
        """The offset of the last entry."""
        return int(self.entries[-2].partition(b"-")[0]) if self.entries else 0


class BucketOrders:
    """
    One shard in one term.

    Methods give the record afterwards unless they say otherwise, may be repeated, and raise
    ServerUnreachable, which ends the connection's use for good, and OrderRefused.
    """

    def __init__(
        self, server: Server, shard: ShardName, term: int, *, acks: int, is_fsynced: bool = False
    ) -> None:
        """
        Begin, over the connection that *server* is led on.

        Args:
            acks: how many replicas have to have what shall be safe.
            is_fsynced: whether the primary and these have to have it on disk.

        Raises:
            ServerUnreachable: this controller does not have the lead.
        """
        self.shard = shard
        self._server = server
        self._link = server.lead_link()
        self._term = term
        self._acks = acks
        self._is_fsynced = is_fsynced

    def __repr__(self) -> str:
        return f"{self.shard} (term {self._term}, {self._server.address})"

    @property
    def address(self) -> Address:
        """Where its primary is."""
        return self._server.address

    # At the source --------------------------------------------------------------------------

    async def move(
        self, bucket: int, migration: str, version: int, to: ShardName, *, newest: int
    ) -> str:
        """Let the shard note what changes in the bucket from now on, in version *newest*."""
        return await self._record("move", bucket, migration, version, to, newest)

    async def freeze(self, bucket: int, migration: str, hold_s: float) -> tuple[str, bytes]:
        """Close the bucket for at most *hold_s*; gives also what `complete` needs."""
        hold_ms = int(hold_s * 1000)
        record, words = await self._call("freeze", [_record(bucket)], migration, hold_ms)
        return record.decode(), words

    async def thaw(self, bucket: int, migration: str) -> str:
        """End the attempt here: the bucket stays, unless it was released."""
        return await self._record("thaw", bucket, migration)

    async def release(self, bucket: int, migration: str) -> str:
        """Let go of the bucket, unless its freeze has lapsed."""
        return await self._record("release", bucket, migration)

    async def changed(self, bucket: int, migration: str, count: int) -> list[bytes]:
        """Give at most *count* names of changed keys, which are the caller's to copy now."""
        found: list[bytes] = await self._call("changed", [_record(bucket)], migration, count)
        return found

    async def dump(
        self, names: Sequence[bytes], migration: str, *, limit_bytes: int, log_bytes: int
    ) -> Dumped:
        """Give the first of *names*, all of one bucket: one, and more up to the limit."""
        found = await self._call("dump", names, migration, limit_bytes, log_bytes)
        kept: list[bytes] = []
        words: list[bytes | int] = []
        long_logs: list[bytes] = []
        for name, payload, left_ms in zip(names, found[::2], found[1::2], strict=False):
            if left_ms == LONG:
                long_logs.append(name)
            else:
                kept.append(name)
                words += [payload or b"", left_ms]
        return Dumped(len(found) // 2, kept, words, long_logs)

    async def entries(
        self, log: bytes, migration: str, after: bytes, *, limit_bytes: int
    ) -> LogPart:
        """Give what is new in a log; from its start, if it may not follow on *after*."""
        found = await self._call("entries", [log], migration, after, limit_bytes)
        left_ms, is_from_start, is_more, newest, *entries = found
        return LogPart(b"" if is_from_start else after, left_ms, not is_more, newest, entries)

    # At the target --------------------------------------------------------------------------

    async def begin_import(
        self, bucket: int, migration: str, version: int, origin: ShardName
    ) -> str:
        """Let the shard take copies."""
        return await self._record("begin_import", bucket, migration, version, origin)

    async def take(self, dumped: Dumped, migration: str) -> None:
        """Put copies there."""
        if dumped.names:
            await self._call("import", dumped.names, migration, *dumped.words)

    async def extend(self, log: bytes, part: LogPart, migration: str) -> None:
        """Put entries at the end of what is there of a log."""
        if part.entries or not part.after:
            await self._call("extend", [log], migration, part.after, part.left_ms, *part.entries)

    async def complete(self, bucket: int, migration: str, words: bytes) -> str:
        """Say that everything is there; *words* are those of `freeze`."""
        return await self._record("complete", bucket, migration, words)

    async def activate(self, bucket: int, migration: str, version: int) -> str:
        """Make the shard the owner, in the version in which the source has released it."""
        return await self._record("activate", bucket, migration, version)

    async def drop(self, bucket: int, migration: str) -> str:
        """End the attempt here, once the source has ended it."""
        return await self._record("drop_import", bucket, migration)

    # At both --------------------------------------------------------------------------------

    async def scan(self, buckets: Sequence[int]) -> AsyncIterator[dict[int, list[bytes]]]:
        """Give the names of what is in *buckets*, step by step; a name may come twice."""
        tags = [f"{{{bucket}}}" for bucket in buckets]
        cursor: bytes | int = 0
        while tags and cursor != b"0":
            cursor, *names = await self._call("keys", [], cursor, SCANNED, *tags)
            found: dict[int, list[bytes]] = {}
            for name in names:
                found.setdefault(int(name[1 : name.index(b"}")]), []).append(name)
            if found:
                yield found

    async def clear(self, migrations: Mapping[int, str]) -> int:
        """Delete all that is in some buckets, each gone or being imported by its migration."""
        count = 0
        async for found in self.scan(list(migrations)):
            for bucket, names in found.items():
                count += await self.delete(names, migrations[bucket])
        return count

    async def delete(self, names: Sequence[bytes], migration: str) -> int:
        """Delete some of one bucket, as clear(); gives how many were there."""
        count = 0
        for first in range(0, len(names), CLEARED):
            some = names[first : first + CLEARED]
            count += await self._call("clear", some, migration)
        return count

    async def is_safe(self, timeout_s: float) -> bool:
        """Whether everything ordered here is as safe as an acknowledged message, in time."""
        if not self._acks and not self._is_fsynced:
            return True
        end = asyncio.get_running_loop().time() + timeout_s
        while True:
            wait_ms = int(WAIT_S * 1000)
            if self._is_fsynced:
                reply = await self._send(WAIT_S, "WAITAOF", 1, self._acks, wait_ms)
                if reply[0] >= 1 and reply[1] >= self._acks:
                    return True
            elif await self._send(WAIT_S, "WAIT", self._acks, wait_ms) >= self._acks:
                return True
            if asyncio.get_running_loop().time() >= end:
                return False

    async def _record(self, order: str, bucket: int, *words: str | int | bytes) -> str:
        record: bytes = await self._call(order, [_record(bucket)], *words)
        return record.decode()

    async def _call(
        self, order: str, keys: Sequence[str | bytes], *words: str | int | bytes
    ) -> Any:
        function = f"roomful_v1_{order}"
        return await self._send(0.0, "FCALL", function, len(keys), *keys, self._term, *words)

    async def _send(self, patience_s: float, *words: str | int | bytes) -> Any:
        address = self._server.address
        if self._server.lead_link() is not self._link:
            raise ServerUnreachable(address, "the connection that this began on is gone")
        (reply,) = await self._link.pipeline([words], patience_s=patience_s)
        if isinstance(reply, ResponseError):
            raise OrderRefused(address, " ".join(map(str, words[:2])), str(reply))
        return reply


def _record(bucket: int) -> str:
    return f"{{{bucket}}}b"
