"""A message on its way to a shard, and what it knows of its bucket and its shard meanwhile."""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

from roomful.protocol.errors import Refused
from roomful.shard.base import Settle, Stored

__all__ = ["Post", "RouteState", "ShardState", "tell"]

logger = logging.getLogger("roomful.shard")


def tell(settle: Settle, outcome: Stored | Refused) -> None:
    """
    Tell the sender of a message; never raises, since others of its batch wait behind it.

    A sender that could not take the answer can send the message again, with its id.
    """
    try:
        settle(outcome)
    except Exception:
        logger.exception("a sender could not be told")


class ShardState(Protocol):
    """A shard, as a post sees it."""

    waiting_bytes: int
    """Of all posts that were given to it and are not settled."""


class RouteState(Protocol):
    """A bucket, as a post sees it."""

    version: int
    """The version that the shard is believed to have of it."""
    waiting: deque[Post] | None
    """What waits for the bucket to be reachable; None while it is."""


class Post:
    """A message on its way to a shard."""

    __slots__ = (
        "due",
        "identity",
        "is_again",
        "key",
        "packed",
        "route",
        "settle",
        "shard",
        "size",
        "time",
    )

    def __init__(
        self,
        shard: ShardState,
        route: RouteState,
        key: bytes,
        identity: str,
        time: int,
        packed: bytes,
        settle: Settle,
        size: int,
        due: float,
    ) -> None:
        self.shard = shard
        """Whose waiting_bytes it is counted in, until it is settled."""
        self.route = route
        self.key = key
        """Of the room's log."""
        self.identity = identity
        self.time = time
        """The envelope's timestamp."""
        self.packed = packed
        self.settle = settle
        self.size = size
        """Bytes it takes while it waits."""
        self.due = due
        """By the loop's time."""
        self.is_again = False
        """Whether it was sent before."""
        shard.waiting_bytes += size

    def end(self, outcome: Stored | Refused) -> None:
        """Tell the sender; once, and never raises."""
        self.shard.waiting_bytes -= self.size
        tell(self.settle, outcome)
