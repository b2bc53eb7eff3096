"""Spans on their way out: they arrive, and when they cannot, they cost a count and nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from roomful.telemetry.settings import TracingSettings
from roomful.telemetry.tracing import QUEUE, Spans
from support.otlp import Receiver, receiving
from support.ports import claim_port


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of spans."""
    with receiving() as one:
        yield one


@pytest_asyncio.fixture
async def spans(receiver: Receiver) -> AsyncIterator[Spans]:
    """What sends spans to it, without a limit worth the name."""
    one = Spans(TracingSettings(receiver.url, spans_per_second=10**9), "roomful-edge", "e1")
    yield one
    receiver.may_answer.set()
    await one.aclose()


def make(spans: Spans, count: int = 1) -> int:
    """Begin and end *count* spans; gives how many there were really."""
    made = 0
    for _ in range(count):
        span = spans.begin("publish", SpanKind.PRODUCER, Context(), attributes={"room": "r"})
        if span is not None:
            span.end()
            made += 1
    return made


async def test_ended_spans_arrive_with_who_sent_them(receiver: Receiver, spans: Spans) -> None:
    """The resource names the service and the process."""
    make(spans)
    [seen] = receiver.wait(1)
    assert (seen.name, seen.parent, seen.attributes) == ("publish", "", {"room": "r"})
    assert seen.resource["service.name"] == "roomful-edge"
    assert seen.resource["service.instance.id"] == "e1"


async def test_close_sends_what_is_left(receiver: Receiver, spans: Spans) -> None:
    """A span that ended just before is not lost."""
    make(spans, 3)
    await spans.aclose()
    assert len(receiver.spans) == 3
    assert spans.statistics.sent == 3


async def test_slow_receiver_bounds_what_waits(receiver: Receiver, spans: Spans) -> None:
    """While it does not answer, QUEUE spans wait, and more are not even begun."""
    receiver.may_answer.clear()
    assert make(spans, QUEUE + 100) == QUEUE
    assert spans.statistics.dropped == 100
    receiver.may_answer.set()
    receiver.wait(QUEUE)


async def test_spans_of_a_second_have_a_limit(receiver: Receiver) -> None:
    """Clients can ask for traces; not for all the edge's time."""
    spans = Spans(TracingSettings(receiver.url, spans_per_second=10), "roomful-edge", "e1")
    # At most one second ends meanwhile.
    assert 10 <= make(spans, 200) <= 20
    assert spans.statistics.dropped >= 180
    await spans.aclose()


async def test_receiver_that_is_away_is_said_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No traceback, no line per batch; and closing does not wait for it."""
    url = f"http://127.0.0.1:{claim_port()}"
    spans = Spans(TracingSettings(url, spans_per_second=10**9), "roomful-edge", "e1")
    with caplog.at_level(logging.DEBUG, logger="roomful"):
        make(spans, 600)
        await spans.aclose()
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in said] == [
        "spans were not taken by the tracing endpoint"
    ]
    assert (spans.statistics.sent, spans.statistics.failed) == (0, 600)


async def test_spans_that_are_refused_are_counted_and_said_once(
    receiver: Receiver, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that says no gets no second try of the same spans."""
    receiver.status = 400
    for batch in (1, 2):
        make(spans)
        receiver.wait_until(lambda batch=batch: receiver.requests >= batch)  # type: ignore[misc]
    await spans.aclose()
    assert spans.statistics.failed == 2
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert said == ["spans were not taken by the tracing endpoint"]
