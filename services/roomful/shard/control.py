"""
What edges say to each other, and what they have to know of before they came: over all shards.

Commands go out on every shard that can be reached, and revocations are kept by each, so that an
edge which hears one shard, or reads one, knows everything. A command comes once for each shard:
who hears it tells repetitions by its id. Whoever can write to the shards can say anything here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

from roomful.protocol.errors import Refused
from roomful.shard.redis import RedisShard
from roomful.shard.redis_shards import RedisShards
from roomful.shard.refusals import unavailable

__all__ = ["CHANNEL", "Taken", "ControlChannel"]

CHANNEL: Final = b"roomful:control"
PAGE: Final = 1000
ASK_TIMEOUT_S: Final = 2.0

T = TypeVar("T")


class Taken(NamedTuple):
    """How many shards took something, and how many there are."""

    shards: int
    of: int


class ControlChannel:
    """The one place from which an edge talks to all others."""

    def __init__(self, shards: RedisShards) -> None:
        """Use *shards*, which are not started yet."""
        self._shards = shards
        self.on_words: Callable[[bytes], None] = lambda _words: None
        """Hears what any edge says, this one too, once per shard."""
        self.on_up: Callable[[], None] = lambda: None
        """Called when there is a new connection to a shard: something may have been missed."""
        shards.channels[CHANNEL] = lambda words: self.on_words(words)
        shards.on_up = lambda _shard: self.on_up()

    async def publish(self, words: bytes) -> Taken:
        """Let all edges hear *words*; never raises for a shard that is away."""
        return _taken(await self._each(lambda shard: shard.ask("control", words)))

    async def revoke(self, subject: str, ttl_ms: int, words: bytes) -> Taken:
        """Let all edges hear *words*, and keep them *ttl_ms* for those that come later."""
        return _taken(await self._each(lambda shard: shard.ask("revoke", subject, ttl_ms, words)))

    async def revocations(self) -> list[tuple[bytes, int]]:
        """
        Give what was revoked and has not lapsed: the words, and for how many ms more.

        Each may come once for every shard.

        Raises:
            Refused: SHARD_UNAVAILABLE, no shard answered.
        """
        found = await self._each(_revocations)
        whole = [one for one in found if not isinstance(one, Refused)]
        if found and not whole:
            raise next(one for one in found if isinstance(one, Refused))
        return [pair for one in whole for pair in one]

    async def edges(self) -> set[str]:
        """
        Give what the edges that are there now say about themselves.

        Raises:
            Refused: SHARD_UNAVAILABLE, no shard answered.
        """
        found = await self._each(lambda shard: shard.edges())
        whole = [one for one in found if not isinstance(one, Refused)]
        if found and not whole:
            raise next(one for one in found if isinstance(one, Refused))
        return {about for one in whole for about in one}

    async def _each(self, ask: Callable[[RedisShard], Awaitable[T]]) -> list[T | Refused]:
        """Ask all shards at once; of each its answer, or why there is none."""

        async def one(shard: RedisShard) -> T | Refused:
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    return await ask(shard)
            except Refused as refused:
                return refused
            except TimeoutError:
                return unavailable(shard.name, "no answer in time")

        return list(await asyncio.gather(*map(one, tuple(self._shards.shards.values()))))


def _taken(answers: list[Any]) -> Taken:
    refused = sum(isinstance(answer, Refused) for answer in answers)
    return Taken(len(answers) - refused, len(answers))


async def _revocations(shard: RedisShard) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    cursor = b"0"
    while True:
        cursor, *pairs = await shard.ask("revocations", cursor, PAGE)
        found += zip(pairs[::2], map(int, pairs[1::2]), strict=True)
        if cursor == b"0":
            return found
