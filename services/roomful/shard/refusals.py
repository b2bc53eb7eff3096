"""What a shard on Redis says when it does not do what it was asked, and what clients hear then."""

from __future__ import annotations

from roomful.cluster.cursor import ShardName
from roomful.protocol.errors import RefusalCode, Refused

__all__ = ["Elsewhere", "unavailable"]


class Elsewhere(Exception):
    """
    The shard does not take this now, and changed nothing.

    *words* say why: `MOVED 7 s2`, `FROZEN 120`, `VERSION 8`, `STALE_TERM 3`, or what Redis said.
    """

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


def unavailable(shard: ShardName, why: object) -> Refused:
    """Give the refusal of what *shard* cannot do now."""
    return Refused(RefusalCode.SHARD_UNAVAILABLE, f"shard {shard} cannot be reached: {why}")
