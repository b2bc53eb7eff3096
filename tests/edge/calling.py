"""The calls of the HTTP API that need a service token, and how each is refused."""

from __future__ import annotations

import httpx

from support.tokens import make_service_token

__all__ = ["CALLS", "POSTS", "SERVICE", "error_of"]

SERVICE = {"Authorization": f"Bearer {make_service_token()}"}
CALLS = [
    ("POST", "/api/rooms/r/events", {"data": 1}),
    ("POST", "/api/users/u/messages", {"content": 1}),
    ("POST", "/api/users/u/update", {"a": 1}),
    ("POST", "/api/revocations", {"userId": "nobody"}),
    ("POST", "/api/edge/shed", {"count": 1}),
    ("DELETE", "/api/users/u/connections", None),
    ("DELETE", "/api/rooms/r/messages/5", None),
    ("DELETE", "/api/rooms/r/messages", None),
    ("DELETE", "/api/users/u/messages", None),
    ("GET", "/api/rooms/r/history", None),
    ("GET", "/api/rooms/r/presence", None),
]
POSTS = [(path, body) for method, path, body in CALLS if method == "POST"]


def error_of(response: httpx.Response) -> str:
    """Give the code of a refusal, whose form is always the same."""
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"code", "message", "retryable"}
    code: str = error["code"]
    return code
