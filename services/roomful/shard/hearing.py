"""One connection's time of hearing a shard: what is said on it, and what is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from roomful.cluster.placement import bucket_of
from roomful.shard.asking import Read, Request, Subscribe, Tails, Unsubscribe
from roomful.shard.held import Held
from roomful.shard.keys import log_key
from roomful.shard.publication import decode_read
from roomful.shard.resp import ReplyError, RespConnection, pack
from roomful.shard.stream import ShardStream
from roomful.shard.terms import AnotherTerm, Terms

__all__ = ["Ear", "Hearing"]

_AUDIT_TURNS: Final = 60
"""All rooms are asked for their newest offset in so many canaries."""

_FORGETS_AFTER_S: Final = 12 * 3600.0
"""A shard remembers a room's newest offset for a day longer than its log; half is safe."""


@dataclass(slots=True)
class Ear:
    """What a connection hears for: it outlives connections."""

    edge: str
    stream: ShardStream
    log_age_ms: int
    channels: Mapping[bytes, Callable[[bytes], None]]
    """What else is heard, by channel."""
    on_refused: Callable[[str], None]
    on_turn: Callable[[], None]
    """Called once for what was heard together, when the stream has taken it."""
    on_arrivals: Callable[[Sequence[bytes]], None]
    """Called once for a connection, before its stream: bucket, words, and so on."""
    proven_at: float | None = None
    """When the last canary came back, in the loop's time."""
    canaries: int = 0


class Hearing:
    """A connection that is subscribed, until it is lost."""

    # Mutable state: the canary that is out (its token, and since when), whether the end of this
    # turn of the loop is awaited, and whether the stream is connected to us.
    def __init__(self, ear: Ear, term: int) -> None:
        self._ear = ear
        self._term = term
        self._stream = ear.stream
        self._canary_channel = b"roomful:canary:" + ear.edge.encode()
        self._connection: RespConnection | None = None
        self._canary: tuple[bytes, float] | None = None
        self._is_due = False
        self._loop = asyncio.get_running_loop()

    def begin(self, connection: RespConnection, newest: int, terms: Sequence[bytes]) -> None:
        """Subscribe to everything; the rest is what `roomful_v1_terms` said."""
        bases, kept = map(int, terms[::2]), map(int, terms[1::2])
        proven_at = self._ear.proven_at
        is_long = proven_at is not None and self._loop.time() - proven_at > _FORGETS_AFTER_S
        self._connection = connection
        connection.send(pack("SUBSCRIBE", self._canary_channel, *self._ear.channels))
        # Answered before all that the stream asks for, so that it passes none of them.
        connection.send(pack("FCALL_RO", "roomful_v1_arrivals", 0, self._term), self._take_arrivals)
        self._stream.connect(Terms(newest, list(zip(bases, kept, strict=True))), is_long=is_long)
        self.turn()

    def end(self) -> bool:
        """The connection is lost; says whether it had begun."""
        has_begun = self._connection is not None
        if has_begun:
            self._connection = None
            self._stream.disconnect()
        return has_begun

    # What is said ---------------------------------------------------------------------------

    def waits_for_canary(self) -> float:
        """Give for how many seconds; 0 if it came back."""
        return 0.0 if self._canary is None else self._loop.time() - self._canary[1]

    def send_canary(self) -> None:
        """Send ourselves a canary, and ask some rooms for what we should have heard."""
        if (connection := self._connection) is None or self._canary is not None:
            return
        ear = self._ear
        ear.canaries += 1
        token = b"%d" % ear.canaries
        self._canary = token, self._loop.time()
        # No function: a server that takes no writes (its disk is full) is heard all the same.
        connection.send(pack("PUBLISH", self._canary_channel, token), self._take_nothing)
        self.ask_position()
        self._stream.audit(1 + len(self._stream) // _AUDIT_TURNS)
        self.turn()

    def ask_position(self) -> None:
        """See to it that the stream knows how far it is, as soon as can be."""
        if self._connection is not None:
            self._send(self._connection, Tails(()))

    def turn_soon(self) -> None:
        """At the end of this turn of the loop, say what is to be said and send what was heard."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Do so now."""
        self._is_due = False
        self._stream.end_burst()
        if self._connection is not None:
            for request in self._stream.take_requests():
                self._send(self._connection, request)
        self._ear.on_turn()

    def _send(self, connection: RespConnection, request: Request) -> None:
        match request:
            case Subscribe(channels):
                connection.send(pack("SUBSCRIBE", *channels))
            case Unsubscribe(channels):
                connection.send(pack("UNSUBSCRIBE", *channels))
            case Tails(rooms):
                words = self._words("tails", rooms)
                connection.send(pack(*words), lambda reply: self._take_tails(request, reply))
            case Read(_, rooms, heard, after):
                words = self._words("read", rooms)
                words += [after, request.limit_bytes, self._ear.log_age_ms, *heard]
                connection.send(pack(*words), lambda reply: self._take_read(request, reply))
            case _:
                assert_never(request)

    def _words(self, function: str, rooms: Sequence[Held]) -> list[bytes | str | int]:
        keys = [log_key(held.room) for held in rooms]
        return ["FCALL_RO", f"roomful_v1_{function}", len(keys), *keys, self._term]

    # What is heard --------------------------------------------------------------------------

    def on_push(self, push: list[Any]) -> None:
        """Take what the server sends unasked."""
        try:
            self._take_push(push)
        except AnotherTerm as exc:
            self._end_with(exc)
        self.turn_soon()

    def _end_with(self, exc: AnotherTerm) -> None:
        if self._connection is not None:
            self._ear.on_refused(str(exc))
            self._connection.abort(str(exc))

    def _take_push(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1]
        if kind == b"message":
            if channel.startswith(b"r:"):
                self._stream.on_message(channel, push[2])
            elif channel == self._canary_channel:
                self._take_canary(push[2])
            elif (hear := self._ear.channels.get(channel)) is not None:
                hear(push[2])
        elif kind == b"subscribe":
            self._stream.on_subscribed((channel,))

    def _take_canary(self, token: bytes) -> None:
        if self._canary is not None and token == self._canary[0]:
            self._canary = None
            self._ear.proven_at = self._loop.time()

    def _take_nothing(self, reply: Any) -> None:
        self._is_answer(reply)

    def _take_arrivals(self, reply: Any) -> None:
        if isinstance(reply, ReplyError) and "unction not found" in str(reply):
            return  # of a version in which no bucket moved
        if self._is_answer(reply):
            try:
                self._ear.on_arrivals(reply[1])
            except AnotherTerm as exc:
                self._end_with(exc)

    def _take_tails(self, request: Tails, reply: Any) -> None:
        if self._is_answer(reply):
            seq, tails = reply
            self._stream.on_tails(request, seq, tails)
            self.turn_soon()

    def _take_read(self, request: Read, reply: Any) -> None:
        if isinstance(reply, ReplyError) and (tag := _tag_of(reply)) is not None:
            # A bucket that is not here (any more): who is in it finds it where it is.
            self._tell(reply)
            rooms = enumerate(request.rooms)
            places = [place for place, held in rooms if b"{%d}" % bucket_of(held.room) == tag]
            self._stream.on_missing(request, places)
        elif self._is_answer(reply):
            reached, is_complete, packed, holes = reply
            if holes:
                self._stream.on_missing(request, holes)
            else:
                found, unreadable = decode_read(packed)
                self._stream.statistics.unreadable += unreadable
                self._stream.on_read(request, reached, found, is_complete=bool(is_complete))
        self.turn_soon()

    def _is_answer(self, reply: Any) -> bool:
        """Say whether *reply* is one; a refusal ends the connection."""
        if isinstance(reply, ReplyError):
            self._tell(reply)
            if self._connection is not None:
                self._connection.abort(str(reply))
        return self._connection is not None and not isinstance(reply, Exception)

    def _tell(self, error: ReplyError) -> None:
        if (words := str(error)).startswith("ROOMFUL "):
            self._ear.on_refused(words.removeprefix("ROOMFUL "))


def _tag_of(error: ReplyError) -> bytes | None:
    """Give the tag of the bucket that a read was refused for."""
    words = str(error).split()
    if words[0] == "ROOMFUL" and words[-1].startswith("{"):
        return words[-1].encode()
    return None
