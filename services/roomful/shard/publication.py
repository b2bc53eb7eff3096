"""
What a shard on Redis sends, from MessagePack: the publications of a room, canaries, read replies.

All of a batch is decoded in one call. What cannot be decoded (a newer edge's envelope, a PUBLISH
by hand) is taken apart entry by entry, so that one bad entry costs itself and not the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from roomful.shard.message import Entry, Envelope, UserId

__all__ = [
    "CastMessage",
    "Found",
    "Publication",
    "decode_message",
    "decode_read",
]


class Publication(msgspec.Struct, array_like=True, tag=0, frozen=True, gc=False):
    """A room's new entries of one batch, published on `r:room`."""

    before: int
    """The room's newest offset before them."""
    entries: list[Entry]


class CastMessage(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """A Cast without its room, published on `r:room`."""

    event: str
    body: bytes
    except_user: UserId | None
    is_volatile: bool


class Found(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry of `roomful_v1_read`; *place* is its room's among the keys."""

    offset: int
    place: int
    envelope: Envelope


class _RawPublication(msgspec.Struct, array_like=True, tag=0):
    before: int
    entries: list[tuple[int, msgspec.Raw]]


_message: Final = msgspec.msgpack.Decoder(Publication | CastMessage).decode
_raw_message: Final = msgspec.msgpack.Decoder(_RawPublication).decode
_found: Final = msgspec.msgpack.Decoder(list[Found]).decode
_raw_found: Final = msgspec.msgpack.Decoder(list[tuple[int, int, msgspec.Raw]]).decode
_envelope: Final = msgspec.msgpack.Decoder(Envelope).decode

_FAULTS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_message(data: bytes) -> tuple[Publication | CastMessage | None, int]:
    """
    Read what was published on a channel.

    Returns:
        What it is, None when it is none of them; and how many entries of it cannot be read.
    """
    try:
        return _message(data), 0
    except _FAULTS:
        pass
    try:
        raw = _raw_message(data)
    except _FAULTS:
        return None, 1
    entries = [
        Entry(offset, envelope)
        for offset, one in raw.entries
        if (envelope := _try(one)) is not None
    ]
    return Publication(raw.before, entries), len(raw.entries) - len(entries)


def decode_read(data: bytes) -> tuple[Sequence[Found], int]:
    """
    Read the entries of a read's reply; and how many of them cannot be read.

    Raises:
        ValueError: it is no such reply.
    """
    try:
        return _found(data), 0
    except _FAULTS:
        pass
    try:
        raw = _raw_found(data)
    except _FAULTS as exc:
        raise ValueError("not the reply of a read") from exc
    entries = [
        Found(offset, place, envelope)
        for offset, place, one in raw
        if (envelope := _try(one)) is not None
    ]
    return entries, len(raw) - len(entries)


def _try(raw: msgspec.Raw) -> Envelope | None:
    try:
        return _envelope(raw)
    except _FAULTS:
        return None
