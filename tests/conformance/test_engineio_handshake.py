"""Engine.IO v4, "Handshake": what opens a session and what does not."""

from __future__ import annotations

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.eio import EngineSocket, Handshake, Polling
from support.urls import to_ws

PING_INTERVAL_MS = 300
PING_TIMEOUT_MS = 200
MAX_PAYLOAD_BYTES = 1_000_000

BAD_VERSION = [
    pytest.param("transport={transport}", id="missing"),
    pytest.param("EIO=abc&transport={transport}", id="not a number"),
]
BAD_TRANSPORT = [
    pytest.param("EIO=4", id="missing"),
    pytest.param("EIO=4&transport=abc", id="unknown"),
]


def assert_open_packet(handshake: Handshake, *, upgrades: list[str]) -> None:
    """Compare the open packet with the profile: these five keys and no others."""
    assert isinstance(handshake.fields["sid"], str)
    assert handshake.fields | {"sid": ""} == {
        "sid": "",
        "upgrades": upgrades,
        "pingInterval": PING_INTERVAL_MS,
        "pingTimeout": PING_TIMEOUT_MS,
        "maxPayload": MAX_PAYLOAD_BYTES,
    }


async def first_packet(endpoint: str, query: str) -> str | bytes:
    """Open a WebSocket with *query* and return what the server says first."""
    async with EngineSocket.dial(to_ws(endpoint), query) as socket:
        return await socket.receive()


async def assert_refused(endpoint: str, query: str) -> None:
    """A WebSocket handshake with *query* fails, or is closed before any packet."""
    with pytest.raises((InvalidHandshake, ConnectionClosed)):
        await first_packet(endpoint, query)


async def test_polling_opens_a_session(http: httpx.AsyncClient, endpoint: str) -> None:
    """A GET without sid is answered with the open packet, which offers the upgrade."""
    assert_open_packet(await Polling(http, endpoint).open(), upgrades=["websocket"])


@pytest.mark.parametrize("query", BAD_VERSION)
async def test_polling_without_protocol_version_is_400(
    http: httpx.AsyncClient, endpoint: str, query: str
) -> None:
    """The query must say EIO=4."""
    response = await http.get(f"{endpoint}?{query.format(transport='polling')}")
    assert response.status_code == 400


@pytest.mark.parametrize("query", BAD_TRANSPORT)
async def test_unknown_transport_is_400(http: httpx.AsyncClient, endpoint: str, query: str) -> None:
    """The query must name a transport that exists."""
    assert (await http.get(f"{endpoint}?{query}")).status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_handshake_with_another_method_is_400(
    http: httpx.AsyncClient, endpoint: str, method: str
) -> None:
    """Only a GET opens a session."""
    response = await http.request(method, endpoint, params={"EIO": "4", "transport": "polling"})
    assert response.status_code == 400


async def test_websocket_opens_a_session(endpoint: str) -> None:
    """A WebSocket without sid gets the open packet, which offers no upgrade."""
    async with EngineSocket.dial(to_ws(endpoint), "EIO=4&transport=websocket") as socket:
        assert_open_packet(Handshake.parse(await socket.receive()), upgrades=[])


@pytest.mark.parametrize("query", BAD_VERSION)
async def test_websocket_without_protocol_version_is_refused(endpoint: str, query: str) -> None:
    """The query must say EIO=4, over WebSocket too."""
    await assert_refused(endpoint, query.format(transport="websocket"))


@pytest.mark.parametrize("query", BAD_TRANSPORT)
async def test_websocket_with_unknown_transport_is_refused(endpoint: str, query: str) -> None:
    """The query must name a transport that exists, over WebSocket too."""
    await assert_refused(endpoint, query)
