"""The settings of traces; what they are for is in docs/tracing.md."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["TracingSettings"]

_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Where spans go, and how many there are."""

    # The OTLP receiver (HTTP, protobuf), such as http://collector:4318; empty: no traces. Needs
    # the extra `tracing`. Headers for it: OTEL_EXPORTER_OTLP_HEADERS, as in every SDK.
    endpoint: str = ""
    # Which part of the messages is traced, 0 to 1, where the sender does not say by a traceparent.
    ratio: float = 0.01
    # Spans one edge begins a second, whoever asks for them: clients can. More are dropped.
    spans_per_second: int = 500

    def __post_init__(self) -> None:
        problems = []
        if self.endpoint and not _is_url(self.endpoint):
            problems.append("endpoint has to be like http://collector:4318")
        if not 0 <= self.ratio <= 1:
            problems.append(f"ratio {self.ratio} is not between 0 and 1")
        if self.spans_per_second < 1:
            problems.append("spans_per_second must be above 0")
        if problems:
            raise ValueError(f"tracing: {', '.join(problems)}")

    @property
    def url(self) -> str:
        """Where spans are posted: OTLP over HTTP has a fixed path below the endpoint."""
        endpoint = self.endpoint.rstrip("/")
        return endpoint if endpoint.endswith(_PATH) else endpoint + _PATH


def _is_url(text: str) -> bool:
    """Whether *text* is an address without secrets: it is shown by --check-config."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and is_plain and port != 0
