"""Bodies of HTTP requests, read within the limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from roomful.edge.limits import LimitSettings

__all__ = ["BodyTooLarge", "read_body"]


class BodyTooLarge(Exception):
    """What still comes is read and dropped, so that the client, who is writing, hears of it."""


async def read_body(request: Request, limits: LimitSettings) -> bytes:
    """
    Read the body of *request*.

    Raises:
        BodyTooLarge: above payload_bytes.
        TimeoutError: not whole in body_timeout_s.
        ClientDisconnect: not whole, and no more comes.
    """
    body = bytearray()
    async with asyncio.timeout(limits.body_timeout_s):
        async for part in request.stream():
            body += part
            if len(body) > limits.payload_bytes:
                raise BodyTooLarge
    return bytes(body)
