"""How the server says no, checked."""

from __future__ import annotations

from typing import Any

from support.sio import SocketIo

__all__ = ["BAD_PACKET", "assert_refused", "is_taken"]

BAD_PACKET = 4500
"""The close code of what is not the protocol."""


def assert_refused(ack: dict[str, Any], *codes: str) -> None:
    """The answer is a refusal with one of *codes*, a short sentence, and not retryable."""
    assert ack["success"] is False, ack
    error = ack["error"]
    assert error["code"] in codes, error
    assert error["retryable"] is False
    assert 0 < len(error["message"]) < 500


async def is_taken(client: SocketIo, body: str, *attachments: bytes) -> bool:
    """Send an event; False if it was refused as BAD_REQUEST, or closed as BAD_PACKET."""
    try:
        ack = await client.call_raw(body, *attachments)
    except ConnectionError:
        assert await client.wait_closed() == BAD_PACKET
        return False
    if not ack["success"]:
        assert_refused(ack, "BAD_REQUEST")
    return bool(ack["success"])
