"""
The outbox of one shard, as an archiver reads it: by consumer group, together with others.

Several archivers share a shard: each entry goes to one of them, and when that one dies another
claims it after a while. An entry leaves the outbox when it is archived, never before, so after a
failover (where what was fetched or settled last may be unknown again) some come a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from roomful.archive.base import Letter
from roomful.cluster.cursor import ShardName
from roomful.shard.message import Entry
from roomful.shard.publication import Publication, decode_message
from roomful.shard.resp import ReplyError, RespConnection

__all__ = ["Batch", "Outbox", "OutboxStatus", "WrongShard"]

KEY: Final = "roomful:outbox"
GROUP: Final = "archive"
SETTLED: Final = 1_000
"""Entries of one call that settles them."""
IDLE_MS: Final = 3_600_000
"""After so long an archiver that has nothing fetched is forgotten."""


Fetched = Sequence[tuple[bytes, Sequence[bytes] | None]]
"""Ids, and fields as names and values in turn; None where the entry is settled already."""


class WrongShard(Exception):
    """What answers is another shard than the topology says."""


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How far the archive is behind."""

    newest: int
    """The shard's newest offset."""
    oldest: int
    """Of the oldest entry; 0 if there is none: all before it is archived."""
    age_ms: int
    entries: int
    bytes: int
    unarchived: int
    """The newest offset that was stored while the outbox was full: not all up to it is archived."""

    @property
    def archived(self) -> int:
        """The offset up to which everything that came into the outbox is archived."""
        return self.newest if self.oldest == 0 else self.oldest - 1


class Batch:
    """Entries of the outbox that were fetched, as messages."""

    # Mutable state: what was added so far.
    def __init__(self, shard: ShardName) -> None:
        self.shard = shard
        self.ids: list[bytes] = []
        self.sizes: list[int] = []
        self.entries: list[Entry] = []
        self.letters: list[Letter] = []

    @property
    def size(self) -> int:
        """The bytes of all that was fetched."""
        return sum(self.sizes)

    def add(self, number: bytes, fields: Sequence[bytes] | None) -> None:
        """Add one entry; what cannot be read is a dead letter, and None is settled already."""
        if fields is None:
            self.ids.append(number)
            self.sizes.append(0)
            return
        named = dict(zip(fields[::2], fields[1::2], strict=False))
        payload = named.get(b"p", b"")
        self.ids.append(number)
        self.sizes.append(len(payload) + len(named.get(b"r", b"")))
        message, unread = decode_message(payload)
        if isinstance(message, Publication):
            self.entries += message.entries
        else:
            unread = max(1, unread)
        if unread:
            offset = int(number.split(b"-")[0])
            raw = msgspec.msgpack.encode(named)
            reason = f"{unread} of its messages cannot be read"
            self.letters.append(Letter(self.shard, offset, raw, reason))


class Outbox:
    """The outbox on one connection to the shard's primary; all may raise LostConnection."""

    def __init__(self, connection: RespConnection, shard: ShardName, consumer: str) -> None:
        """Use *connection*; *consumer* is this archiver's name, unlike any other's."""
        self._connection = connection
        self._shard = shard
        self._consumer = consumer

    async def open(self) -> None:
        """
        Make sure of the shard, and of the group.

        Raises:
            WrongShard, ReplyError.
        """
        name = await self._connection.call("HGET", "roomful:shard", "name")
        if name != self._shard.encode():
            raise WrongShard(f"this is {name!r}, not {self._shard}")
        try:
            await self._connection.call("XGROUP", "CREATE", KEY, GROUP, "0", "MKSTREAM")
        except ReplyError as exc:
            if not str(exc).startswith("BUSYGROUP"):
                raise

    async def fetch(self, count: int, block_ms: int) -> Fetched:
        """Give new entries, at most *count*; none when none came in *block_ms*."""
        return await self._read(">", "COUNT", count, "BLOCK", block_ms)

    async def fetched(self, count: int) -> Fetched:
        """Give the oldest entries that this archiver fetched before and has not settled."""
        return await self._read("0", "COUNT", count)

    async def _read(self, after: str, *options: str | int) -> Fetched:
        reply = await self._connection.call(
            *("XREADGROUP", "GROUP", GROUP, self._consumer, *options, "STREAMS", KEY, after)
        )
        if not reply:
            return ()
        entries: Fetched = reply[KEY.encode()]
        return entries

    async def claim(self, count: int, after_ms: int) -> Fetched:
        """Take over entries that somebody fetched *after_ms* ago and has not settled."""
        reply = await self._connection.call(
            "XAUTOCLAIM", KEY, GROUP, self._consumer, after_ms, "0-0", "COUNT", count
        )
        entries: Fetched = reply[1]
        return entries

    async def wait(self, replicas: int, timeout_ms: int) -> bool:
        """
        Wait until *replicas* have all that was fetched; says whether they do.

        Fetching is a write of this connection, behind what it fetched: what fewer replicas have
        may be gone after a failover, and come again under another offset.
        """
        if replicas == 0:
            return True
        have: int = await self._connection.call("WAIT", replicas, timeout_ms)
        return have >= replicas

    async def settle(self, batch: Batch) -> None:
        """Let go of what is archived."""
        for first in range(0, len(batch.ids), SETTLED):
            some = slice(first, first + SETTLED)
            size, ids = sum(batch.sizes[some]), batch.ids[some]
            await self._connection.call("FCALL", "roomful_v1_archived", 0, size, *ids)

    async def status(self) -> OutboxStatus:
        """Give how far the archive is behind."""
        numbers = await self._connection.call("FCALL_RO", "roomful_v1_outbox", 0)
        return OutboxStatus(*map(int, numbers))

    async def forget_idle(self) -> None:
        """Forget archivers that are gone and have nothing fetched."""
        for one in await self._connection.call("XINFO", "CONSUMERS", KEY, GROUP):
            if one[b"pending"] == 0 and one[b"idle"] > IDLE_MS:
                await self._connection.call("XGROUP", "DELCONSUMER", KEY, GROUP, one[b"name"])

    async def leave(self) -> None:
        """Forget this archiver, which has settled all."""
        await self._connection.call("XGROUP", "DELCONSUMER", KEY, GROUP, self._consumer)
