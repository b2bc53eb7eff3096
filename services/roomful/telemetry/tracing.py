"""
Spans on their way to an OTLP receiver, so that traffic never feels it.

The SDK sends from a thread of its own. What may wait for it is bounded here, before a span is
begun: while the receiver is slow or away, no more are begun than QUEUE, and the rest are counted
as dropped. Needs the extra `tracing`; import it only when an endpoint is set.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanKind

from roomful.telemetry.settings import TracingSettings

__all__ = ["QUEUE", "SpanStatistics", "Spans"]

logger = logging.getLogger("roomful.telemetry")

QUEUE: Final = 2048
"""Spans that are begun and not sent yet, at most: about 4 MB."""
EXPORT_TIMEOUT_S: Final = 5.0
"""One batch, with its retries."""
BATCH: Final = 256
BATCH_AGE_S: Final = 1.0
CLOSE_S: Final = 3.0
"""What the last spans may take to go out."""
WARN_EVERY_S: Final = 60.0

# They log each batch that fails, some with a traceback; here it is said once in a while.
for _name in ("opentelemetry.exporter", "opentelemetry.sdk"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


@dataclass(slots=True)
class SpanStatistics:
    """Counts since the start."""

    begun: int = 0
    sent: int = 0
    failed: int = 0
    """Spans that the receiver did not take."""
    dropped: int = 0
    """Spans that were not begun: too many a second, or too many not sent yet."""


class _Counted(SpanExporter):
    """Counts what an exporter does with spans, and says now and then that it cannot."""

    # Mutable state, of the SDK's thread alone: when it was last said.
    def __init__(self, exporter: SpanExporter, statistics: SpanStatistics) -> None:
        self._exporter = exporter
        self._statistics = statistics
        self._warned_at = -WARN_EVERY_S

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            # Whatever it raises, which the SDK swallows, the spans are gone.
            if result is SpanExportResult.SUCCESS:
                self._statistics.sent += len(spans)
            else:
                self._statistics.failed += len(spans)
                self._warn()
        return result

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            fields = {"failed": self._statistics.failed, "dropped": self._statistics.dropped}
            logger.warning("spans were not taken by the tracing endpoint", extra=fields)

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Spans:
    """Begins the spans of one process."""

    # Mutable state: the second that is counted, and what it has left.
    def __init__(self, settings: TracingSettings, service: str, instance: str) -> None:
        self.statistics = SpanStatistics()
        self._exporter: SpanExporter = OTLPSpanExporter(settings.url, timeout=EXPORT_TIMEOUT_S)
        self._processor = BatchSpanProcessor(
            _Counted(self._exporter, self.statistics),
            max_queue_size=QUEUE,
            schedule_delay_millis=BATCH_AGE_S * 1000,
            max_export_batch_size=BATCH,
        )
        resource = {
            "service.name": service,
            "service.version": version("roomful"),
            "service.instance.id": instance,
        }
        # Who is traced is decided before a span is begun, so the SDK samples all.
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(resource), shutdown_on_exit=False
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("roomful")
        self._per_second = settings.spans_per_second
        self._second = 0
        self._left = 0

    def begin(
        self,
        name: str,
        kind: SpanKind,
        parent: Context,
        *,
        attributes: Mapping[str, str | int],
        links: Sequence[Link] = (),
    ) -> Span | None:
        """Begin a span, that has to be ended; None: there are too many."""
        counts = self.statistics
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, self._per_second
        if not self._left or counts.begun - counts.sent - counts.failed >= QUEUE:
            counts.dropped += 1
            return None
        self._left -= 1
        counts.begun += 1
        return self._tracer.start_span(name, parent, kind, attributes, links)

    async def aclose(self) -> None:
        """Send what is left, for CLOSE_S and one request at most."""
        closing = asyncio.ensure_future(asyncio.to_thread(self._processor.shutdown))
        await asyncio.wait([closing], timeout=CLOSE_S)
        # Ends its retries, and all that still waits fails at once.
        self._exporter.shutdown()
        await closing
