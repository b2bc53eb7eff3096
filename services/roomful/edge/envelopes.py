"""
Messages as they are stored: checks of what a sender gave, and the envelope made of it once.

A body that is still open (without its closing brace) lets the offset be appended when it goes
out, without parsing (shard/message.py, Envelope.body).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from itertools import accumulate, count
from secrets import token_hex
from typing import Final, Protocol

import msgspec

from roomful.protocol.errors import BadPacket, RefusalCode, Refused
from roomful.protocol.operations import RESERVED_EVENTS, is_clean
from roomful.protocol.socketio import MAX_DEPTH, check_placeholders
from roomful.shard.base import Settle
from roomful.shard.message import Envelope, RoomId, UserId

__all__ = [
    "MAX_DIGITS",
    "PublishCall",
    "build_direct",
    "build_event",
    "build_message",
    "check_content",
    "check_event_name",
    "check_room_name",
    "now_ms",
]

MAX_DIGITS: Final = 4300
"""What Python reads by default; a longer number would cut every Python client of the room."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
# One level deeper, and one less, as signed bytes.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_json = msgspec.json.Encoder().encode
_id_prefix = token_hex(5) + "-"
_id_numbers = count()


class PublishCall(Protocol):
    """Stores an envelope in its room, or in those of two users."""

    def __call__(self, envelope: Envelope, settle: Settle, *, is_named: bool) -> None:
        """Store it; *settle* hears when it is safe."""


def now_ms() -> int:
    """Give the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _new_id() -> str:
    """Name a message: unlike any other of this process, and most likely of all others."""
    return f"{_id_prefix}{next(_id_numbers)}"


class _MessageBody(msgspec.Struct, rename="camel", gc=False):
    id: str
    room_id: str
    user_id: str
    content: msgspec.Raw
    timestamp: int


class _DirectBody(msgspec.Struct, rename="camel", gc=False):
    id: str
    user_id: str
    to: str
    content: msgspec.Raw
    timestamp: int


def _plain(attachments: Sequence[bytes]) -> tuple[bytes, ...]:
    """Give *attachments* as bytes proper: a log cannot encode the kind that polling makes."""
    return tuple(map(bytes, attachments)) if attachments else ()


def build_message(
    room: RoomId,
    user: UserId,
    content: msgspec.Raw,
    id: str | None,  # noqa: A002 - the word of the wire
    attachments: Sequence[bytes] = (),
) -> Envelope:
    """Make the envelope of a `message`; without an *id* it gets one."""
    message_id, timestamp = _new_id() if id is None else id, now_ms()
    body = _json(_MessageBody(message_id, room, user, content, timestamp))[:-1]
    more = _plain(attachments) if attachments else ()
    return Envelope(room, "message", message_id, user, timestamp, body, more)


def build_direct(
    room: RoomId,
    user: UserId,
    to: UserId,
    content: msgspec.Raw,
    id: str | None,  # noqa: A002 - the word of the wire
    attachments: Sequence[bytes] = (),
) -> Envelope:
    """Make the envelope of a `direct-message` from *user* *to* a user, for one of their rooms."""
    message_id, timestamp = _new_id() if id is None else id, now_ms()
    body = _json(_DirectBody(message_id, user, to, content, timestamp))[:-1]
    return Envelope(room, "direct-message", message_id, user, timestamp, body, _plain(attachments))


def build_event(
    room: RoomId,
    user: UserId,
    event: str,
    data: msgspec.Raw,
    id: str | None,  # noqa: A002 - the word of the wire
    attachments: Sequence[bytes] = (),
) -> Envelope:
    """Make the envelope of an app's own *event*: its body is *data*, whole."""
    message_id, timestamp = _new_id() if id is None else id, now_ms()
    return Envelope(room, event, message_id, user, timestamp, bytes(data), _plain(attachments))


def _is_deep(content: bytes) -> bool:
    """Whether *content*, valid JSON, is nested deeper than MAX_DEPTH; at worst 90 ms for 1 MB."""
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return False
    steps = _STRING.sub(b"", content).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_DEPTH


def check_content(content: msgspec.Raw, attachments: Sequence[bytes] = ()) -> None:
    """
    Check that *content* harms nobody who will read it.

    Raises:
        Refused: BAD_REQUEST: a number that is too long, nesting that is too deep, placeholders that
            do not fit.
    """
    size = len(content)
    if size > 2 * MAX_DEPTH and _is_deep(bytes(content)):
        raise Refused(RefusalCode.BAD_REQUEST, f"nested more than {MAX_DEPTH} deep")
    if size > MAX_DIGITS and _LONG_NUMBER.search(bytes(content)):
        raise Refused(RefusalCode.BAD_REQUEST, f"a number of more than {MAX_DIGITS} digits")
    if attachments:
        try:
            check_placeholders(bytes(content), len(attachments))
        except (BadPacket, msgspec.MsgspecError, RecursionError) as exc:
            raise Refused(RefusalCode.BAD_REQUEST, f"binary: {exc}") from exc


def check_event_name(event: str) -> None:
    """
    Check that an app may name an event *event*.

    Raises:
        Refused: RESERVED_EVENT, or BAD_REQUEST.
    """
    if not is_clean(event):
        raise Refused(RefusalCode.BAD_REQUEST, "an event's name has no control characters")
    if event in RESERVED_EVENTS or event.startswith("roomful:"):
        raise Refused(RefusalCode.RESERVED_EVENT, f"an event cannot be named {event[:64]!a}")


def check_room_name(name: str) -> None:
    """
    Check that *name* can be a room's.

    Raises:
        Refused: BAD_REQUEST.
    """
    if not is_clean(name):
        raise Refused(RefusalCode.BAD_REQUEST, "a room's name has no control characters")
