"""
The span of a publish: which messages of a connection have one, and what it goes on from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from roomful.shard.base import Settle
from roomful.shard.message import Envelope

if TYPE_CHECKING:
    from roomful.edge.connection import Connection

__all__ = ["begin_span"]

_TRACEPARENT = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}|(?!00|ff)[0-9a-f]{2}-.{52,}")
_SAMPLED = frozenset("13579bdf")
"""The last digit of a traceparent's flags, when it is sampled (W3C Trace Context section 3.2)."""


def begin_span(
    connection: Connection, envelope: Envelope, settle: Settle, traceparent: str | None
) -> tuple[Envelope, Settle]:
    """Begin the publish span, if it is for somebody: the message's own word goes first."""
    tracing = connection.edge.tracing
    if tracing is None:
        return envelope, settle
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is None:
        # One that cannot be read is as good as none (Trace Context section 3.2.2.3).
        if not connection.is_traced:
            return envelope, settle
        traceparent = None
    if traceparent is None and (traceparent := connection.traceparent) is None:
        connection.is_traced = False
        return tracing.begin(envelope, settle)
    if traceparent[54:55] in _SAMPLED:
        return tracing.follow(traceparent, envelope, settle)
    return envelope, settle
