"""
Prometheus metrics, read from the parts' own statistics when they are scraped: counting costs the
hot path an integer, not a metric. No label ever names a room or a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

__all__ = ["CONTENT_TYPE", "Metrics", "Sample"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One metric at one moment."""

    name: str
    """Without prefix and without `_total`."""
    help: str
    value: float | dict[str, float]
    """A number, or one per value of *label*."""
    is_counter: bool = True
    label: str = field(default="")


class Source(Protocol):
    """Something that can tell its metrics."""

    def __call__(self) -> Sequence[Sample]:
        """Give the samples of this moment."""


class _Collector(Collector):
    def __init__(self, source: Callable[[], Sequence[Sample]]) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for sample in self._source():
            family = CounterMetricFamily if sample.is_counter else GaugeMetricFamily
            labels = [sample.label] if sample.label else []
            metric = family(f"roomful_{sample.name}", sample.help, labels=labels)
            values = sample.value if isinstance(sample.value, dict) else {"": sample.value}
            for label, value in values.items():
                metric.add_metric([label] if sample.label else [], value)
            yield metric


class Metrics:
    """The metrics of one process."""

    def __init__(self, source: Callable[[], Sequence[Sample]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(source))
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self._registry.register(collector)

    def render(self) -> bytes:
        """Give all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
