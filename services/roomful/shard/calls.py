"""
What an edge asks of a shard and waits for: functions of the library, over one connection.

It is one pipelined connection, and not a pool of redis-py's: ten thousand clients that join at
once would need as many connections, or wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.link import Link
from roomful.shard.refusals import Elsewhere
from roomful.shard.resp import Login, ReplyError

__all__ = ["Calls"]

logger = logging.getLogger("roomful.shard")

_READ_ONLY: Final = frozenset(
    {"edges", "lineage", "load_session", "members", "outbox", "page", "read", "revocations"}
)

# What a primary says when it is not, or cannot yet: the same call may do later, or elsewhere.
_NOT_NOW: Final = (
    *("LOADING", "READONLY", "BUSY", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "OOM"),
    "MISCONF",  # its disk is full
    *("NOAUTH", "NOPERM"),  # its users are being changed
)


class Calls:
    """The functions of one shard, for one edge."""

    # Mutable state: the term, and when the shard last did what it was asked.
    def __init__(
        self,
        shard: ShardName,
        edge: str,
        *,
        timeout_s: float,
        login: Login,
        on_up: Callable[[], None],
    ) -> None:
        """
        Call for *edge*, once run() runs and retarget() has said where the shard is.

        Args:
            timeout_s: for each reply.
            on_up: called when there is a new connection.
        """
        self._shard = shard
        self._link = Link(f"roomful-calls-{edge}", timeout_s=timeout_s, login=login, on_up=on_up)
        self.term = 0
        """In which the shard is called; in another one it refuses."""
        self.answered_at = float("-inf")
        """When it last did what it was asked, by the loop's time."""

    def __repr__(self) -> str:
        return f"<Calls in term {self.term}, {self._link}>"

    def retarget(self, address: Address, term: int) -> None:
        """Call the shard at *address* from now on, in *term*."""
        self.term = term
        self._link.retarget(address)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._link.connection is not None

    @property
    def since(self) -> float:
        """Since when there is a connection, or none; by the loop's time."""
        return self._link.since

    async def run(self) -> None:
        """Keep the connection, for ever; to be cancelled."""
        await self._link.run()

    async def call(
        self, function: str, keys: Sequence[bytes] = (), *args: bytes | str | int
    ) -> Any:
        """
        Call a function in the shard's term.

        Raises:
            Elsewhere: the shard refused, and changed nothing.
            LostConnection: no reply came.
            Refused: INTERNAL, it would fail again: a key is not what the library made it.
        """
        return await self._call(function, keys, self.term, *args)

    async def call_in_any_term(self, function: str) -> Any:
        """
        Call a function that tells of the whole shard, and is not told the term.

        Raises:
            Elsewhere, LostConnection, Refused: as call().
        """
        return await self._call(function, ())

    async def scan(self, cursor: bytes | int, match: str, count: int) -> tuple[bytes, list[bytes]]:
        """
        Give the cursor of the next step, `b"0"` after the last, and keys that *match*.

        Raises:
            Elsewhere: the shard refused.
            LostConnection: no reply came.
        """
        try:
            after, keys = await self._link.call("SCAN", cursor, "MATCH", match, "COUNT", count)
        except ReplyError as exc:
            raise Elsewhere(str(exc)) from exc
        return after, keys

    async def _call(self, function: str, keys: Sequence[bytes], *args: bytes | str | int) -> Any:
        command = "FCALL_RO" if function in _READ_ONLY else "FCALL"
        words: tuple[bytes | str | int, ...] = (f"roomful_v1_{function}", len(keys), *keys, *args)
        try:
            reply = await self._link.call(command, *words)
        except ReplyError as exc:
            why = str(exc)
            if why.startswith("ROOMFUL "):
                raise Elsewhere(why.removeprefix("ROOMFUL ")) from exc
            if why.startswith(_NOT_NOW) or "unction not found" in why:
                raise Elsewhere(why) from exc
            logger.error(
                "call failed", extra={"shard": self._shard, "function": function, "why": why}
            )
            sentence = f"shard {self._shard} could not do this"
            raise Refused(RefusalCode.INTERNAL, sentence) from exc
        self.answered_at = asyncio.get_running_loop().time()
        return reply
