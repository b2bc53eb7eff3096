"""Addresses of the same server for HTTP and for WebSockets."""

from __future__ import annotations

__all__ = ["to_ws"]


def to_ws(url: str) -> str:
    """Return the WebSocket address of an HTTP one."""
    assert url.startswith("http"), url
    return "ws" + url.removeprefix("http")
