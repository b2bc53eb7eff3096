"""A receiver of traces: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from support.deadline import DEADLINE_S

__all__ = ["Receiver", "SeenSpan", "receiving"]


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """One span as it came; ids are hexadecimal."""

    name: str
    trace: str
    span: str
    parent: str
    links: tuple[tuple[str, str], ...]
    """(trace, span) of each."""
    attributes: Mapping[str, str | int]
    resource: Mapping[str, str | int]
    is_error: bool
    ns: int
    """How long it took."""


class Receiver:
    """Keeps spans; answers as the test says."""

    # Mutable state: what came, and how to answer.
    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.requests = 0
        self._spans: list[SeenSpan] = []
        self._changed = threading.Condition()

    def take(self, body: bytes) -> None:
        """Take one request."""
        with self._changed:
            self.requests += 1
            if self.status == 200:
                self._spans += _read(body)
            self._changed.notify_all()

    @property
    def spans(self) -> list[SeenSpan]:
        """What came so far."""
        with self._changed:
            return list(self._spans)

    def wait_until(self, is_enough: Callable[[], bool]) -> list[SeenSpan]:
        """Wait until *is_enough*, which is asked after each request; gives what came."""
        with self._changed:
            if not self._changed.wait_for(is_enough, DEADLINE_S):
                raise AssertionError(f"in {self.requests} requests came only {self._spans}")
            return list(self._spans)

    def wait(self, count: int) -> list[SeenSpan]:
        """Wait until *count* spans have come; gives all."""
        return self.wait_until(lambda: len(self._spans) >= count)


def _read(body: bytes) -> Iterator[SeenSpan]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {one.key: _value(one.value) for one in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    span=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    links=tuple((one.trace_id.hex(), one.span_id.hex()) for one in span.links),
                    attributes={one.key: _value(one.value) for one in span.attributes},
                    resource=resource,
                    is_error=span.status.code == 2,
                    ns=span.end_time_unix_nano - span.start_time_unix_nano,
                )


def _value(value: AnyValue) -> str | int:
    return value.int_value if value.HasField("int_value") else value.string_value


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver for the length of a `with` block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        """Answers a request."""

        def do_POST(self) -> None:
            """Take spans, at the one path that they come to."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            receiver.take(body)
            receiver.may_answer.wait(DEADLINE_S)
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        receiver.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()
