"""
Group commit: what an edge publishes on half of a shard's buckets, one batch at a time.

While a batch is under way what comes waits, and is the next batch: the busier, the cheaper a
message. A batch is one FCALL and one WAIT (WAITAOF where a message has to be on disk), written
together; a message is acknowledged when both say so. Everything else is not an answer, and the
same messages go out again, with the same ids, before anything that came after them:

- the connection was lost, the shard did not answer, or WAIT counted too few replicas: nobody
  knows which messages are safe, and the shard knows by their ids which it has stored;
- the shard refused the whole batch (another term, loading, not a primary): nothing was stored;
- the bucket is elsewhere, frozen, or of another version: routes.py takes the bucket's messages
  back, with those that wait here, and brings them where they belong.

So per bucket at most one batch is under way, from whatever shard, and nothing can overtake
(docs/adr/0007-function-library.md; model-checked). A message that could not be stored in
*publish_timeout_s* is refused as retryable; it may have been stored all the same, which its
sender finds out by sending it again with its id.

A message without a name of its sender's has an id of its edge's, for these retries alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import PublishStatistics, Stored
from roomful.shard.batch import PublishRules, pack_batch
from roomful.shard.durability import Durability
from roomful.shard.link import Link
from roomful.shard.post import Post, RouteState
from roomful.shard.resp import Backoff, Login, LostConnection, ReplyError

__all__ = ["Commit", "CommitLimits", "CommitStatistics"]

logger = logging.getLogger("roomful.shard")

_SPARE_S: Final = 2.0
"""What a reply may take on top of the time that WAIT waits."""


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """How large a batch is, and how long anyone waits."""

    batch_messages: int = 512
    batch_bytes: int = 1 << 20
    wait_s: float = 1.0
    """How long one WAIT waits for the replicas; then the batch goes out again."""
    publish_timeout_s: float = 10.0
    """After so long a message that is not safe yet is refused."""


@dataclass(slots=True)
class CommitStatistics(PublishStatistics):
    """The same over all shards of an edge, and what only a network does."""

    batch_s: float = 0.0
    """Seconds that batches were under way, together."""
    short_waits: int = 0
    """Batches that too few replicas had in time: they went out again."""
    lost_batches: int = 0
    """Batches whose connection was lost: they went out again."""
    refused_batches: int = 0
    """Batches that a shard refused as a whole."""
    rerouted: int = 0
    """Messages that a shard refused because of their bucket."""
    expired: int = 0
    """Publishes refused because they were not safe in time."""
    casts_dropped: int = 0
    """Events that are not stored and could not be sent."""


class Commit:
    """The batches of some of a shard's buckets, one at a time."""

    # Mutable state: what waits, oldest first; the batch that is under way with what came back of
    # it so far; whether sending is put off; and what a change of route waits for.
    def __init__(
        self,
        shard: ShardName,
        edge: str,
        rules: PublishRules,
        *,
        limits: CommitLimits,
        statistics: CommitStatistics,
        login: Login | None = None,
    ) -> None:
        self.shard = shard
        self.statistics = statistics
        self._limits = limits
        self._rules = rules
        self._durability = Durability()
        self._wait = b""
        self._term = 0
        self._link = Link(
            f"roomful-commit-{edge}",
            timeout_s=limits.wait_s + _SPARE_S,
            login=login,
            on_up=self._flush_soon,
        )
        self._pending: deque[Post] = deque()
        self._batch: list[Post] | None = None
        self._order: list[Post] = []
        self._replies: Any = None
        self._sent_at = 0.0
        self._is_due = False
        self._backoff = Backoff()
        self._pause: asyncio.TimerHandle | None = None
        self.on_refused: Callable[[str], None] = _ignore
        """Hears why a whole batch was refused (`STALE_TERM 3`): the topology is old."""
        self.on_closed: Callable[[list[tuple[Post, str]]], None] = _ignore
        """Takes back posts, in order, whose bucket was refused, each with why (`MOVED 7 s2`)."""
        self.on_batch_end: list[Callable[[], None]] = []
        """Called once, when the batch that is under way has ended and before the next."""

    def __repr__(self) -> str:
        under_way = len(self._batch or ())
        return f"<Commit to {self.shard}, {under_way} under way, {len(self._pending)} waiting>"

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._link.connection is not None

    def retarget(self, address: Address, term: int, durability: Durability) -> None:
        """Write to *address* in *term* from now on, and acknowledge by *durability*."""
        is_new = (term, durability) != (self._term, self._durability)
        self._term, self._durability = term, durability
        self._wait = durability.pack(self._limits.wait_s)
        self._link.retarget(address)
        if is_new:
            self._resume()

    async def run(self) -> None:
        """Keep the connection, for ever; to be cancelled."""
        await self._link.run()

    # What comes -----------------------------------------------------------------------------

    def add(self, post: Post) -> None:
        """Take *post*; it goes out with the next batch."""
        self._pending.append(post)
        if self._batch is None and not self._is_due:
            self._flush_soon()

    def extend(self, posts: Iterable[Post]) -> None:
        """Take *posts* in their order."""
        for post in posts:
            self.add(post)

    def take_closed(self) -> None:
        """
        Move what waits here of buckets that are not reachable to where those wait.

        It goes before what waits there: that came later.
        """
        kept: deque[Post] = deque()
        closed: list[Post] = []
        for post in self._pending:
            (kept if post.route.waiting is None else closed).append(post)
        self._pending = kept
        for post in reversed(closed):
            assert post.route.waiting is not None
            post.route.waiting.appendleft(post)

    def has_under_way(self, route: RouteState) -> bool:
        """Say whether the batch that is under way has something of *route*."""
        return self._batch is not None and any(post.route is route for post in self._batch)

    def cast(self, packed: bytes) -> None:
        """Send a command whose reply nobody waits for, if that can be now."""
        connection = self._link.connection
        if connection is None or connection.buffered() > self._limits.batch_bytes:
            self.statistics.casts_dropped += 1
        else:
            connection.send(packed, _ignore)

    def expire(self, now: float) -> None:
        """Refuse what waits and is over its time."""
        if any(post.due <= now for post in self._pending):
            late = [post for post in self._pending if post.due <= now]
            self._pending = deque(post for post in self._pending if post.due > now)
            for post in late:
                self._expire(post)

    def refuse_all(self, refused: Refused) -> None:
        """Settle everything, under way or not: the edge ends."""
        posts = [*(self._batch or ()), *self._pending]
        self._batch = None
        self._pending.clear()
        for post in posts:
            post.end(refused)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self._batch is None and not self._pending

    # A batch --------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _resume(self) -> None:
        """Try at once what was put off."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._backoff.reset()
        self._flush_soon()

    def _flush(self) -> None:
        self._is_due = False
        connection = self._link.connection
        if self._batch is not None or self._pause is not None:
            return
        # One that is being lost is still there while its callbacks hear of it.
        if connection is None or connection.is_lost:
            return
        now = asyncio.get_running_loop().time()
        batch = self._take(now)
        if not batch:
            return
        self._batch, self._replies, self._sent_at = batch, None, now
        call, self._order = pack_batch(batch, self._term, self._rules)
        commands = call + self._wait
        # The callbacks know their batch: a reply to one that was given up says nothing of another.
        if self._wait:
            connection.send(
                commands,
                lambda reply: self._on_reply(batch, reply),
                lambda reply: self._on_wait(batch, reply),
            )
        else:
            connection.send(commands, lambda reply: self._on_only_reply(batch, reply))

    def _take(self, now: float) -> list[Post]:
        """Take the next batch from what waits."""
        pending, batch, size = self._pending, [], 0
        limits = self._limits
        room = limits.batch_messages
        while pending and room and size <= limits.batch_bytes:
            post = pending.popleft()
            if post.due <= now:
                self._expire(post)
                continue
            batch.append(post)
            size += post.size
            room -= 1
        return batch

    def _on_reply(self, batch: list[Post], reply: Any) -> None:
        if batch is self._batch:
            self._replies = reply

    def _on_wait(self, batch: list[Post], reply: Any) -> None:
        if batch is not self._batch:
            return
        if isinstance(self._replies, list):
            self._end(self._replies, is_safe=self._durability.is_reached(reply), why=reply)
        else:
            self._fail(self._replies)

    def _on_only_reply(self, batch: list[Post], reply: Any) -> None:
        if batch is not self._batch:
            return
        if isinstance(reply, list):
            self._end(reply, is_safe=True, why=None)
        else:
            self._fail(reply)

    # How it ended ---------------------------------------------------------------------------

    def _end(self, replies: Sequence[Any], *, is_safe: bool, why: Any) -> None:
        """Settle the batch; what is not safe goes out again, before all else."""
        batch, order = self._batch, self._order
        assert batch is not None
        self._batch = None
        statistics = self.statistics
        statistics.batches += 1
        statistics.batch_s += asyncio.get_running_loop().time() - self._sent_at
        closed: list[tuple[Post, str]] = []
        again: list[Post] = []
        for post, reply in zip(order, replies, strict=True):
            outcome: Stored | Refused
            if type(reply) is int:
                outcome = Stored(reply, post.time)
                if is_safe:
                    statistics.stored += 1
            elif reply[0] < 58:  # a digit
                offset, _, time = reply.partition(b" ")
                outcome = Stored(int(offset), int(time))
                if is_safe and not post.is_again:
                    statistics.duplicates += 1
                elif is_safe:
                    statistics.stored += 1
            elif (refused := self._refusal(reply)) is None:
                closed.append((post, reply.decode()))
                continue
            else:
                post.end(refused)
                continue
            if is_safe:
                post.end(outcome)
            else:
                post.is_again = True
                again.append(post)
        if again:
            self._short(again, why)
        else:
            self._backoff.reset()
        if closed:
            statistics.rerouted += len(closed)
            self.on_closed(closed)
        self._ended()

    def _refusal(self, reply: bytes) -> Refused | None:
        """Give what a message alone was refused with; None: it is about its bucket."""
        if reply == b"LAGGING":
            self.statistics.refused += 1
            return Refused(RefusalCode.ARCHIVE_LAGGING, "the archive is too far behind")
        if reply.startswith(b"ERROR"):
            logger.error("not stored", extra={"shard": self.shard, "why": reply.decode()})
            return Refused(RefusalCode.INTERNAL, "the shard could not store this")
        return None

    def _short(self, again: list[Post], why: Any) -> None:
        if isinstance(why, LostConnection):
            self.statistics.lost_batches += 1
        else:
            self.statistics.short_waits += 1
        if isinstance(why, ReplyError):
            logger.error("cannot wait for replicas", extra={"shard": self.shard, "why": str(why)})
            self._put_off()
        self._pending.extendleft(reversed(again))

    def _fail(self, reply: Any) -> None:
        """Nothing is known of the batch, or it was refused as a whole: put it back."""
        batch = self._batch
        assert batch is not None
        self._batch = None
        for post in batch:
            post.is_again = True
        words = str(reply)
        if not isinstance(reply, ReplyError):
            self.statistics.lost_batches += 1
            self._pending.extendleft(reversed(batch))
        elif words.startswith("OOM"):
            self.statistics.refused += len(batch)
            refused = Refused(RefusalCode.OVERLOADED, f"shard {self.shard} is out of memory")
            for post in batch:
                post.end(refused)
        else:
            self.statistics.refused_batches += 1
            self._pending.extendleft(reversed(batch))
            logger.warning("batch refused", extra={"shard": self.shard, "why": words})
            self._put_off()
            self.on_refused(words.removeprefix("ROOMFUL "))
        self._ended()

    def _put_off(self) -> None:
        if self._pause is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._backoff.next_s(), self._pause_over)

    def _pause_over(self) -> None:
        self._pause = None
        self._flush()

    def _ended(self) -> None:
        if self.on_batch_end:
            callbacks, self.on_batch_end = self.on_batch_end, []
            for callback in callbacks:
                callback()
        if self._pending:
            # Not at once: what can be read now is still in time for the next batch.
            self._flush_soon()

    def _expire(self, post: Post) -> None:
        self.statistics.expired += 1
        why = f"shard {self.shard} could not store this in time"
        post.end(Refused(RefusalCode.SHARD_UNAVAILABLE, why))


def _ignore(_reply: Any) -> None:
    """Nobody wants to know."""
