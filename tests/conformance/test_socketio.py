"""Socket.IO v5: connect, disconnect, events and acks, packet by packet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.exceptions import ConnectionClosed

from support.deadline import within
from support.eio import EngineSocket
from support.urls import to_ws

TWO_ATTACHMENTS = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
ATTACHMENTS = [b"\x01\x02\x03", b"\x04\x05\x06"]
NEVER_LATER_THAN_S = 2.5
"""Above connectTimeout (1 s) and the ping timeout (0.5 s) of the profile."""


@pytest.fixture
def endpoint(base: str) -> str:
    """The path that speaks Socket.IO."""
    return f"{to_ws(base)}/socket.io/"


@asynccontextmanager
async def connected(endpoint: str) -> AsyncIterator[EngineSocket]:
    """A connection to the main namespace with its CONNECT and `auth` packets taken."""
    async with EngineSocket.opened(endpoint) as socket:
        await socket.send("40")
        assert str(await socket.receive_data()).startswith("40{")
        assert await socket.receive_data() == '42["auth",{}]'
        yield socket


@pytest.mark.parametrize(
    ("packet", "prefix", "auth"),
    [
        pytest.param("40", "40", '42["auth",{}]', id="main"),
        pytest.param('40{"token":"123"}', "40", '42["auth",{"token":"123"}]', id="main, payload"),
        pytest.param("40/custom,", "40/custom,", '42/custom,["auth",{}]', id="custom"),
        pytest.param(
            '40/custom,{"token":"abc"}',
            "40/custom,",
            '42/custom,["auth",{"token":"abc"}]',
            id="custom, payload",
        ),
    ],
)
async def test_connect_to_a_namespace(endpoint: str, packet: str, prefix: str, auth: str) -> None:
    """CONNECT is answered with a sid and nothing else; its payload is the handshake's auth."""
    async with EngineSocket.opened(endpoint) as socket:
        await socket.send(packet)
        answer = str(await socket.receive_data())
        assert answer.startswith(prefix)
        payload = json.loads(answer.removeprefix(prefix))
        assert list(payload) == ["sid"]
        assert isinstance(payload["sid"], str)
        assert await socket.receive_data() == auth


async def test_connect_to_an_unknown_namespace_is_refused(endpoint: str) -> None:
    """CONNECT to a namespace that is not there is answered with CONNECT_ERROR."""
    async with EngineSocket.opened(endpoint) as socket:
        await socket.send("40/random")
        assert await socket.receive_data() == '44/random,{"message":"Invalid namespace"}'


async def test_invalid_first_packet_closes(endpoint: str) -> None:
    """A connection that begins with something that is no packet is closed."""
    async with EngineSocket.opened(endpoint) as socket:
        await socket.send("4abc")
        await within(socket.wait_closed(), seconds=NEVER_LATER_THAN_S)


async def test_connection_without_connect_is_closed(endpoint: str) -> None:
    """A client that joins no namespace in time is closed, though it answers every ping."""
    async with EngineSocket.opened(endpoint) as socket:
        with pytest.raises(ConnectionClosed):
            await within(socket.receive_data(), seconds=NEVER_LATER_THAN_S)


async def test_silent_connection_is_closed(endpoint: str) -> None:
    """A client that neither connects nor answers pings is closed."""
    async with EngineSocket.opened(endpoint) as socket:
        await within(socket.wait_closed(), seconds=NEVER_LATER_THAN_S)


async def test_disconnect_from_the_main_namespace(endpoint: str) -> None:
    """After DISCONNECT nothing is heard but the heartbeat of the transport, which stays."""
    async with connected(endpoint) as socket:
        await socket.send("41")
        assert await socket.receive() == "2"


async def test_disconnect_from_one_namespace_leaves_the_others(endpoint: str) -> None:
    """DISCONNECT of a namespace is about that namespace only."""
    async with connected(endpoint) as socket:
        assert await socket.receive() == "2"
        await socket.send("40/custom")
        assert str(await socket.receive_data()).startswith("40/custom,{")
        assert await socket.receive_data() == '42/custom,["auth",{}]'
        await socket.send("41/custom")
        await socket.send('42["message","message to main namespace"]')
        assert await socket.receive_data() == '42["message-back","message to main namespace"]'


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        pytest.param(
            '42["message",1,"2",{"3":[true]}]', '42["message-back",1,"2",{"3":[true]}]', id="event"
        ),
        pytest.param(
            '42456["message-with-ack",1,"2",{"3":[false]}]',
            '43456[1,"2",{"3":[false]}]',
            id="event with ack",
        ),
    ],
)
async def test_text_event(endpoint: str, packet: str, answer: str) -> None:
    """An event's arguments come back as they went; an ack carries the event's number."""
    async with connected(endpoint) as socket:
        await socket.send(packet)
        assert await socket.receive_data() == answer


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        pytest.param(
            f'452-["message",{TWO_ATTACHMENTS}]',
            f'452-["message-back",{TWO_ATTACHMENTS}]',
            id="event",
        ),
        pytest.param(
            f'452-789["message-with-ack",{TWO_ATTACHMENTS}]',
            f"462-789[{TWO_ATTACHMENTS}]",
            id="event with ack",
        ),
    ],
)
async def test_binary_event(endpoint: str, packet: str, answer: str) -> None:
    """Attachments follow their packet in order, both ways, and placeholders number them."""
    async with connected(endpoint) as socket:
        await socket.send(packet)
        for attachment in ATTACHMENTS:
            await socket.send(attachment)
        assert [await socket.receive_data() for _ in range(3)] == [answer, *ATTACHMENTS]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param("4abc", id="unknown packet type"),
        pytest.param("42{}", id="payload is no list"),
        pytest.param('42abc["message-with-ack",1,"2",{"3":[false]}]', id="ack id is no number"),
    ],
)
async def test_invalid_packet_closes(endpoint: str, packet: str) -> None:
    """What is not the protocol ends the connection."""
    async with connected(endpoint) as socket:
        await socket.send(packet)
        await within(socket.wait_closed(), seconds=NEVER_LATER_THAN_S)
