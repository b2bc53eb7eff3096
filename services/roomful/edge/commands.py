"""
What edges say to each other over the shards: commands, and what became of them (control.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

__all__ = [
    "MAX_WORDS_BYTES",
    "Command",
    "Did",
    "Disconnect",
    "Revoke",
    "TellStats",
    "Used",
    "decode",
    "parts",
]

MAX_WORDS_BYTES: Final = 8192
PART_BYTES: Final = MAX_WORDS_BYTES - 256
"""Of usage in one command: the rest is its head."""


class _Words(msgspec.Struct, frozen=True, tag_field="do"):
    id: str
    sender: str


class Disconnect(_Words, frozen=True, tag="disconnect"):
    """Close every connection of *user*."""

    user: str


class Revoke(_Words, frozen=True, tag="revoke"):
    """Refuse what *user* was issued before a moment, or one token; times in seconds."""

    issued_before: float
    until: float
    user: str | None = None
    token_id: str | None = None


class TellStats(_Words, frozen=True, tag="stats"):
    """Say your numbers."""


class Did(_Words, frozen=True, tag="did"):
    """The answer of *sender* to the command *id* of *to*."""

    to: str
    connections: int = 0
    stats: dict[str, int | float | bool] | None = None


class Used(_Words, frozen=True, tag="used"):
    """A part of what users of *sender* use: user, messages since the last round, connections."""

    round: int
    users: list[tuple[str, int, int]]


Command = Disconnect | Revoke | TellStats
decode: Final = msgspec.json.Decoder(Command | Did | Used).decode


def parts(used: Sequence[tuple[str, int, int]]) -> list[list[tuple[str, int, int]]]:
    """Cut *used* into parts that fit into a command; at least one."""
    parts: list[list[tuple[str, int, int]]] = [[]]
    size = 0
    for one in used:
        length = len(msgspec.json.encode(one)) + 1
        if size + length > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += length
    return parts
