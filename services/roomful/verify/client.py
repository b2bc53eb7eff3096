"""
A client of a verification: on one WebSocket, and back again whenever it is lost.

It is in some rooms, reads them, and may send to them: each message with an id of its own, again
and again with that id until it is acknowledged, and a room's messages always in order. What it
speaks on the wire is in stock.py and plain.py.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import msgspec
import picows

from roomful.verify.ledger import Key, Ledger, Stretch, count_of, key_of, key_text, parse_key

__all__ = ["Client", "ClientStatistics", "Link", "World", "decode", "encode"]

CONNECT_TIMEOUT_S: Final = 5.0
ACK_TIMEOUT_S: Final = 5.0
SILENCE_S: Final = 60.0
"""Longer without a heartbeat, and the connection is taken for lost."""
AGAIN_EVERY: Final = 20
"""One message in so many is sent once more after its ack: it must not be stored again."""

decode = msgspec.json.Decoder().decode
"""Read a JSON text."""
encode = msgspec.json.Encoder().encode
"""Write a JSON text."""
_TEXT: Final = picows.WSMsgType.TEXT
_CLOSE: Final = picows.WSMsgType.CLOSE
_AWAY: Final = (OSError, TimeoutError, picows.WSError)


def is_sent_again(key: Key) -> bool:
    """Tell whether a client sends *key* once more after its ack, as one does that lost the ack."""
    return count_of(key) % AGAIN_EVERY == 0


@dataclass(slots=True)
class ClientStatistics:
    """Counts and times over all clients."""

    connects: int = 0
    recovered: int = 0
    anew: int = 0
    """Times that a client came back and was told that it may have missed something."""
    refusals: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    failed_connects: int = 0
    last_failure: str = ""
    """Why the last of those failed."""
    reconnect_s: list[float] = field(default_factory=list)
    """From the loss of a connection to being back in all rooms."""
    final_refusals: dict[str, int] = field(default_factory=dict)
    """Refusals that no retry mends: a fault of the load or of the cluster."""


@dataclass(slots=True)
class World:
    """What all clients share."""

    urls: Sequence[str]
    """Base URLs of edges or a load balancer, `http://host:port`."""
    token: Callable[[str], str]
    """Gives a user's token."""
    ledger: Ledger
    random: Random
    on_ack: Callable[[str, float, float], None]
    """Hears of each ack: room, when it was sent first, and now."""
    statistics: ClientStatistics = field(default_factory=ClientStatistics)
    first_delay_s: float = 1.0
    """The stock client's: doubled up to 5 s, with a jitter of a half."""

    def pick_url(self) -> str:
        """Give where to connect, as a load balancer would: any."""
        return self.random.choice(list(self.urls))


@dataclass(slots=True)
class _Pending:
    """A message that is not acknowledged."""

    key: Key
    room: str
    frame: int = 0
    """The number of the ack that is waited for; 0: it has to be sent (again)."""
    sent_at: float = 0.0


class Link(picows.WSListener):
    """One WebSocket of a client."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self.transport: picows.WSTransport | None = None
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.why = "the connection was lost"
        """What is known of its end."""
        self.connected: asyncio.Future[dict[str, Any]] = loop.create_future()
        """What the server said to the sign-in: it may come before the handshake's caller wakes."""

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """The handshake is over."""
        self.transport = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Hand a text over."""
        if frame.msg_type == _TEXT:
            self._client.on_text(self, frame.get_payload_as_bytes())
        elif frame.msg_type == _CLOSE:
            payload = frame.get_payload_as_bytes()
            code, words = int.from_bytes(payload[:2]), payload[2:].decode(errors="replace")
            self.why = f"closed with {code} {words}".rstrip()
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """The connection is gone."""
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, text: bytes) -> None:
        """Send a text if there still is a connection."""
        if self.transport is not None and not self.transport.is_disconnected:
            self.transport.send(_TEXT, text)

    def cut(self) -> None:
        """Lose the TCP connection, without a close frame."""
        if self.transport is not None:
            self.transport.underlying_transport.abort()


class Client(ABC):
    """A user's client, until stop()."""

    # Mutable state: the connection, the rooms that are joined on it, what is not acknowledged, in
    # order, and the stretches of what it hears.
    def __init__(self, world: World, number: int, rooms: Sequence[str]) -> None:
        self.world = world
        self.number = number
        self.name = f"verify-{number}"
        self.rooms = tuple(rooms)
        self.stretches: dict[str, Stretch] = {}
        self.is_ready = asyncio.Event()
        self._link: Link | None = None
        self._count = 0
        self._pending: dict[str, deque[_Pending]] = {room: deque() for room in rooms}
        self._acks: dict[int, _Pending | asyncio.Future[Any]] = {}
        self._frames = 0
        self._stopping = False
        self._offline_s = 0.0
        self._lost_at: float | None = None
        self._heard_at = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} ready={self.is_ready.is_set()}>"

    # From outside ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, stay, come back, until stop()."""
        attempts = 0
        while not self._stopping:
            try:
                await self._live_once()
                attempts = 0
            except _AWAY as exc:
                self.world.statistics.failed_connects += 1
                self.world.statistics.last_failure = str(exc) or type(exc).__name__
                attempts += 1
            if self._stopping:
                return
            if self._lost_at is None:
                self._lost_at = time.monotonic()
            offline, self._offline_s = self._offline_s, 0.0
            delay = min(self.world.first_delay_s * 2 ** min(attempts, 5), 5.0)
            await asyncio.sleep(offline or delay * (0.5 + self.world.random.random()))

    def send(self, room: str) -> None:
        """Send the next message to *room*."""
        self._count += 1
        key = key_of(self.number, self._count)
        self.world.ledger.send(key, room, time.monotonic())
        pending = _Pending(key, room)
        queue = self._pending[room]
        queue.append(pending)
        if self.is_ready.is_set() and all(one.frame for one in queue if one is not pending):
            self._transmit(pending)

    @property
    def unacknowledged(self) -> int:
        """How many messages wait for their ack."""
        return sum(map(len, self._pending.values()))

    def cut(self, offline_s: float = 0.0) -> bool:
        """Lose the connection as a network does; gives whether there was one."""
        if self._link is None or not self.is_ready.is_set():
            return False
        self._offline_s = offline_s
        self._link.cut()
        return True

    def stop(self) -> None:
        """Go away for good."""
        self._stopping = True
        if self._link is not None:
            self._link.cut()

    def retransmit(self, now: float) -> None:
        """Send again what was not acknowledged in time; for a timer."""
        if not self.is_ready.is_set():
            return
        if now - self._heard_at > SILENCE_S and self._link is not None:
            self._link.cut()
            return
        for queue in self._pending.values():
            if queue and (now - queue[0].sent_at > ACK_TIMEOUT_S or not queue[0].frame):
                self._resend(queue)

    # One connection -------------------------------------------------------------------------

    @abstractmethod
    def _path(self, token: str) -> tuple[str, dict[str, str]]:
        """Give the path and the headers of the WebSocket's request."""

    @abstractmethod
    async def _enter(self, link: Link) -> None:
        """Sign in, resume or join, and return when it is in all rooms."""

    @abstractmethod
    def on_text(self, link: Link, text: bytes) -> None:
        """Take one text frame."""

    @abstractmethod
    def _encode_request(self, number: int, operation: str, body: dict[str, Any]) -> bytes:
        """Give the frame of *operation* whose ack has *number*."""

    async def _live_once(self) -> None:
        url = self.world.pick_url().replace("http", "ws", 1)
        path, headers = self._path(self.world.token(self.name))
        link = Link(self)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await picows.ws_connect(
                lambda: link,
                url + path,
                extra_headers=headers,
                read_buffer_init_size=2048,
                max_frame_size=4 << 20,
            )
        self._link = link
        self._heard_at = time.monotonic()
        try:
            entering = asyncio.ensure_future(self._enter(link))
            try:
                async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                    await asyncio.wait((entering, link.lost), return_when=asyncio.FIRST_COMPLETED)
                if not entering.done():
                    raise ConnectionError(link.why)
                entering.result()
            finally:
                entering.cancel()
            self._entered()
            await link.lost
        finally:
            self.is_ready.clear()
            self._link = None
            self._acks.clear()
            if self._lost_at is None:
                self._lost_at = time.monotonic()
            link.cut()

    def _entered(self) -> None:
        statistics = self.world.statistics
        statistics.connects += 1
        if self._lost_at is not None:
            statistics.reconnect_s.append(time.monotonic() - self._lost_at)
            self._lost_at = None
        self.is_ready.set()
        for queue in self._pending.values():
            self._resend(queue)

    async def _request(self, link: Link, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send *operation* and give its ack; ConnectionError if it is refused for now."""
        self._frames += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._acks[self._frames] = answer
        link.send(self._encode_request(self._frames, operation, body))
        reply = await answer
        if not reply.get("success"):
            error = reply.get("error", {})
            self._count_refusal(error)
            raise ConnectionError(f"{operation}: {error}")
        return dict(reply)

    async def _join(self, link: Link) -> None:
        """Join the rooms that the client is not in (after a resume, those it was cut off from)."""
        for room in self.rooms:
            if room not in self.stretches:
                # Before the answer, since the stream may come before it.
                stretch = self.world.ledger.begin(self.name, room, math.inf)
                self.stretches[room] = stretch
                try:
                    await self._request(link, "join-room", {"roomId": room})
                except BaseException:
                    del self.stretches[room]
                    raise
                stretch.joined_at = time.monotonic()

    def _gap(self) -> None:
        """The server said that something may be missing."""
        if self.stretches:
            self.world.statistics.anew += 1
            self.world.ledger.gap(self.stretches.values())
            self.stretches = {}

    # Messages -------------------------------------------------------------------------------

    def _transmit(self, pending: _Pending) -> None:
        assert self._link is not None
        self._frames += 1
        pending.frame, pending.sent_at = self._frames, time.monotonic()
        self._acks[self._frames] = pending
        message = key_text(pending.key)
        body = {"roomId": pending.room, "content": {"v": message}, "id": message}
        self._link.send(self._encode_request(self._frames, "message", body))

    def _resend(self, queue: deque[_Pending]) -> None:
        """Send all of a room's queue, in order; earlier acks of them are not waited for."""
        for pending in queue:
            if pending.frame:
                self.world.statistics.retries += 1
                self._acks.pop(pending.frame, None)
            self._transmit(pending)

    def _on_ack(self, number: int, body: Any) -> None:
        waiting = self._acks.pop(number, None)
        if isinstance(waiting, asyncio.Future):
            if not waiting.done():
                waiting.set_result(body)
        elif waiting is not None:
            self._on_message_ack(waiting, body)

    def _on_message_ack(self, pending: _Pending, body: Any) -> None:
        queue = self._pending[pending.room]
        if body.get("success"):
            now = time.monotonic()
            self.world.ledger.ack(pending.key, int(body["offset"]), now)
            sent = self.world.ledger.sent[pending.key]
            if pending not in queue:
                return
            queue.remove(pending)
            self.world.on_ack(pending.room, sent.began_at, now)
            if is_sent_again(pending.key) and self.is_ready.is_set():
                self._transmit(pending)
            return
        error = body.get("error", {})
        self._count_refusal(error)
        # Later ones of the room may be stored before it now, which the sender did not forbid;
        # whether they may be is told by what was acknowledged when they were sent.
        pending.frame = 0

    def _count_refusal(self, error: dict[str, Any]) -> None:
        code = str(error.get("code"))
        statistics = self.world.statistics
        counts = statistics.refusals if error.get("retryable") else statistics.final_refusals
        counts[code] = counts.get(code, 0) + 1

    def _hear(self, body: Any) -> None:
        """A message came."""
        key = parse_key(body.get("id"))
        stretch = self.stretches.get(body.get("roomId", ""))
        offset = body.get("offset")
        if key is not None and stretch is not None and isinstance(offset, int):
            stretch.hear(key, offset)
