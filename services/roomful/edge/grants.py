"""What a token itself allows: rights in rooms by pattern, compiled once per distinct claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from roomful.cluster.glob import Glob

__all__ = ["Right", "RoomGrants"]


class Right(StrEnum):
    """What a token can be allowed in a room; neither includes the other."""

    JOIN = "join"  # join, and read: history, presence
    SEND = "send"  # message, publish, typing


class RoomGrants(Mapping[str, frozenset[str]]):
    """A token's ``rooms`` claim: pattern to rights, compiled for ``allows``."""

    __slots__ = ("_join", "_rights", "_send")

    def __init__(self, rights: Mapping[str, frozenset[str]]) -> None:
        self._rights = dict(rights)
        self._join, self._send = (
            Glob(frozenset(p for p, granted in self._rights.items() if right in granted))
            for right in (Right.JOIN, Right.SEND)
        )

    def allows(self, room: str, right: Right) -> bool:
        """Whether a pattern with *right* fits *room*."""
        return (self._join if right is Right.JOIN else self._send).matches(room)

    def __getitem__(self, pattern: str) -> frozenset[str]:
        return self._rights[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rights)

    def __len__(self) -> int:
        return len(self._rights)
