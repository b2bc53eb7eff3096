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
from roomful.edge.fanout import Room
from roomful.protocol.errors import Refused
from roomful.shard.base import Entry, Envelope, Settle, Stored
from roomful.telemetry.metrics import Sample
from roomful.telemetry.settings import TracingSettings
from roomful.telemetry.tracing import Spans

__all__ = ["Tracing"]

STRIDE: Final = 256
"""Messages between two looks at the sampler, at most: up to there Python keeps its integers."""

_extract = TraceContextTextMapPropagator().extract
_NO_PARENT: Final = Context()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class Tracing:
    """What one edge traces."""

    # Mutable state: how many messages to the next look at the sampler, whether that one is
    # traced, and the deliver spans of the batch that is being sent.
    def __init__(self, settings: TracingSettings, instance: str) -> None:
        self._spans = Spans(settings, "roomful-edge", instance)
        self._ratio = settings.ratio
        self._is_due = False
        self.until = 0
        """Messages without a traceparent until sample() has to be called."""
        self.delivering: list[Span] = []
        """Spans that end with the batch."""
        self._draw()

    def _draw(self) -> None:
        """
        Choose the next message that is traced.

        The gap between two is geometric, which has no memory: where it is longer than a stride
        it is drawn again behind that, and each message still has the same chance.
        """
        if self._ratio >= 1:
            gap = 1.0
        elif self._ratio > 0:
            chance = 1 - random.random()  # noqa: S311 - nobody gains by a guess
            gap = 1 + math.log(chance) // math.log1p(-self._ratio)
        else:
            gap = math.inf
        self._is_due = gap <= STRIDE
        self.until = int(min(gap, STRIDE))

    # Publishing -----------------------------------------------------------------------------

    def accept(self, traceparent: object) -> str | None:
        """Give *traceparent* if it is one that messages can go on with."""
        return traceparent if isinstance(traceparent, str) and _parent(traceparent) else None

    def sample(self, envelope: Envelope, settle: Settle) -> tuple[Envelope, Settle]:
        """Begin a trace with *envelope* if it is its turn: *until* is 0."""
        is_due = self._is_due
        self._draw()
        return self._begin(envelope, settle, _NO_PARENT) if is_due else (envelope, settle)

    def follow(
        self, traceparent: str, envelope: Envelope, settle: Settle
    ) -> tuple[Envelope, Settle]:
        """Go on with the trace of *traceparent*, which says that it is sampled."""
        parent = _parent(traceparent)
        return (envelope, settle) if parent is None else self._begin(envelope, settle, parent)

    def consider(
        self, traceparent: str | None, envelope: Envelope, settle: Settle
    ) -> tuple[Envelope, Settle]:
        """Do for one message, off the hot path, what the router does by tests of its own."""
        parent = None if traceparent is None else _parent(traceparent)
        if parent is not None:
            is_sampled = get_current_span(parent).get_span_context().trace_flags.sampled
            return self._begin(envelope, settle, parent) if is_sampled else (envelope, settle)
        self.until -= 1
        return (envelope, settle) if self.until else self.sample(envelope, settle)

    def _begin(
        self, envelope: Envelope, settle: Settle, parent: Context
    ) -> tuple[Envelope, Settle]:
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

    def deliver(self, shard: ShardName, room: Room, entries: Sequence[Entry]) -> None:
        """
        Begin the spans of *entries*, of which one is traced at least; they end with the batch.

        A span is in one trace, so there is one for each trace among them: below its first
        message's publish span, with a link to each.
        """
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
                self.delivering.append(span)

    def end_deliveries(self) -> None:
        """The batch was written to all its members."""
        for span in self.delivering:
            span.end()
        self.delivering.clear()

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
