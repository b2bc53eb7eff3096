"""
The bodies of the HTTP API: what its calls take and give, as msgspec checks and OpenAPI shows them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from roomful.protocol.operations import MessageId, UserName

__all__ = [
    "Accepted",
    "DevSignIn",
    "Done",
    "DoneEverywhere",
    "Erased",
    "ErrorBody",
    "Failure",
    "Revocation",
    "RoomEvent",
    "Shed",
    "Shedding",
    "UserMessage",
]


class ErrorBody(Struct):
    """Why a call was refused."""

    code: str
    message: str
    retryable: bool


class Failure(Struct):
    """The body of every answer that is not 2xx."""

    error: ErrorBody


class RoomEvent(Struct, rename="camel", forbid_unknown_fields=True):
    """An event for a room."""

    data: Raw
    event: Annotated[str, Meta(min_length=1, max_length=128)] = "message"
    id: MessageId | None = None
    user_id: UserName = "server"


class UserMessage(Struct, rename="camel", forbid_unknown_fields=True):
    """A direct message to a user."""

    content: Raw
    id: MessageId | None = None
    sender: UserName = msgspec.field(name="from", default="server")


class Revocation(Struct, rename="camel", forbid_unknown_fields=True):
    """Whose tokens are refused from now on; one of the first two is given."""

    user_id: UserName | None = None
    token_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    until: float | None = None
    """Seconds since the epoch; by default a day from now."""


class Shedding(Struct, forbid_unknown_fields=True):
    """How many clients to send to other edges."""

    count: Annotated[int, Meta(ge=1, le=100_000)]


class DevSignIn(Struct, forbid_unknown_fields=True):
    """A name to sign in with."""

    user: UserName


class Accepted(Struct, rename="camel"):
    """A message was stored."""

    success: bool
    id: str
    offset: int
    timestamp: int


class Erased(Struct, rename="camel"):
    """Messages were erased, or are being: then the count is not known yet."""

    success: bool
    messages: int | None


class Done(Struct, rename="camel"):
    """How many connections of this edge a call reached."""

    success: bool
    connections: int


class Shed(Struct):
    """How many clients were sent to other edges."""

    closed: int


class DoneEverywhere(Struct, rename="camel"):
    """What a call did on all edges."""

    success: bool
    """Whether every edge has said that it did it."""
    connections: int
    """Closed, on the edges that answered."""
    edges: int
    """There are so many."""
    answered: int
    """So many did it for certain; the others may have."""
