"""
The server under test: `roomful serve --conformance`, or any other of the same profile.

The profile is the one of the official Engine.IO v4 and Socket.IO v5 test suites: `/engine.io/`
sends every data packet back; `/socket.io/` has the namespaces `/` and `/custom`, which emit
`auth` with the handshake's auth, answer `message` with `message-back`, and `message-with-ack`
with an ack of the same arguments. ROOMFUL_CONFORMANCE_URL names another server to test, such as
the reference implementation.
"""

from __future__ import annotations

import os

import pytest

from support.server import Server


@pytest.fixture(scope="module")
def server_arguments() -> tuple[str, ...]:
    """The profile of the official suites."""
    return ("--conformance",)


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> str:
    """The HTTP address of the server under test."""
    if (other := os.environ.get("ROOMFUL_CONFORMANCE_URL")) is not None:
        return other.rstrip("/")
    server = request.getfixturevalue("server")
    assert isinstance(server, Server)
    return server.url


@pytest.fixture(params=["engine.io", "socket.io"])
def endpoint(request: pytest.FixtureRequest, base: str) -> str:
    """Both paths that speak Engine.IO: alone, and below Socket.IO."""
    return f"{base}/{request.param}/"


@pytest.fixture
def echo(base: str) -> str:
    """The path that sends data packets back."""
    return f"{base}/engine.io/"
