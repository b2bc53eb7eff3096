"""
The plain JSON WebSocket: one object a message, `type` says the operation, `ref` names its ack.

Source: docs/wire.md.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from roomful.protocol.errors import BadPacket, Refused
from roomful.protocol.operations import (
    Auth,
    Direct,
    GetPresence,
    History,
    Join,
    Leave,
    Message,
    Operation,
    Publish,
    Resume,
    SetPresence,
    Typing,
    explain,
    parse_leniently,
)

__all__ = ["RefusedWithRef", "encode_ack", "encode_event", "parse"]


class RefusedWithRef(Refused):
    """A refusal that knows the `ref` its ack carries (JSON), or None."""

    def __init__(self, refused: Refused, ref: bytes | None) -> None:
        super().__init__(refused.code, refused.sentence, refused.operation)
        self.ref = ref


class _Join(Join, frozen=True, tag="join-room", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Leave(Leave, frozen=True, tag="leave-room", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Message(Message, frozen=True, tag="message", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Direct(Direct, frozen=True, tag="direct-message", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Publish(Publish, frozen=True, tag="publish", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Typing(Typing, frozen=True, tag="typing", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _SetPresence(SetPresence, frozen=True, tag="presence", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _GetPresence(GetPresence, frozen=True, tag="get-presence", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _History(History, frozen=True, tag="history", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Auth(Auth, frozen=True, tag="auth", tag_field="type"):
    ref: Raw | UnsetType = UNSET


class _Resume(Resume, frozen=True, tag="resume", tag_field="type"):
    ref: Raw | UnsetType = UNSET


_AnyOperation = (
    _Join
    | _Leave
    | _Message
    | _Direct
    | _Publish
    | _Typing
    | _SetPresence
    | _GetPresence
    | _History
    | _Auth
    | _Resume
)

_decode = msgspec.json.Decoder(_AnyOperation).decode
_NAMES: Final = frozenset(str(one.__struct_config__.tag) for one in _AnyOperation.__args__)


def parse(payload: bytes) -> tuple[Operation, bytes | None]:
    """
    Read one message; *payload* is valid UTF-8.

    Returns:
        The operation, and its `ref` as the JSON that came (None: no ack wanted).

    Raises:
        BadPacket: not a JSON object with a string `type`: the connection cannot go on.
        RefusedWithRef: UNKNOWN_EVENT, or BAD_REQUEST with the field and what is wrong with it.
    """
    try:
        operation = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _explain(payload, exc) from exc
    ref = operation.ref
    return operation, None if ref is UNSET else bytes(ref)


def _explain(payload: bytes, exc: Exception) -> BadPacket | RefusedWithRef:
    value = parse_leniently(payload)
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return BadPacket("a message is a JSON object with a string `type`")
    ref: bytes | None = None
    if "ref" in value:
        try:
            ref = msgspec.json.encode(value["ref"])
        except (UnicodeEncodeError, ValueError, OverflowError):
            ref = None
    return RefusedWithRef(explain(value["type"], _NAMES, exc, value), ref)


def encode_ack(ref: bytes, body: bytes) -> bytes:
    """Give the ack of the operation that carried *ref*; *body* is a JSON object with a member."""
    return b'{"type":"ack","ref":%b,%b' % (ref, body[1:])


def encode_event(name: str, body: bytes) -> bytes:
    """Give the message *name* with the members of *body*, a JSON object."""
    head = b'{"type":' + msgspec.json.encode(name)
    return head + b"}" if body == b"{}" else head + b"," + body[1:]
