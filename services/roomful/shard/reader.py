"""
How an edge hears a shard on Redis: one connection, kept up, whose stream is made whole.

stream.py decides; this is the connection around it. It subscribes and asks over the same RESP3
connection, so that replies and publications come in the server's order. Each *canary_s* the edge
sends itself a canary through the server. One that does not come back in time ends the connection,
and the next one subscribes to everything again and fills from the logs what was missed; so does
anything else that ends it (a failover, the server's limit on what it buffers for us). While
nothing was heard for longer than *deaf_after_s* the reader is deaf: what needs the shard is refused
at once instead of waiting, and if the shard answers all the same the edge is not ready (redis.py).

An outage is the shard's own: its rooms stay held and are heard again when it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Sink
from roomful.shard.hearing import Ear, Hearing
from roomful.shard.held import Held, StreamLimits
from roomful.shard.message import RoomId
from roomful.shard.resp import Backoff, Login, LostConnection, ReplyError, RespConnection, connect
from roomful.shard.stream import ShardStream

__all__ = ["Reader", "ReaderLimits", "ReaderStatistics"]

logger = logging.getLogger("roomful.shard")


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """Times and bounds of hearing one shard."""

    log_age_ms: int = 3_600_000
    """How long the shard keeps entries: what it publishes with says the same."""
    canary_s: float = 1.0
    deaf_after_s: float = 5.0
    """How long a canary may take; also to connect, and for each reply."""
    hold_s: float = 3.0
    """How long hold() and heard() wait before they refuse."""
    stream: StreamLimits = StreamLimits()


@dataclass(slots=True)
class ReaderStatistics:
    """Counts since the start, besides those of the stream."""

    connections: int = 0
    lost_connections: int = 0
    failed_attempts: int = 0
    missed_canaries: int = 0
    received_bytes: int = 0
    """On connections that have ended; Reader.received_bytes has all."""


class _Waiters:
    """Those who wait for a room to be heard."""

    __slots__ = ("count", "ready")

    def __init__(self, ready: asyncio.Future[None]) -> None:
        self.count = 0
        self.ready = ready

    def wake(self) -> None:
        """It is heard."""
        if not self.ready.done():
            self.ready.set_result(None)


class Reader:
    """The rooms that this edge holds on one shard, heard over one connection."""

    # Mutable state: where the shard is, the connection and what it does, and who waits: for the
    # stream to reach an offset, and (how many) for a room.
    def __init__(
        self,
        shard: ShardName,
        edge: str,
        sink: Sink,
        *,
        login: Login | None = None,
        limits: ReaderLimits | None = None,
    ) -> None:
        """
        Hear *shard* for *edge*, once run() runs and retarget() has said where it is.

        Args:
            edge: the edge's name, for the canaries: no other edge may have it.
        """
        self.shard = shard
        self._edge = edge
        self._login = login
        self.limits = limits or ReaderLimits()
        self.stream = ShardStream(shard, sink, self.limits.stream)
        self.statistics = ReaderStatistics()
        self.channels: dict[bytes, Callable[[bytes], None]] = {}
        """What else is heard, by channel, such as `roomful:topology`; not filled when missed."""
        self.on_refused: Callable[[str], None] = _ignore
        """Hears why the shard refuses us, such as `STALE_TERM 3` or `MOVED 7 s2 {17}`."""
        self.on_arrivals: Callable[[Sequence[bytes]], None] = _ignore
        """
        Hears of each connection, before its stream, which buckets came to the shard last: bucket,
        words, and so on, as `roomful_v1_arrivals` gives them.
        """
        self._ear = Ear(
            edge,
            self.stream,
            self.limits.log_age_ms,
            self.channels,
            lambda words: self.on_refused(words),
            self._on_turn,
            lambda table: self.on_arrivals(table),
        )
        self._address: Address | None = None
        self._term = 0
        self._backoff = Backoff()
        self._connection: RespConnection | None = None
        self._hearing: Hearing | None = None
        self._serving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._holders: dict[Held, _Waiters] = {}

    def __repr__(self) -> str:
        return f"<Reader of {self.shard} at {self._address}, term {self._term}, {self.stream}>"

    # State ----------------------------------------------------------------------------------

    @property
    def proven_at(self) -> float:
        """When the shard was certainly heard, by the loop's time."""
        proven_at = self._ear.proven_at
        return float("-inf") if proven_at is None else proven_at

    @property
    def silence_s(self) -> float:
        """After how many seconds of silence it is deaf."""
        return self.limits.deaf_after_s + self.limits.canary_s

    @property
    def is_deaf(self) -> bool:
        """Whether it is not certain that the shard was heard lately."""
        return asyncio.get_running_loop().time() - self.proven_at > self.silence_s

    @property
    def received_bytes(self) -> int:
        """All bytes that came from the shard."""
        current = self._connection.received_bytes if self._connection is not None else 0
        return self.statistics.received_bytes + current

    def position(self) -> int:
        """Give the offset up to which the sink has heard the shard."""
        return self.stream.position

    def retarget(self, address: Address, term: int) -> None:
        """Hear the shard at *address* from now on, in *term*; the same again changes nothing."""
        if (address, term) == (self._address, self._term):
            return
        self._address, self._term = address, term
        self._backoff.reset()
        self._changed.set()
        if self._serving is not None:
            self._serving.cancel()

    # Rooms ----------------------------------------------------------------------------------

    async def hold(self, room: RoomId, after: int | None = None) -> None:
        """
        Hear *room* from now on; on return nothing later is missed. Raising, it is not held.

        Args:
            after: nothing after this offset is missed, for a room that was heard elsewhere up to
                it. Cursors name what this reader has heard, so that the room has to be held here
                before it gets new entries here.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        held = self.stream.hold(room, after)
        if held.is_ready:
            return
        if self.is_deaf and self._ear.proven_at is not None:
            self._drop(room, held)
            raise self._unavailable()
        self.turn_soon()
        await self._until_ready(room, held)

    async def _until_ready(self, room: RoomId, held: Held) -> None:
        waiters = self._holders.get(held)
        if waiters is None:
            # One for all: a whole edge's clients may come back at once, to the same room.
            waiters = self._holders[held] = _Waiters(asyncio.get_running_loop().create_future())
            held.on_ready = waiters.wake
        waiters.count += 1
        try:
            async with asyncio.timeout(self.limits.hold_s):
                await asyncio.wait((waiters.ready,))
        except TimeoutError:
            # Both may come in one turn of the loop: others that waited are in the room then.
            if not waiters.ready.done():
                raise self._unavailable() from None
        finally:
            waiters.count -= 1
            if not waiters.count:
                del self._holders[held]
            self._drop(room, held)

    def _drop(self, room: RoomId, held: Held) -> None:
        """Let go of a room that is not ready when nobody waits for it."""
        is_wanted = held.is_ready or held.heard is not None or held in self._holders
        if not is_wanted and self.stream.find(room) is held:
            self.release(room)

    def release(self, room: RoomId) -> int | None:
        """
        No longer hear *room*.

        Returns:
            The offset up to which it was delivered, for another reader's *after*; None: none yet.
        """
        heard = self.stream.release(room)
        self.turn_soon()
        return heard

    def hand_over(self, room: RoomId) -> bool:
        """
        No longer hear *room*, because another reader does; whoever waits for it here goes on.

        Returns:
            Whether it was heard here, so that those who are in it have all up to the position.
        """
        held = self.stream.find(room)
        self.release(room)
        if held is None:
            return False
        if not held.is_ready:
            held.on_ready()
        return held.is_ready

    async def heard(self, offset: int) -> None:
        """
        Wait until the sink has heard the shard up to *offset*.

        Raises:
            Refused: SHARD_UNAVAILABLE, it took too long.
        """
        if self.stream.position >= offset:
            return
        waiter = asyncio.get_running_loop().create_future()
        entry = (offset, waiter)
        self._waiters.append(entry)
        if self._hearing is not None:
            self._hearing.ask_position()
        try:
            async with asyncio.timeout(self.limits.hold_s):
                await waiter
        except TimeoutError:
            raise self._unavailable() from None
        finally:
            self._waiters.remove(entry)

    def _unavailable(self) -> Refused:
        return Refused(RefusalCode.SHARD_UNAVAILABLE, f"shard {self.shard} is not heard now")

    # The connection -------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection, for ever; to be cancelled."""
        while True:
            self._changed.clear()
            if self._address is not None:
                async with asyncio.TaskGroup() as group:
                    # Of its own, so that retarget() can end it wherever it waits.
                    self._serving = group.create_task(self._try(self._address, self._term))
                self._serving = None
            delay_s = None if self._address is None else self._backoff.next_s()
            try:
                async with asyncio.timeout(delay_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _try(self, address: Address, term: int) -> None:
        try:
            await self._serve(address, term)
        except (LostConnection, ReplyError) as exc:
            self.statistics.failed_attempts += 1
            logger.warning("shard not heard", extra={"shard": self.shard, "why": str(exc)})
            if str(exc).startswith("ROOMFUL "):
                self.on_refused(str(exc).removeprefix("ROOMFUL "))

    async def _serve(self, address: Address, term: int) -> None:
        """
        Hear the shard until the connection is lost.

        Raises:
            LostConnection, ReplyError: there was none.
        """
        hearing, ended = Hearing(self._ear, term), asyncio.Event()
        proven_at = self._ear.proven_at

        def on_lost() -> None:
            ended.set()
            if hearing.end():
                self._hearing = None
                self.statistics.lost_connections += 1
                why = {"shard": self.shard, "why": connection.why}
                logger.warning("shard lost", extra=why)

        connection = await connect(
            address,
            timeout_s=self.limits.deaf_after_s,
            login=self._login,
            on_push=hearing.on_push,
            on_lost=on_lost,
        )
        self._connection = connection
        try:
            await connection.call("CLIENT", "SETNAME", f"roomful-reader-{self._ear.edge}")
            newest, terms = await connection.call("FCALL_RO", "roomful_v1_terms", 0, term)
            self.statistics.connections += 1
            self._hearing = hearing
            hearing.begin(connection, newest, terms)
            logger.info("shard heard", extra={"shard": self.shard, "rooms": len(self.stream)})
            await self._keep(connection, hearing, ended)
        finally:
            connection.abort()
            self.statistics.received_bytes += connection.received_bytes
            self._connection = None
            if self._ear.proven_at != proven_at:
                # It was heard, so that the next attempt is the first.
                self._backoff.reset()

    async def _keep(
        self, connection: RespConnection, hearing: Hearing, ended: asyncio.Event
    ) -> None:
        """Send canaries until the connection is lost, and lose it when one does not come back."""
        while not ended.is_set():
            if hearing.waits_for_canary() > self.limits.deaf_after_s:
                # Perhaps it is this process that was late: let it read what is there.
                await asyncio.sleep(self.limits.canary_s / 10)
                if hearing.waits_for_canary() > self.limits.deaf_after_s:
                    self.statistics.missed_canaries += 1
                    connection.abort("the canary did not come back")
            hearing.send_canary()
            try:
                async with asyncio.timeout(self.limits.canary_s):
                    await ended.wait()
            except TimeoutError:
                continue

    def turn_soon(self) -> None:
        """Say soon what the stream has to say to the shard."""
        if self._hearing is not None:
            self._hearing.turn_soon()

    def _on_turn(self) -> None:
        position = self.stream.position
        for offset, waiter in self._waiters:
            if offset <= position and not waiter.done():
                waiter.set_result(None)


def _ignore(_words: object) -> None:
    """Nobody wants to know."""
