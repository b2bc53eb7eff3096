"""
The one registry of everything that can be said "no" with, and the tree of protocol errors.

    RoomfulError
    ├── ClientFault            the peer broke the protocol or a limit; says how to close
    │   ├── BadFrame           not RFC 6455
    │   ├── BadPacket          not Engine.IO v4 / Socket.IO v5 / our JSON
    │   └── TooLarge           above a payload, attachment or fragment limit
    └── Refused                an operation was understood and is not done; says why

Nothing else goes over the wire: a refusal carries a RefusalCode, a close carries a CloseCode.
The numbers of CloseCode mean something to clients: below 4500 reconnecting at once is right,
from 4500 on something has to change first (docs/wire.md).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = [
    "BadFrame",
    "BadPacket",
    "ClientFault",
    "CloseCode",
    "RefusalCode",
    "Refused",
    "RoomfulError",
    "TooLarge",
]


class RefusalCode(StrEnum):
    """Why an operation was refused; the string is what clients see."""

    BAD_REQUEST = "BAD_REQUEST"
    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    RESERVED_ROOM = "RESERVED_ROOM"
    RESERVED_EVENT = "RESERVED_EVENT"
    NOT_JOINED = "NOT_JOINED"
    NOT_FOUND = "NOT_FOUND"
    ROOM_LIMIT = "ROOM_LIMIT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105 - a code, not a secret
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105
    TOKEN_REVOKED = "TOKEN_REVOKED"  # noqa: S105
    RATE_LIMITED = "RATE_LIMITED"
    OVERLOADED = "OVERLOADED"
    DRAINING = "DRAINING"
    SHARD_UNAVAILABLE = "SHARD_UNAVAILABLE"
    ACCESS_UNAVAILABLE = "ACCESS_UNAVAILABLE"
    AUTH_UNAVAILABLE = "AUTH_UNAVAILABLE"
    ARCHIVE_LAGGING = "ARCHIVE_LAGGING"
    ARCHIVE_UNAVAILABLE = "ARCHIVE_UNAVAILABLE"
    INTERNAL = "INTERNAL"

    @property
    def is_retryable(self) -> bool:
        """Whether the same operation with the same id may succeed later, unchanged."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        RefusalCode.RATE_LIMITED,
        RefusalCode.OVERLOADED,
        RefusalCode.DRAINING,
        RefusalCode.SHARD_UNAVAILABLE,
        RefusalCode.ACCESS_UNAVAILABLE,
        RefusalCode.AUTH_UNAVAILABLE,
        RefusalCode.ARCHIVE_LAGGING,
        RefusalCode.ARCHIVE_UNAVAILABLE,
    }
)


class CloseCode(IntEnum):
    """Why a WebSocket was closed (RFC 6455 section 7.4; 4000-4999 are ours)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_AGAIN = 1013
    PING_TIMEOUT = 4000
    SLOW_CLIENT = 4001
    RESTART = 4002
    REPLACED = 4003
    UPGRADE_TIMEOUT = 4004
    GAP = 4005
    BAD_PACKET = 4500
    CONNECT_TIMEOUT = 4501
    TOKEN_EXPIRED = 4502
    DISCONNECTED = 4503
    LIMIT = 4504
    UNAUTHORIZED = 4505


class RoomfulError(Exception):
    """The root of all errors that Roomful raises on purpose."""


class ClientFault(RoomfulError):
    """The peer's fault: its connection is closed with *close_code* and *reason*."""

    close_code = CloseCode.BAD_PACKET

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadPacket(ClientFault):
    """Bytes that are not the protocol; the connection cannot go on."""


class BadFrame(ClientFault):
    """Frames that RFC 6455 forbids; the connection cannot go on."""

    close_code = CloseCode.PROTOCOL_ERROR


class TooLarge(ClientFault):
    """More than a limit of the connection allows; the connection cannot go on."""

    close_code = CloseCode.TOO_BIG


class Refused(RoomfulError):
    """
    An operation was refused with a *code* and one *sentence* for the person who reads it.

    Args:
        operation: the operation's name as the client said it, where only the parser knows it.
    """

    def __init__(self, code: RefusalCode, sentence: str, operation: str | None = None) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.operation = operation
