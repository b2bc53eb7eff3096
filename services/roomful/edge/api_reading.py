"""Bodies of the HTTP API, read within their limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from roomful.edge.limits import LimitSettings
from roomful.protocol.errors import RefusalCode, Refused

__all__ = ["Unread", "read_body"]


class Unread(Exception):
    """A request is *refused* because its body does not come: its connection is of no more use."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused)
        self.refused = refused


async def read_body(request: Request, limits: LimitSettings) -> bytes:
    """
    Read the body of *request*.

    Raises:
        Refused: PAYLOAD_TOO_LARGE; what still comes is read and dropped, so that the client, who is
            writing, hears of it.
        Unread: BAD_REQUEST, it does not come whole and in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > limits.payload_bytes:
                    sentence = f"a body has at most {limits.payload_bytes} bytes"
                    raise Refused(RefusalCode.PAYLOAD_TOO_LARGE, sentence)
    except (ClientDisconnect, TimeoutError) as exc:
        sentence = "the body did not come whole, or not in time"
        raise Unread(Refused(RefusalCode.BAD_REQUEST, sentence)) from exc
    return bytes(body)
