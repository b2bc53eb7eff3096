"""
How long messages are kept, by room pattern: `temp-*=1d, user:*=90d, *=365d`.

The first rule that fits a room counts; rooms that none fits are kept for good. The age is that of
the message's own timestamp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from roomful.archive.base import Rule
from roomful.cluster.glob import Glob
from roomful.shard.message import RoomId

__all__ = ["cutoffs", "lost_rooms", "parse_rules", "rule_of"]

_RULE: Final = re.compile(r"(.{1,255})=(?:([1-9][0-9]{0,5})([hd])|forever)")
_MS: Final = {"h": 3_600_000, "d": 86_400_000}


def parse_rules(words: Iterable[str]) -> tuple[Rule, ...]:
    """
    Read rules such as `temp-*=1d`, `*=forever`; h are hours, d are days.

    Raises:
        ValueError: names all that are none.
    """
    rules, bad = [], []
    for word in words:
        match = _RULE.fullmatch(word)
        if match is None:
            bad.append(word)
        else:
            keep = int(match[2]) * _MS[match[3]] if match[2] else None
            rules.append(Rule(match[1], keep))
    if bad:
        raise ValueError(
            f"retention: {', '.join(map(repr, bad))}: a pattern, =, and 12h, 30d or forever"
        )
    return tuple(rules)


@lru_cache(maxsize=256)
def _glob(pattern: str) -> Glob:
    return Glob(frozenset([pattern]))


def rule_of(rules: Sequence[Rule], room: str) -> Rule | None:
    """Give the rule that counts for *room*."""
    return next((rule for rule in rules if _glob(rule.pattern).matches(room)), None)


def cutoffs(rules: Sequence[Rule], now_ms: int) -> Iterator[tuple[Rule, int]]:
    """Give each rule that ends, and the time before which its messages go."""
    for rule in rules:
        if rule.keep_ms is not None:
            yield rule, now_ms - rule.keep_ms


def lost_rooms(rooms: Mapping[RoomId, int], floors: Iterable[tuple[str, int]]) -> list[RoomId]:
    """
    Give the rooms of which something above their join offsets may be gone.

    Args:
        floors: patterns, and the newest offset of which retention let something go.
    """
    marks = [(pattern, int(newest)) for pattern, newest in floors]
    return [
        room
        for room, joined in rooms.items()
        if any(newest > joined and _glob(pattern).matches(room) for pattern, newest in marks)
    ]
