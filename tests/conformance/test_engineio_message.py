"""Engine.IO v4, "Message": data packets on both transports, and what closes a session."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from support.eio import SEPARATOR, EngineSocket, Polling, barrier
from support.urls import to_ws

ECHOED = [
    pytest.param("4hello", id="one text packet"),
    pytest.param(SEPARATOR.join(["4test1", "4test2", "4test3"]), id="several text packets"),
    pytest.param(SEPARATOR.join(["4hello", "bAQIDBA=="]), id="text and binary packets"),
]


@pytest.mark.parametrize("payload", ECHOED)
async def test_polling_carries_payloads_both_ways(
    http: httpx.AsyncClient, echo: str, payload: str
) -> None:
    """Packets are joined by U+001E, binary ones are `b` and base64; a POST is answered `ok`."""
    session = Polling(http, echo)
    await session.open()
    pushed = await session.post(payload)
    polled = await session.poll()
    assert (pushed.status_code, pushed.text) == (200, "ok")
    assert (polled.status_code, polled.text) == (200, payload)


async def test_polling_session_is_closed_by_an_invalid_packet(
    http: httpx.AsyncClient, echo: str
) -> None:
    """An unknown packet type is the end of the session."""
    session = Polling(http, echo)
    await session.open()
    answer = await session.post("abc")
    assert answer.status_code in {200, 400}  # 200 is what the reference says
    assert (await session.poll()).status_code == 400


async def test_polling_session_is_closed_by_a_second_poll(
    http: httpx.AsyncClient, echo: str
) -> None:
    """Of two polls at once the first gets the close packet, the second an error."""
    session = Polling(http, echo)
    await session.open()
    first = asyncio.create_task(session.poll())
    await barrier(echo)
    second = await session.poll()
    closed = await first
    assert (closed.status_code, closed.text) == (200, "1")
    assert second.status_code in {400, 500}  # 500 is what the reference says
    assert (await session.poll()).status_code == 400


async def test_polling_session_is_closed_by_a_cancelled_poll(
    http: httpx.AsyncClient, echo: str
) -> None:
    """A client that hangs up during a poll is gone."""
    session = Polling(http, echo)
    await session.open()
    abandoned = asyncio.create_task(session.poll())
    await barrier(echo)
    abandoned.cancel()
    await asyncio.wait([abandoned])
    await barrier(echo)
    assert (await session.poll()).status_code == 400


@pytest.mark.parametrize("packet", ["4hello", b"\x01\x02\x03\x04"], ids=["text", "binary"])
async def test_websocket_carries_packets_both_ways(echo: str, packet: str | bytes) -> None:
    """Text packets are text frames with their type, binary ones are bare binary frames."""
    async with EngineSocket.opened(to_ws(echo)) as socket:
        await socket.send(packet)
        assert await socket.receive_data() == packet


async def test_websocket_session_is_closed_by_an_invalid_packet(echo: str) -> None:
    """An unknown packet type is the end of the session."""
    async with EngineSocket.opened(to_ws(echo)) as socket:
        await socket.send("abc")
        await socket.wait_closed()
