"""
The spans of messages: `publish` on the edge that takes one, `deliver` on each that sends it on.

The publish span's ids are kept in the envelope, so whoever hears the entry can go on with its
trace. Nothing here is called for a message that is not traced: router and fan-out test for that
themselves, by attributes. Needs the extra `tracing`; import it only when an endpoint is set.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from roomful.cluster.cursor import ShardName
from roomful.edge.room import Room
from roomful.protocol.errors import Refused
from roomful.shard.base import Settle, Stored
from roomful.shard.message import Entry, Envelope
from roomful.telemetry.metrics import Sample
from roomful.telemetry.settings import TracingSettings
from roomful.telemetry.tracing import Spans

__all__ = ["Tracing"]

FAR: Final = 1_000_000
"""A gap that nobody counts to; with the smallest ratios it can be too long for an integer."""

_extract = TraceContextTextMapPropagator().extract
_NO_PARENT: Final = Context()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class Delivery:
    """The deliver spans of a batch of one room. Implements Outbox: a flush ends them."""

    __slots__ = ("out", "spans")

    out: bytes | None

    def __init__(self) -> None:
        self.out = None
        self.spans: list[Span] = []

    def flush(self) -> None:
        """What was touched before was written."""
        for span in self.spans:
            span.end()


class Tracing:
    """What one edge traces."""

    def __init__(self, settings: TracingSettings, instance: str) -> None:
        self._spans = Spans(settings, "roomful-edge", instance)
        self._ratio = settings.ratio

    def gap(self) -> int | None:
        """Draw which of the coming messages is traced, 1 is the next; None: none that soon."""
        if self._ratio >= 1:
            return 1
        if not self._ratio:
            return None
        chance = 1 - random.random()  # noqa: S311 - nobody gains by a guess
        gap = math.log(chance) / math.log1p(-self._ratio)
        return 1 + int(gap) if gap < FAR else None

    # Publishing -----------------------------------------------------------------------------

    def accept(self, traceparent: object) -> str | None:
        """Give *traceparent* if it is one that messages can go on with."""
        return traceparent if isinstance(traceparent, str) and _parent(traceparent) else None

    def follow(
        self, traceparent: str, envelope: Envelope, settle: Settle
    ) -> tuple[Envelope, Settle]:
        """Go on with the trace of *traceparent*, which says that it is sampled."""
        parent = _parent(traceparent)
        return (envelope, settle) if parent is None else self.begin(envelope, settle, parent)

    def consider(
        self, traceparent: str | None, envelope: Envelope, settle: Settle
    ) -> tuple[Envelope, Settle]:
        """Do for one message, off the hot path, what the router does by tests of its own."""
        parent = None if traceparent is None else _parent(traceparent)
        if parent is None:
            return self.begin(envelope, settle) if self.gap() == 1 else (envelope, settle)
        is_sampled = get_current_span(parent).get_span_context().trace_flags.sampled
        return self.begin(envelope, settle, parent) if is_sampled else (envelope, settle)

    def begin(
        self, envelope: Envelope, settle: Settle, parent: Context = _NO_PARENT
    ) -> tuple[Envelope, Settle]:
        """Begin the publish span of *envelope*, which ends when *settle* is called."""
        attributes: dict[str, str | int] = {
            "messaging.system": "roomful",
            "messaging.operation.type": "send",
            "messaging.destination.name": envelope.room,
            "messaging.message.id": envelope.id,
            "messaging.message.body.size": len(envelope.body),
        }
        span = self._spans.begin("publish", SpanKind.PRODUCER, parent, attributes=attributes)
        if span is None:
            return envelope, settle

        def settle_and_end(outcome: Stored | Refused) -> None:
            if isinstance(outcome, Refused):
                span.set_status(StatusCode.ERROR, outcome.code)
            else:
                span.set_attribute("roomful.offset", outcome.offset)
            span.end()
            settle(outcome)

        ids = span.get_span_context()
        trace = ids.trace_id.to_bytes(16, "big") + ids.span_id.to_bytes(8, "big")
        return msgspec.structs.replace(envelope, trace=trace), settle_and_end

    # Delivering -----------------------------------------------------------------------------

    def deliver(self, shard: ShardName, room: Room, entries: Sequence[Entry]) -> Delivery:
        """
        Begin the spans of *entries*, of which one is traced at least; give what ends them.

        A span is in one trace, so there is one for each trace among them: below its first
        message's publish span, with a link to each.
        """
        delivery = Delivery()
        by_trace: dict[bytes, list[Link]] = {}
        for entry in entries:
            trace = entry.envelope.trace
            if trace is not None and (ids := _published(trace)).is_valid:
                by_trace.setdefault(trace[:16], []).append(Link(ids))
        for links in by_trace.values():
            span = self._spans.begin(
                "deliver",
                SpanKind.CONSUMER,
                set_span_in_context(NonRecordingSpan(links[0].context), _NO_PARENT),
                attributes={
                    "messaging.system": "roomful",
                    "messaging.operation.type": "process",
                    "messaging.destination.name": room.id,
                    "messaging.batch.message_count": len(entries),
                    "roomful.shard": shard,
                    "roomful.members": sum(len(group) for _, _, group in room.groups),
                },
                links=links,
            )
            if span is not None:
                delivery.spans.append(span)
        return delivery

    # The rest -------------------------------------------------------------------------------

    def samples(self) -> Sequence[Sample]:
        """Give the metrics."""
        counts = self._spans.statistics
        return (
            Sample("spans_sent", "Spans that the tracing endpoint took.", counts.sent),
            Sample("spans_failed", "Spans that it did not take.", counts.failed),
            Sample("spans_dropped", "Spans not begun: too many.", counts.dropped),
        )

    async def aclose(self) -> None:
        """Send what is left."""
        await self._spans.aclose()


def _parent(traceparent: str) -> Context | None:
    """Read a traceparent as W3C Trace Context has it; None: it is none."""
    context = _extract({"traceparent": traceparent}, _NO_PARENT)
    return context if get_current_span(context).get_span_context().is_valid else None


def _published(trace: bytes) -> SpanContext:
    trace_id, span_id = int.from_bytes(trace[:16], "big"), int.from_bytes(trace[16:24], "big")
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=_SAMPLED)
