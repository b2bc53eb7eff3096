"""
Which web pages may talk to the edge: CORS for polling and REST, the Origin check for WebSockets.

A WebSocket is not held back by CORS in browsers, so a foreign page is refused here. Clients that
are no browsers send no Origin and are let through: they have to show a token all the same.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from roomful.protocol.engineio import BadHandshake, HandshakeFault

__all__ = ["Origins"]


class Origins:
    """An allow list of origins; "*" allows all, the page's own host is always allowed."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._any = "*" in allowed
        self.allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        """As browsers write them."""

    def is_allowed(self, origin: str | None, host: str | None) -> bool:
        """Whether a page from *origin* may talk to us at *host*."""
        if origin is None or self._any:
            return True
        if origin.lower() in self.allowed:
            return True
        try:
            return host is not None and urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False

    def check(self, origin: str | None, host: str | None) -> None:
        """
        Refuse a page that is not allowed.

        Raises:
            BadHandshake: FORBIDDEN.
        """
        if not self.is_allowed(origin, host):
            raise BadHandshake(HandshakeFault.FORBIDDEN, "this origin is not allowed")

    def headers(self, origin: str | None, host: str | None) -> dict[str, str]:
        """Give the CORS headers of an answer to *origin*; none if it is not allowed."""
        if origin is None or not self.is_allowed(origin, host):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }
