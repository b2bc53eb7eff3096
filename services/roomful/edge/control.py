"""
What one edge asks of all edges: disconnect a user, refuse a user's tokens, say your numbers.

A command is done here at once, and told to the others over the shards (shard/control.py); each
answers with what it did, and the caller hears how many edges there are and how many have answered.
Without shards to share, an embedded edge is all of its cluster.

Revocations are kept by the shards until they lapse, and for an embedded edge by what keeps its
messages. An edge reads them before it takes anybody,
after each new connection to a shard, and every REREAD_S, so one that was cut off knows at most
that late what it missed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from roomful.archive.base import ArchiveUnavailable
from roomful.edge.auth import REVOCATION_LIFETIME_S
from roomful.edge.commands import (
    MAX_WORDS_BYTES,
    Command,
    Did,
    Disconnect,
    Revoke,
    TellStats,
    Used,
    decode,
    parts,
)
from roomful.edge.peers import About, read_about
from roomful.edge.report import stats
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.message import UserId
from roomful.telemetry.lasting import keep_going

if TYPE_CHECKING:
    from roomful.edge.edge import Edge
    from roomful.shard.control import ControlChannel

__all__ = ["Control", "LeasedEdges", "Reached", "RevocationKeeper"]

logger = logging.getLogger("roomful.edge")

ANSWER_S: Final = 2.0
"""How long the other edges may take to answer."""
REREAD_S: Final = 30.0
MAX_ASKING: Final = 64
"""Commands that wait for answers at once."""
MAX_KNOWN: Final = 4096
"""Ids of commands that are remembered: each comes once for every shard."""
STATS_S: Final = 1.0
"""Numbers of other edges are at most this old: anyone may ask for them."""


@dataclass(slots=True)
class Reached:
    """What became of a command."""

    connections: int
    """Closed by it, on all edges that answered."""
    edges: int = 1
    """There are so many, this one included."""
    answered: int = 1
    """So many did it for certain."""
    stats: dict[str, dict[str, int | float | bool]] = field(default_factory=dict)
    """By edge."""


class LeasedEdges:
    """The edges that have a lease on a shard. Implements Directory."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel

    async def edges(self) -> list[About]:
        """
        Give the edges that are there now.

        Raises:
            Refused: SHARD_UNAVAILABLE.
        """
        found = [read_about(text) for text in await self._channel.edges() if text]
        return [about for about in found if about is not None]


@dataclass(slots=True)
class _Asking:
    """A command that waits: by edge, its answer."""

    answers: dict[str, Did] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class RevocationKeeper(Protocol):
    """Keeps what an embedded edge refuses over the end of its process."""

    async def keep_revocation(self, subject: str, lapses_at: float, words: bytes) -> None:
        """Keep *words* until *lapses_at*; may raise ArchiveUnavailable."""

    async def revocations(self) -> list[tuple[bytes, float]]:
        """Give what has not lapsed, and when it will; may raise ArchiveUnavailable."""


class Control:
    """What this edge asks of all, and does for others."""

    # Mutable state: the commands that wait for answers, the ids heard, the numbers of the cluster
    # as last asked for, and the task that reads revocations.
    def __init__(self, edge: Edge, channel: ControlChannel | None) -> None:
        self._edge = edge
        self._channel = channel
        self.keeper: RevocationKeeper | None = None
        """Of an embedded edge that has one."""
        self._asking: dict[str, _Asking] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._stats: tuple[float, Reached] | None = None
        self._stats_lock = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._read_again = asyncio.Event()
        self.ignored = 0
        """What came over the channel and was no command."""
        if channel is not None:
            channel.on_words = self._hear
            channel.on_up = self._read_again.set

    async def start(self) -> None:
        """
        Learn what was revoked before, and from now on what is; the shards are there.

        Raises:
            ArchiveUnavailable: an embedded edge cannot read it.
        """
        if self.keeper is not None:
            self._learn(await self.keeper.revocations())
        if self._channel is not None:
            await self._read_revocations()
            reading = keep_going("revocations", self._keep_reading)
            self._reading = asyncio.get_running_loop().create_task(reading)
            self._edge.usage.start()

    async def aclose(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    # Asking ---------------------------------------------------------------------------------

    async def disconnect(self, user: UserId) -> Reached:
        """
        Close every connection of *user*, on all edges.

        Raises:
            Refused: SHARD_UNAVAILABLE, no other edge could be told; here it is done.
        """
        closed = self._edge.sign_in.disconnect(user)
        return await self._ask(Disconnect(*self._head(), user), Reached(closed))

    async def revoke(self, user: str | None, token_id: str | None, until: float | None) -> Reached:
        """
        Refuse tokens from now on, on all edges, also those that start later.

        Raises:
            Refused: SHARD_UNAVAILABLE, no shard keeps it; here it is done.
        """
        now = time.time()
        until = now + REVOCATION_LIFETIME_S if until is None else until
        reached = Reached(0)
        for kind, one in (("user", user), ("token_id", token_id)):
            if one is None:
                continue
            words = Revoke(*self._head(), now, until, **{kind: one})
            reached.connections += self._revoke(words)
            reached = await self._ask(words, reached, keep_as=f"{kind}:{one}")
        return reached

    async def stats(self) -> Reached:
        """Give the numbers of all edges that answer: this one's of now, others' STATS_S old."""
        async with self._stats_lock:
            now = self._edge.time()
            if self._stats is None or now - self._stats[0] >= STATS_S:
                self._stats = now, await self._ask_stats()
            reached = self._stats[1]
        reached.stats[self._edge.peers.name] = _numbers(self._edge)
        return reached

    async def _ask_stats(self) -> Reached:
        reached = Reached(0)
        try:
            return await self._ask(TellStats(*self._head()), reached)
        except Refused:
            # Numbers are wanted most when something is wrong: give what there is.
            reached.edges = max(1, len(self._edge.peers.addresses))
            return reached

    def _head(self) -> tuple[str, str]:
        return secrets.token_urlsafe(12), self._edge.peers.name

    async def _ask(self, command: Command, reached: Reached, *, keep_as: str = "") -> Reached:
        """Tell the others, and add to *reached* what they answer in time."""
        channel = self._channel
        if channel is None:
            if self.keeper is not None and isinstance(command, Revoke):
                await self._keep(self.keeper, keep_as, command)
            return reached
        if len(self._asking) >= MAX_ASKING:
            raise Refused(RefusalCode.OVERLOADED, "too many commands at once; here it is done")
        asking = self._asking[command.id] = _Asking()
        try:
            others = {one.name for one in await LeasedEdges(channel).edges()} - {command.sender}
            words = msgspec.json.encode(command)
            if isinstance(command, Revoke):
                ttl_ms = max(1, int((command.until - time.time()) * 1000))
                taken = await channel.revoke(keep_as, ttl_ms, words)
            else:
                taken = await channel.publish(words)
            if not taken.shards:
                sentence = "no shard could be told: only this edge has done it"
                raise Refused(RefusalCode.SHARD_UNAVAILABLE, sentence)
            await self._collect(asking, others)
        finally:
            del self._asking[command.id]
        reached.edges = 1 + len(others | asking.answers.keys())
        reached.answered = 1 + len(asking.answers)
        for did in asking.answers.values():
            reached.connections += did.connections
            if did.stats is not None:
                reached.stats[did.sender] = did.stats
        return reached

    async def _keep(self, keeper: RevocationKeeper, subject: str, words: Revoke) -> None:
        try:
            await keeper.keep_revocation(subject, words.until, msgspec.json.encode(words))
        except ArchiveUnavailable as exc:
            logger.error("revocation not kept", extra={"why": exc.sentence})
            sentence = "it could not be written: it is done, until the next restart"
            raise Refused(RefusalCode.SHARD_UNAVAILABLE, sentence) from exc

    async def _collect(self, asking: _Asking, others: set[str]) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                while not others <= asking.answers.keys():
                    asking.changed.clear()
                    await asking.changed.wait()
        except TimeoutError:
            silent = sorted(others - asking.answers.keys())
            logger.warning("edges did not answer", extra={"edges": silent})

    async def tell(self, number: int, used: Sequence[tuple[str, int, int]]) -> None:
        """Tell the others a round of usage, in parts; who is not reached misses it."""
        assert self._channel is not None
        words = [Used(*self._head(), number, part) for part in parts(used)]
        await asyncio.gather(*(self._channel.publish(msgspec.json.encode(one)) for one in words))

    # Doing ----------------------------------------------------------------------------------

    def _hear(self, words: bytes) -> None:
        """Do what another edge asks, once; or take its answer."""
        if len(words) > MAX_WORDS_BYTES:
            self.ignored += 1
            return
        try:
            command = decode(words)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            # An edge of a later version may say what this one does not know.
            self.ignored += 1
            return
        own = self._edge.peers.name
        if command.sender == own:
            return
        if isinstance(command, Did):
            if command.to == own and (asking := self._asking.get(command.id)) is not None:
                asking.answers[command.sender] = command
                asking.changed.set()
        elif command.id not in self._known:
            self._known[command.id] = None
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            if isinstance(command, Used):
                self._edge.usage.hear(command.sender, command.round, command.users)
                return
            did = self._do(command)
            assert self._channel is not None
            self._edge.spawn(self._answer(did))

    def _do(self, command: Command) -> Did:
        head = command.id, self._edge.peers.name, command.sender
        match command:
            case Disconnect():
                return Did(*head, self._edge.sign_in.disconnect(UserId(command.user)))
            case Revoke():
                return Did(*head, self._revoke(command))
            case TellStats():
                return Did(*head, stats=_numbers(self._edge))

    async def _answer(self, did: Did) -> None:
        assert self._channel is not None
        await self._channel.publish(msgspec.json.encode(did))

    def _revoke(self, words: Revoke) -> int:
        if not (words.user or words.token_id):
            self.ignored += 1
            return 0
        self._edge.authenticator.revoke(
            user=words.user,
            token_id=words.token_id,
            until=words.until,
            issued_before=words.issued_before,
        )
        return self._edge.sign_in.close_revoked()

    # Revocations ----------------------------------------------------------------------------

    async def _keep_reading(self) -> None:
        while True:
            try:
                async with asyncio.timeout(REREAD_S):
                    await self._read_again.wait()
            except TimeoutError:
                pass
            self._read_again.clear()
            await self._read_revocations()

    async def _read_revocations(self) -> None:
        assert self._channel is not None
        try:
            found = dict(await self._channel.revocations())
        except Refused as refused:
            logger.warning("revocations could not be read", extra={"why": refused.sentence})
            return
        now = time.time()
        self._learn((packed, now + ttl_ms / 1000) for packed, ttl_ms in found.items())

    def _learn(self, found: Iterable[tuple[bytes, float]]) -> None:
        """Refuse what these words say, each until its time."""
        authenticator = self._edge.authenticator
        for packed, until in found:
            try:
                words = decode(packed)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                self.ignored += 1
                continue
            if isinstance(words, Revoke) and (words.user or words.token_id):
                authenticator.revoke(
                    user=words.user,
                    token_id=words.token_id,
                    until=until,
                    issued_before=words.issued_before,
                )
        self._edge.sign_in.close_revoked()


def _numbers(edge: Edge) -> dict[str, int | float | bool]:
    return {name: value for name, value in stats(edge).items() if isinstance(value, int | float)}
