"""
The cursor: how far an edge has read each shard, as one opaque string for clients.

A message is owed to a resuming client if and only if its offset is greater than the cursor's for
the shard it was born on (design.md section 7). The string is short because it travels with every
message: `<shard>.<offset in hex>`, shards joined by `-`; shard names are lower case letters and
digits, so nothing in it needs escaping in JSON or in a URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NewType

from roomful.protocol.errors import RoomfulError

__all__ = ["BadCursor", "CursorVector", "ShardName", "decode_cursor", "encode_cursor"]

ShardName = NewType("ShardName", str)
"""A shard's logical name, never its address: `[a-z][a-z0-9]{0,15}`."""

MAX_CURSOR_LENGTH: Final = 4096
_PART = re.compile(r"([a-z][a-z0-9]{0,15})\.([0-9a-f]{1,16})")


class BadCursor(RoomfulError):
    """A string that no edge gave out."""


def encode_cursor(positions: Mapping[ShardName, int]) -> str:
    """Give the cursor string of *positions*; the empty mapping gives the empty string."""
    return "-".join(f"{shard}.{offset:x}" for shard, offset in sorted(positions.items()))


def decode_cursor(cursor: str) -> dict[ShardName, int]:
    """
    Read a cursor string back.

    Raises:
        BadCursor: too long, not of the form, or a shard named twice.
    """
    if len(cursor) > MAX_CURSOR_LENGTH:
        raise BadCursor("a cursor this long was never given out")
    positions: dict[ShardName, int] = {}
    for part in cursor.split("-") if cursor else ():
        match = _PART.fullmatch(part)
        if match is None or match[1] in positions:
            raise BadCursor("not a cursor")
        positions[ShardName(match[1])] = int(match[2], 16)
    return positions


class CursorVector:
    """
    The positions of one reader, encoded at the price of one shard's number.

    The text before and after a shard's own number changes only when another shard moves, so it
    is kept: with one busy shard, or batches, a cursor costs one format.
    """

    # Mutable state: the positions, and for one shard at a time the text around its number; and
    # the whole of it as it was given out last.
    __slots__ = ("_after", "_around", "_before", "_encoded", "_positions")

    def __init__(self, positions: Mapping[ShardName, int] | None = None) -> None:
        self._positions: dict[ShardName, int] = dict(positions or {})
        self._around: ShardName | None = None
        self._before = self._after = b""
        self._encoded = encode_cursor(self._positions).encode()

    def __repr__(self) -> str:
        return f"<CursorVector {encode_cursor(self._positions)}>"

    @property
    def positions(self) -> Mapping[ShardName, int]:
        """The offset reached on each shard."""
        return self._positions

    def advance(self, shard: ShardName, offset: int) -> bytes:
        """Move *shard* to *offset* (never back) and give the cursor as bytes."""
        if offset > self._positions.get(shard, -1):
            self._positions[shard] = offset
        else:
            offset = self._positions[shard]
        if self._around != shard:
            self._surround(shard)
        encoded = self._encoded = b"%b%x%b" % (self._before, offset, self._after)
        return encoded

    def encode(self) -> bytes:
        """Give the cursor as bytes."""
        return self._encoded

    def _surround(self, shard: ShardName) -> None:
        names = sorted(self._positions)
        index = names.index(shard)

        def text(name: ShardName) -> str:
            return f"{name}.{self._positions[name]:x}"

        self._before = "".join(text(name) + "-" for name in names[:index]).encode()
        self._before += shard.encode() + b"."
        self._after = "".join("-" + text(name) for name in names[index + 1 :]).encode()
        self._around = shard
