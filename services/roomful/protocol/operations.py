"""
What clients can ask for, typed: the operations of docs/wire.md, for Socket.IO and plain JSON.

Parsing is one pass: the event's name is the tag of a union, so msgspec checks the name, the
fields and their types at once, and an app's own data (`content`, `data`) stays the bytes that
came (msgspec.Raw): it is validated, not built, and goes out as it came in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta, Raw, Struct

from roomful.protocol.errors import BadPacket, RefusalCode, Refused

__all__ = [
    "RESERVED_EVENTS",
    "Auth",
    "Direct",
    "GetPresence",
    "History",
    "Join",
    "Leave",
    "Message",
    "Operation",
    "Publish",
    "Resume",
    "SetPresence",
    "Typing",
    "explain",
    "is_clean",
    "parse_event",
    "parse_leniently",
]

Name = Annotated[str, Meta(min_length=1, max_length=255)]
UserName = Annotated[str, Meta(min_length=1, max_length=128)]
MessageId = Annotated[str, Meta(min_length=1, max_length=128)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]


class _Fields(Struct, frozen=True, rename="camel"):
    wire_name: ClassVar[str]
    """What clients call the operation."""


class Join(_Fields, frozen=True):
    """Enter a room: hear its messages, be in its presence."""

    wire_name: ClassVar[str] = "join-room"

    room_id: Name


class Leave(_Fields, frozen=True):
    """Leave a room."""

    wire_name: ClassVar[str] = "leave-room"

    room_id: Name


class Message(_Fields, frozen=True):
    """Store *content* in the room's log and send it to everyone in the room."""

    wire_name: ClassVar[str] = "message"

    room_id: Name
    content: Raw
    id: MessageId | None = None
    traceparent: str | None = None
    """The trace that it is part of, as W3C Trace Context writes it."""


class Direct(_Fields, frozen=True):
    """Send *content* to all connections of one user, and of the sender."""

    wire_name: ClassVar[str] = "direct-message"

    user_id: UserName
    content: Raw
    id: MessageId | None = None
    traceparent: str | None = None


class Publish(_Fields, frozen=True):
    """An event with a name of the app's own, stored and sent like a message."""

    wire_name: ClassVar[str] = "publish"

    room_id: Name
    event: Annotated[str, Meta(min_length=1, max_length=128)]
    data: Raw
    id: MessageId | None = None
    traceparent: str | None = None


class Typing(_Fields, frozen=True):
    """Tell the others that the user is typing; never stored."""

    wire_name: ClassVar[str] = "typing"

    room_id: Name
    is_typing: bool = True


class SetPresence(_Fields, frozen=True):
    """Change the user's status in all rooms of this connection."""

    wire_name: ClassVar[str] = "presence"

    status: Annotated[str, Meta(min_length=1, max_length=64)]


class GetPresence(_Fields, frozen=True):
    """Ask who is in a room."""

    wire_name: ClassVar[str] = "get-presence"

    room_id: Name


class History(_Fields, frozen=True):
    """Ask for a page of a room's log, oldest first."""

    wire_name: ClassVar[str] = "history"

    room_id: Name
    before: Offset | None = None
    after: Offset | None = None
    limit: Annotated[int, Meta(ge=1)] = 50


class Auth(_Fields, frozen=True):
    """Sign in (plain JSON), or swap the token for a fresh one."""

    wire_name: ClassVar[str] = "auth"

    token: str


class Resume(_Fields, frozen=True):
    """Plain JSON: join *rooms* again and get what was missed since *cursor*."""

    wire_name: ClassVar[str] = "resume"

    cursor: str
    rooms: Annotated[list[Name], Meta(max_length=4096)]


Operation = (
    Join
    | Leave
    | Message
    | Direct
    | Publish
    | Typing
    | SetPresence
    | GetPresence
    | History
    | Auth
    | Resume
)

# What apps may not name an event of their own: it would forge a message of somebody else, or
# collide with what clients give a meaning of their own.
RESERVED_EVENTS: Final = frozenset(
    """
    message direct-message user-joined user-left typing presence presence-count user-update cursor
    error reconnect recovery-failed token-expiring join-room leave-room get-presence history auth
    publish resume connected ack ping pong connect connect_error disconnect disconnecting
    newListener removeListener
    """.split()
)


class _Event(Struct, array_like=True, frozen=True):
    pass


class _JoinEvent(_Event, tag="join-room", frozen=True):
    fields: Join | Name


class _LeaveEvent(_Event, tag="leave-room", frozen=True):
    fields: Leave | Name


class _MessageEvent(_Event, tag="message", frozen=True):
    fields: Message


class _DirectEvent(_Event, tag="direct-message", frozen=True):
    fields: Direct


class _PublishEvent(_Event, tag="publish", frozen=True):
    fields: Publish


class _TypingEvent(_Event, tag="typing", frozen=True):
    fields: Typing


class _SetPresenceEvent(_Event, tag="presence", frozen=True):
    fields: SetPresence


class _GetPresenceEvent(_Event, tag="get-presence", frozen=True):
    fields: GetPresence | Name


class _HistoryEvent(_Event, tag="history", frozen=True):
    fields: History


class _AuthEvent(_Event, tag="auth", frozen=True):
    fields: Auth


_AnyEvent = (
    _JoinEvent
    | _LeaveEvent
    | _MessageEvent
    | _DirectEvent
    | _PublishEvent
    | _TypingEvent
    | _SetPresenceEvent
    | _GetPresenceEvent
    | _HistoryEvent
    | _AuthEvent
)

_decode_event: Callable[[bytes], _AnyEvent] = msgspec.json.Decoder(_AnyEvent).decode
_FROM_NAME: Final[dict[type[_Event], type[Join] | type[Leave] | type[GetPresence]]] = {
    _JoinEvent: Join,
    _LeaveEvent: Leave,
    _GetPresenceEvent: GetPresence,
}


def parse_event(body: bytes) -> Operation:
    """
    Read the JSON array of a Socket.IO event; *body* is valid UTF-8.

    Raises:
        BadPacket: not a JSON array that begins with a string: the connection cannot go on.
        Refused: UNKNOWN_EVENT, or BAD_REQUEST with the field and what is wrong with it.
    """
    try:
        event = _decode_event(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _explain_event(body, exc) from exc
    fields: Operation | str = event.fields
    return _FROM_NAME[type(event)](fields) if isinstance(fields, str) else fields


def _explain_event(body: bytes, exc: Exception) -> BadPacket | Refused:
    value = parse_leniently(body)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return BadPacket("the body of an event is an array that begins with its name")
    return explain(value[0], _EVENT_NAMES, exc, value)


def explain(name: str, known: frozenset[str], exc: Exception, value: Any) -> Refused:
    """Say what is wrong with the operation *name* of *value* that did not parse for *exc*."""
    if name not in known:
        sentence = f"there is no operation {ascii(name[:64])}"
        return Refused(RefusalCode.UNKNOWN_EVENT, sentence, ascii(name[:64])[1:-1])
    why = "text with half of a surrogate pair" if _is_cut_text(value) else exc
    return Refused(RefusalCode.BAD_REQUEST, f"{name}: {why}", name)


def _is_cut_text(value: Any) -> bool:
    """Whether there is text cut in the middle of a character, of which msgspec says little."""
    try:
        return _SURROGATE.search(json.dumps(value, ensure_ascii=False)) is not None
    except RecursionError:
        return False


def parse_leniently(body: bytes) -> Any:
    """
    Read JSON as clients write it: with lone surrogates and NaN, which msgspec refuses.

    So a client that sends them keeps its connection and is told. None if it is not JSON at all.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


_EVENT_NAMES: Final = frozenset(str(event.__struct_config__.tag) for event in _AnyEvent.__args__)


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Not isprintable() alone: spaces of other scripts and joiners are in people's room names.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_clean(name: str) -> bool:
    """Whether *name* can name a room, user or event: no control or surrogate characters."""
    return name.isprintable() or _UNCLEAN.search(name) is None
