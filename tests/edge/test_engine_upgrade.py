"""From polling to a WebSocket: probes, the upgrade, and what becomes of mail and polls."""

from __future__ import annotations

import asyncio

import pytest

from edge.engine_place import (
    LAST,
    PLENTY,
    Place,
    as_socket,
    in_loop,
)
from edge.transport import FakeTransport
from roomful.edge.engine import UPGRADE_TIMEOUT_S
from roomful.edge.room import Carrier
from roomful.protocol.engineio import (
    Handshake,
    decode_payload,
)
from roomful.protocol.errors import BadPacket, CloseCode
from roomful.protocol.session import Channel
from shard.clock import settle


def test_the_upgrade_moves_the_mail() -> None:
    """What waited goes out on the WebSocket, before anything new; the poll gets a NOOP."""

    async def check() -> None:
        place = Place()
        socket = FakeTransport()
        place.engine.probe(as_socket(socket))
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        await settle()
        place.engine.receive(Channel.SOCKET, b"2probe")
        assert socket.take(9) == [b"3probe"]
        assert await poll == b"6"
        place.engine.send((b"4a",))
        assert place.engine.carrier is Carrier.POLL
        place.engine.receive(Channel.SOCKET, b"5")
        place.engine.send((b"4b",))
        assert socket.take(9) == [b"4a", b"4b"]
        assert (place.engine.carrier, place.echo.upgrades) == (Carrier.SOCKET, 1)
        with pytest.raises(BadPacket):
            await place.engine.poll(PLENTY)

    in_loop(check)


def test_polls_come_back_at_once_while_a_websocket_probes() -> None:
    """The client waits for its poll before it upgrades: it must not wait for the next event."""

    async def check() -> None:
        place = Place()
        socket = FakeTransport()
        place.engine.probe(as_socket(socket))
        place.engine.receive(Channel.SOCKET, b"2probe")
        for _ in range(3):
            assert await place.engine.poll(PLENTY) == b"6"
        place.engine.send((b"4a",))
        assert await place.engine.poll(PLENTY) == b"4a"

    in_loop(check)


def test_a_poll_that_was_woken_does_not_take_what_the_websocket_got() -> None:
    """Mail that came in the same turn as the upgrade is sent once."""

    async def check() -> None:
        place = Place()
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        await settle()
        place.engine.send((b"4a",))
        socket = place.upgrade()
        taken = decode_payload(await poll) + socket.take(9)
        assert taken.count(b"4a") == 1

    in_loop(check)


def test_a_probe_that_goes_away() -> None:
    """Polling goes on, and another WebSocket may try."""

    async def check() -> None:
        place = Place()
        socket = FakeTransport()
        place.engine.probe(as_socket(socket))
        place.engine.receive(Channel.SOCKET, b"2probe")
        place.engine.on_socket_closed(as_socket(socket))
        assert not place.engine.is_closed
        place.engine.send((b"4a",))
        assert await place.engine.poll(PLENTY) == b"4a"
        assert place.upgrade().take(9)[0] == b"3probe"

    in_loop(check)


def test_one_probe_at_a_time() -> None:
    """A second WebSocket cannot take the place of the first, nor one after the upgrade."""

    async def check() -> None:
        place = Place()
        first, second = FakeTransport(), FakeTransport()
        place.engine.probe(as_socket(first))
        with pytest.raises(BadPacket):
            place.engine.probe(as_socket(second))

    in_loop(check)


def test_a_probe_that_does_not_upgrade_is_closed() -> None:
    """In time; until then polls come back at once, and afterwards they wait again."""

    async def check() -> None:
        place = Place()
        socket = FakeTransport()
        place.engine.probe(as_socket(socket))
        place.engine.receive(Channel.SOCKET, b"2probe")
        assert await place.engine.poll(PLENTY) == b"6"
        await asyncio.sleep(UPGRADE_TIMEOUT_S - 1)
        assert socket.closed_with is None
        await asyncio.sleep(1)
        assert socket.closed_with is CloseCode.UPGRADE_TIMEOUT
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        await settle()
        assert not poll.done()
        assert not place.engine.is_closed
        place.engine.send((b"4a",))
        assert await poll == b"4a"
        # Another one may try, and what has taken over is left alone.
        upgraded = place.upgrade()
        await asyncio.sleep(UPGRADE_TIMEOUT_S + 1)
        assert upgraded.closed_with is None
        await place.edge.aclose()

    in_loop(check)


def test_only_sessions_on_polling_count_as_such() -> None:
    """Until they are upgraded or over, and have been told why."""

    async def check() -> None:
        place = Place()
        counts = place.edge.polling_counts
        assert counts.connections == 1
        place.upgrade()
        assert counts.connections == 0
        place.engine.close(CloseCode.RESTART, "")
        assert counts.connections == 0
        other, _ = place.endpoint.open_polling(Handshake("polling", None, False))
        other.send((LAST,))
        other.close(CloseCode.RESTART, "")
        assert counts.connections == 1
        assert [await other.poll(PLENTY), await other.poll(PLENTY)] == [LAST, b"1"]
        assert counts.connections == 0

    in_loop(check)


def test_a_lost_websocket_ends_the_session() -> None:
    """And one that only probed is closed with the session."""

    async def check() -> None:
        place = Place()
        socket = place.upgrade()
        place.engine.on_socket_closed(as_socket(socket))
        assert (place.engine.is_closed, place.echo.closes) == (True, 1)
        other = Place()
        probing = FakeTransport()
        other.engine.probe(as_socket(probing))
        other.engine.close(CloseCode.RESTART, "")
        assert probing.closed_with is CloseCode.GOING_AWAY

    in_loop(check)
