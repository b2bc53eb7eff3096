"""
One edge: everything it is made of, put together once at start, and what its parts share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from roomful.archive.base import Archive
from roomful.archive.embedded import EmbeddedArchive
from roomful.cluster.cursor import ShardName
from roomful.edge.access import RoomAccess
from roomful.edge.auth import Authenticator
from roomful.edge.connection import Connection
from roomful.edge.control import Control, LeasedEdges
from roomful.edge.endpoint import Endpoint
from roomful.edge.fanout import Fanout
from roomful.edge.forward import Forwarder
from roomful.edge.history import History
from roomful.edge.http import BodyTimer, HeadTimer
from roomful.edge.limits import ConnectionCounts, TokenBucket
from roomful.edge.message_rates import MessageRates
from roomful.edge.origins import Origins
from roomful.edge.outboxes import Outboxes
from roomful.edge.peers import Peers, new_edge_name
from roomful.edge.resume import PAGES_AT_ONCE
from roomful.edge.router import Router
from roomful.edge.settings import Settings
from roomful.edge.sign_in import SignIn
from roomful.edge.upgrade import Upgrade
from roomful.edge.usage import Usage
from roomful.edge.wheel import TimerWheel
from roomful.protocol.errors import CloseCode, RefusalCode, Refused
from roomful.protocol.session import SocketLimits
from roomful.shard.base import SessionRecord, Shards
from roomful.shard.control import ControlChannel
from roomful.shard.memory import MemoryShard
from roomful.shard.message import user_room
from roomful.shard.redis_shards import RedisShards

if TYPE_CHECKING:
    from roomful.edge.front import FrontProtocol
    from roomful.edge.tracing import Tracing

__all__ = ["Edge", "EdgeStatistics"]

logger = logging.getLogger("roomful.edge")


CREDIT = 16
"""Operations a connection takes from its rate at once, so that most cost one subtraction."""


ANSWER_HEAD_BYTES = 64 * 1024
"""What another edge's answer to a poll may have around its payload."""


class Passing(Protocol):
    """Something that this edge only carries to another."""

    def close(self) -> None:
        """End it."""


@dataclass(slots=True)
class EdgeStatistics:
    """Counts since the start."""

    refused_connections: int = 0
    """TCP connections above the maximum."""
    refused_upgrades: int = 0
    refused_sign_ins: int = 0
    resumed: int = 0
    """Sessions taken up again with nothing missing."""
    not_resumed: int = 0
    """Sessions that began anew although the client asked to resume."""
    slow_clients: int = 0
    client_faults: int = 0
    """Connections closed for what they sent."""
    forwards: int = 0
    """Polling requests passed on to the edge that has their session."""
    splices: int = 0
    """WebSockets carried to the edge that has their session."""
    forwards_failed: int = 0
    """Of both, those whose edge could not be reached."""
    refusals: Counter[RefusalCode] = field(default_factory=Counter)


class Edge:
    """The stateless process that holds client connections."""

    # Mutable state: the open connections, the tasks under way, and whether we are draining.
    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator | None = None,
        shards: Shards | None = None,
        name: str | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Make an edge that is not started.

        Args:
            shards: where its rooms are; None: embedded, in this process.
            name: what other edges call it; None: a new one.
            tracing: what it traces; None: nothing.
        """
        self.settings = settings
        self.statistics = EdgeStatistics()
        limits = settings.limits
        self.started_at = time.time()
        self.is_draining = False
        self.serves_json = not settings.conformance
        self.socket_limits = SocketLimits(
            limits.attachments, limits.namespaces, limits.payload_bytes
        )
        self.connections: set[Connection] = set()
        self.passing: set[Passing] = set()
        """What is carried to other edges now."""
        self.peers = Peers(name or new_edge_name())
        self.forwarder = Forwarder(self.peers.name, 2 * limits.payload_bytes + ANSWER_HEAD_BYTES)
        self.wheel = TimerWheel(settings.timer_tick_s)
        self.head_timer = HeadTimer(limits.header_timeout_s)
        self.body_timer = BodyTimer(limits.body_timeout_s)
        self.counts = ConnectionCounts(limits)
        self.polling_counts = ConnectionCounts(limits)
        """Of sessions on polling, which may share connections, or have none just now."""
        self.rates = MessageRates(limits)
        self.origins = Origins(settings.origins)
        self.authenticator = authenticator or Authenticator(settings.auth)
        self.access = RoomAccess(settings.access)
        self.shards: Shards = shards if shards is not None else _embedded(settings)
        self.memory = self.shards if isinstance(self.shards, MemoryShard) else None
        """The shard, where it is in this process."""
        self.archive: Archive | None = None
        self.embedded: EmbeddedArchive | None = None
        """What keeps the messages of a shard in this process."""
        self.room_class = settings.archive.classes
        self.history = History(self)
        self.replaying = asyncio.Semaphore(PAGES_AT_ONCE)
        """Connections with a page of their replay in memory."""
        self.outboxes: Outboxes | None = None
        if settings.archive.url and isinstance(self.shards, RedisShards):
            self.outboxes = Outboxes(self.shards, settings.archive)
        self.tracing = tracing
        self.fanout = Fanout(self.shards, tracing)
        self.shards.attach(self.fanout)
        self.router = Router(self)
        self.handlers = self.router.handlers
        self.sign_in = SignIn(self)
        self.upgrade = Upgrade(self)
        channel = ControlChannel(self.shards) if isinstance(self.shards, RedisShards) else None
        if channel is not None:
            self.peers.directory = LeasedEdges(channel)
        self.control = Control(self, channel)
        self.usage = Usage(self)
        self.endpoints: dict[str, Endpoint] = {}
        self.spare: dict[FrontProtocol, None] = {}
        """Connections above the limit that have said nothing yet, the oldest first (front.py)."""
        self._handshakes: TokenBucket | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Edge {len(self.connections)} connections, {self.fanout}>"

    # Life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self.wheel.start()
        self.peers.start()
        if self.outboxes is not None:
            self.outboxes.start()
        rate = self.settings.limits.handshakes_per_second
        if rate:
            burst = self.settings.limits.handshake_burst
            self._handshakes = TokenBucket(rate, burst, self.time())
        for name, position in self.shards.positions().items():
            self.fanout.vector.advance(name, position)

    async def aclose(self) -> None:
        """Settle what is under way and let go of everything."""
        self.wheel.stop()
        if self.outboxes is not None:
            await self.outboxes.aclose()
        self.forwarder.close()
        await self.peers.aclose()
        await self.usage.aclose()
        await self.control.aclose()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)
        await self.shards.aclose()
        await self.access.aclose()
        await self.authenticator.aclose()
        if self.tracing is not None:
            await self.tracing.aclose()

    def time(self) -> float:
        """Give the loop's time, in seconds."""
        assert self._loop is not None, "the edge was not started"
        return self._loop.time()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* in a task that is waited for at the end."""
        assert self._loop is not None, "the edge was not started"
        task = self._loop.create_task(work)
        self.watch(task)
        return task

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Wait for *task* at the end, and log it if it fails."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (exc := task.exception()) is None:
            return
        if isinstance(exc, Refused):
            # No bug: something that it needed said no.
            logger.warning("task refused", extra={"code": exc.code, "why": exc.sentence})
        else:
            logger.error("task failed", exc_info=exc)

    # Limits ---------------------------------------------------------------------------------

    def address_of(self, transport: asyncio.BaseTransport) -> str:
        """Give what connections are counted under; one for all unless addresses have a limit."""
        if not self.settings.limits.connections_per_address:
            return ""
        peer = transport.get_extra_info("peername")
        return self.address_of_host(str(peer[0]) if peer else "")

    def address_of_host(self, host: str) -> str:
        """As address_of(), of a connection from *host*."""
        # Another edge has counted its client.
        is_counted = self.settings.limits.connections_per_address and not self.peers.is_peer(host)
        return host if is_counted else ""

    def take_handshake(self) -> None:
        """
        Count a new session.

        Raises:
            Refused: DRAINING, or RATE_LIMITED: too many at once, come back later.
        """
        if self.is_draining:
            raise Refused(RefusalCode.DRAINING, "this edge is going away")
        if self._handshakes is not None and self._handshakes.take(self.time()):
            raise Refused(RefusalCode.RATE_LIMITED, "too many new connections")

    def take_messages(self, connection: Connection) -> None:
        """
        Count an operation, and if there is room for them the next ones ahead.

        Raises:
            Refused: RATE_LIMITED.
        """
        now = self.time()
        rate = connection.rate
        if rate is None:
            rate = connection.rate = self.rates.open(connection.user, now)
            connection.is_due = self.tracing is not None and self.tracing.gap() == 1
        if connection.is_due:
            connection.is_traced = True
        ahead = CREDIT
        # Up to the next one that is traced, so that those before it need no look at the sampler.
        # Where the gap is longer it is drawn anew: geometric gaps have no memory.
        gap = None if self.tracing is None else self.tracing.gap()
        if gap is not None and gap < CREDIT:
            ahead = gap
        if rate.take(now, ahead):
            ahead = 1
            if wait_s := rate.take(now):
                sentence = f"too many messages, wait {wait_s:.3f} s"
                raise Refused(RefusalCode.RATE_LIMITED, sentence)
        connection.credit = ahead - 1
        connection.is_due = gap == ahead

    # Sessions -------------------------------------------------------------------------------

    def sign_out(self, connection: Connection) -> None:
        """End what sign-in began: count, rooms, presence, and for good the session."""
        identity, record = connection.identity, connection.record
        connection.identity = connection.record = connection.may_send = None
        connection.credit = 0
        if identity is not None:
            self.counts.leave_user(identity.user)
        if connection.rate is not None:
            self.rates.close(connection.rate, self.time())
            connection.rate = None
        if record is None:
            return
        for room in record.rooms:
            self.fanout.leave(connection, room)
        if len(record.rooms) > 1 or not connection.can_resume:
            self.spawn(self._leave(record, for_good=not connection.can_resume))

    async def _leave(self, record: SessionRecord, *, for_good: bool) -> None:
        for room in record.rooms:
            if not room.startswith("user:"):
                await self.shards.leave(room, record.user, record.sid, with_grace=not for_good)
        if for_good:
            await self.shards.drop_session(record)

    def rejoin(self, shard: ShardName, bucket: int | None = None) -> None:
        """All members of this edge left the rooms of *shard* (or a bucket's): they join again."""
        self.spawn(self.sign_in.rejoin(shard, bucket))

    def give_up(self, record: SessionRecord) -> None:
        """The client of *record* went away, and may be back: let it leave its rooms."""
        self.spawn(self._leave(record, for_good=False))

    def abandon(self, record: SessionRecord) -> None:
        """The session of *record* cannot be taken up: let it leave its rooms."""
        self.spawn(self._leave(record, for_good=True))

    def replace(self, record: SessionRecord) -> None:
        """Close the connection that still has the session of *record*, if one does."""
        for listener in self.fanout.listeners(user_room(record.user)):
            if not isinstance(listener, Connection) or listener.record is None:
                continue
            if listener.record.pid == record.pid:
                for room in listener.record.rooms:
                    self.fanout.leave(listener, room)
                listener.record = None
                self.sign_out(listener)
                listener.close(CloseCode.REPLACED, "resumed on another connection")


def _embedded(settings: Settings) -> MemoryShard:
    return MemoryShard(
        log_limits=settings.log, presence_limits=settings.presence, limits=settings.memory
    )
