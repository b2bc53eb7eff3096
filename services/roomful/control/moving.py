"""
One attempt to move some buckets from a shard to others, while everything is used.

The data is copied while the source is open for everything, then what has changed meanwhile, in
rounds; then one bucket after the other is closed for the rest, some milliseconds, and opened at its
target. The order of the steps and what each rests on is docs/adr/0020-moving-a-bucket.md.

An attempt lives in the memory of who makes it. If it ends early its buckets are where they were,
open; if it cannot see to that it says so, and whoever comes next settles it by the records: it
gives up what is not released (the source first: thaw, then drop), and finishes what is: finish().
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, Final, ParamSpec

from roomful.control.bucket_orders import BucketOrders
from roomful.control.link import ServerUnreachable
from roomful.control.server import OrderRefused
from roomful.protocol.errors import RoomfulError

__all__ = ["Attempt", "MoveLimits", "Outcome", "Parcel", "Progress", "finish"]

logger = logging.getLogger("roomful.control")

P = ParamSpec("P")

SAFE_S: Final = 1.5
CHANGED: Final = 1000
"""Names of changed keys that are asked for at a time."""
NAMED: Final = 200_000
"""Names that are remembered to delete by, some 25 MB; for more all that the shard has is read."""


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """How much at once, and how long."""

    batch_bytes: int = 1 << 20
    """After so many bytes a batch of copies ends; one key may be larger."""
    log_bytes: int = 256 << 10
    """Logs that take more are copied in parts, and then what is new in them; others whole."""
    small_round: int = 64
    """The pause begins after a round with at most so many keys,"""
    rounds: int = 20
    """or after so many of them."""
    hold_s: float = 2.0
    """How long a bucket may be closed; the shard opens it again by itself."""
    safe_s: float = SAFE_S
    """How long replicas may take to have what has to be safe."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A bucket to move."""

    bucket: int
    version: int
    """The one in which the source owns it."""
    newest: int
    """The one in which it leaves: the newest that any shard remembers."""
    target: BucketOrders
    is_clear: bool = False
    """Whether *target* has nothing of it yet, for certain."""


@dataclass(slots=True)
class Progress:
    """How far an attempt is; all numbers are sums over its buckets."""

    keys: int = 0
    """Copied; those that changed count again."""
    size_bytes: int = 0
    rounds: int = 0
    pauses_ms: dict[int, float] = field(default_factory=dict)
    """How long each bucket that has moved was closed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the buckets of an attempt are; each is in one of the three."""

    moved: Mapping[int, int]
    """At their targets, in these versions."""
    kept: Mapping[int, str]
    """At the source, open for everything, and why."""
    unsettled: Mapping[int, str]
    """Nobody has seen to it where they are, and why; the records will say."""
    uncleared: str
    """Why the source still has data of what moved; empty: it has none."""
    progress: Progress


class _Stopped(RoomfulError):
    """Someone does not want it any more."""


class Attempt:
    """
    Moves buckets from one shard, once.

    Cancelling the task ends it as the death of the controller would: the connection is gone too,
    and the buckets are as they are. stop() ends it in order.
    """

    # Mutable state: the buckets that are still to be moved, where the others are, the last entry
    # that was sent of each long log, what was copied of each bucket (None: too much to remember),
    # how far it is, and whether it shall stop.
    def __init__(
        self,
        source: BucketOrders,
        parcels: Sequence[Parcel],
        *,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
        limits: MoveLimits | None = None,
    ) -> None:
        self.migration: Final = secrets.token_hex(8)
        """The name of this attempt in the records of the shards."""
        self.progress = Progress()
        self._source = source
        self._left = {parcel.bucket: parcel for parcel in parcels}
        self._moved: dict[int, int] = {}
        self._kept: dict[int, str] = {}
        self._unsettled: dict[int, str] = {}
        self._sent: dict[bytes, bytes] = {}
        self._named: dict[int, set[bytes]] | None = {bucket: set() for bucket in self._left}
        self._on_progress = on_progress
        self._limits = limits or MoveLimits()
        self._why_stopped: str | None = None

    @property
    def buckets(self) -> Sequence[int]:
        """The buckets that are not moved yet, nor given up."""
        return list(self._left)

    def stop(self, why: str) -> None:
        """Give up what is not moved yet, at the next step; run() ends soon."""
        self._why_stopped = why

    async def run(self) -> Outcome:
        """Move what can be moved, and say where everything is; no server's failure is raised."""
        try:
            await self._prepare()
            await self._copy_all()
            for bucket in self.buckets:
                await self._try(bucket, self._catch_up)
            for bucket in self.buckets:
                await self._try(bucket, self._switch)
        except (ServerUnreachable, OrderRefused, _Stopped) as exc:
            for bucket in self.buckets:
                await self._give_up(bucket, str(exc))
        uncleared = await self._clear_source()
        return Outcome(self._moved, self._kept, self._unsettled, uncleared, self.progress)

    # The steps ------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        for bucket in self.buckets:
            await self._try(bucket, self._begin)
        targets = {parcel.target for parcel in self._left.values()}
        for target in targets:
            mine = [
                one
                for one, parcel in self._left.items()
                if parcel.target is target and not parcel.is_clear
            ]
            # Left there by an earlier stay, or by an attempt that was given up.
            await target.clear(dict.fromkeys(mine, self.migration))

    async def _begin(self, parcel: Parcel) -> None:
        to, origin = parcel.target.shard, self._source.shard
        bucket, newest = parcel.bucket, parcel.newest
        await self._source.move(bucket, self.migration, parcel.version, to, newest=newest)
        await parcel.target.begin_import(bucket, self.migration, newest, origin)

    async def _copy_all(self) -> None:
        async for found in self._source.scan(self.buckets):
            for bucket, names in found.items():
                await self._try(bucket, self._copy, names)

    async def _copy(self, parcel: Parcel, names: Sequence[bytes]) -> None:
        limits = self._limits
        self._remember(parcel.bucket, names)
        while names:
            dumped = await self._source.dump(
                names,
                self.migration,
                limit_bytes=limits.batch_bytes,
                log_bytes=limits.log_bytes,
            )
            await parcel.target.take(dumped, self.migration)
            for name in dumped.names:
                self._sent.pop(name, None)
            self._count(len(dumped.names), dumped.size)
            for log in dumped.long_logs:
                await self._copy_log(parcel, log)
            names = names[dumped.count :]

    def _remember(self, bucket: int, names: Sequence[bytes]) -> None:
        if self._named is not None:
            self._named[bucket].update(names)
            if sum(map(len, self._named.values())) > NAMED:
                self._named = None

    async def _copy_log(self, parcel: Parcel, log: bytes) -> None:
        """Copy a log up to where it is now; what comes meanwhile is named again by `changed`."""
        limit_bytes, newest = self._limits.batch_bytes, None
        while True:
            after = self._sent.get(log, b"")
            part = await self._source.entries(log, self.migration, after, limit_bytes=limit_bytes)
            await parcel.target.extend(log, part, self.migration)
            if part.entries:
                self._sent[log] = part.entries[-2]
            newest = part.newest if newest is None else newest
            is_done = part.is_last or part.reached >= newest
            self._count(is_done, part.size)
            if is_done:
                return

    def _count(self, keys: int, size_bytes: int) -> None:
        self.progress.keys += keys
        self.progress.size_bytes += size_bytes
        self._on_progress(self.progress)
        self._check()

    async def _catch_up(self, parcel: Parcel) -> None:
        """Copy what changed meanwhile, until that is little."""
        for _ in range(self._limits.rounds):
            count = await self._round(parcel)
            if count <= self._limits.small_round:
                return

    async def _round(self, parcel: Parcel) -> int:
        names = await self._source.changed(parcel.bucket, self.migration, CHANGED)
        await self._copy(parcel, self._take_back(parcel.bucket, names))
        self.progress.rounds += 1
        return len(names)

    def _take_back(self, bucket: int, names: Sequence[bytes]) -> Sequence[bytes]:
        """Forget what was sent of logs that lost entries; gives the names of keys, each once."""
        erased, log = b"{%d}e:" % bucket, b"{%d}l:" % bucket
        keys = [
            log + name.removeprefix(erased) if name.startswith(erased) else name for name in names
        ]
        for name, key in zip(names, keys, strict=True):
            if name is not key:
                self._sent.pop(key, None)
        return list(dict.fromkeys(keys))

    async def _switch(self, parcel: Parcel) -> None:
        bucket, target, now = parcel.bucket, parcel.target, asyncio.get_running_loop().time
        began = now()
        _, words = await self._source.freeze(bucket, self.migration, self._limits.hold_s)
        while await self._round(parcel) == CHANGED:
            pass
        await target.complete(bucket, self.migration, words)
        if not await target.is_safe(self._limits.safe_s):
            raise OrderRefused(target.address, "WAIT", "too few replicas have the copy")
        record = await self._source.release(bucket, self.migration)
        # From here on it can only go forward: no failure means that the bucket stays.
        del self._left[bucket]
        self._unsettled[bucket] = f"{self._source} has released it; {target} has yet to open it"
        version = int(record.split()[1])
        try:
            await _open(self._source, target, bucket, self.migration, version, self._limits.safe_s)
        except OrderRefused as exc:
            self._unsettled[bucket] += f": {exc}"
            return
        del self._unsettled[bucket]
        self._moved[bucket] = version
        self.progress.pauses_ms[bucket] = (now() - began) * 1000
        self._on_progress(self.progress)
        logger.info(
            "bucket moved",
            extra={
                "bucket": bucket,
                "source": self._source.shard,
                "target": target.shard,
                "version": version,
                "pause_ms": round(self.progress.pauses_ms[bucket], 1),
            },
        )
        self._check()

    async def _clear_source(self) -> str:
        try:
            if self._named is None:
                await self._source.clear(dict.fromkeys(self._moved, self.migration))
            else:
                # What was not named was not copied either, and that is all that there was.
                for bucket in self._moved:
                    await self._source.delete(list(self._named[bucket]), self.migration)
        except (ServerUnreachable, OrderRefused) as exc:
            return str(exc)
        return ""

    # When it does not come to it ------------------------------------------------------------

    def _check(self) -> None:
        if self._why_stopped is not None:
            raise _Stopped(self._why_stopped)

    async def _try(
        self,
        bucket: int,
        step: Callable[Concatenate[Parcel, P], Awaitable[None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Take a step with a bucket that is still to be moved; refused, it stays and others go."""
        parcel = self._left.get(bucket)
        if parcel is None:
            return
        try:
            await step(parcel, *args, **kwargs)
        except OrderRefused as exc:
            await self._give_up(bucket, str(exc))

    async def _give_up(self, bucket: int, why: str) -> None:
        """See to it that a bucket stays, or say that nobody knows whether it does."""
        parcel = self._left.pop(bucket, None)
        if parcel is None:
            return
        try:
            record = await self._source.thaw(bucket, self.migration)
        except (ServerUnreachable, OrderRefused) as exc:
            self._unsettled[bucket] = f"{why}; and it could not be given up: {exc}"
            return
        if record.startswith("GONE "):
            # The reply to the release was lost.
            self._unsettled[bucket] = f"{why}; and {self._source} has {record}"
            return
        self._kept[bucket] = why
        logger.warning("bucket stays", extra={"bucket": bucket, "why": why})
        try:
            await parcel.target.drop(bucket, self.migration)
            await parcel.target.clear({bucket: self.migration})
        except (ServerUnreachable, OrderRefused) as exc:
            # It is no part of anything: whoever comes next drops it.
            logger.info("copy not dropped", extra={"bucket": bucket, "why": str(exc)})


async def finish(
    source: BucketOrders,
    target: BucketOrders,
    bucket: int,
    migration: str,
    *,
    version: int,
    safe_s: float = SAFE_S,
) -> str:
    """
    Open a bucket at *target* that *source* has released, whoever made the attempt.

    Args:
        version: the one in which it was released.

    Raises:
        ServerUnreachable, OrderRefused: it is not done, and may be tried again; the latter also if
            the replicas of the source do not have the release.
    """
    # Again, since a new connection has no write yet that WAIT could wait for.
    await source.release(bucket, migration)
    return await _open(source, target, bucket, migration, version, safe_s)


async def _open(
    source: BucketOrders,
    target: BucketOrders,
    bucket: int,
    migration: str,
    version: int,
    safe_s: float,
) -> str:
    if not await source.is_safe(safe_s):
        raise OrderRefused(source.address, "WAIT", "too few replicas know of the release")
    return await target.activate(bucket, migration, version)
