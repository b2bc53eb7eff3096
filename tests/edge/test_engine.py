"""One Engine.IO session on whatever carries it: mail, polls, probes, the upgrade, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

from edge.transport import FakeTransport
from edge.world import make_settings
from roomful.edge.edge import Edge
from roomful.edge.endpoint import LINGER_S, Endpoint
from roomful.edge.engine import LAST_WORDS, UPGRADE_TIMEOUT_S, EngineConnection, PollConflict
from roomful.edge.room import Carrier
from roomful.edge.websocket import Socket
from roomful.protocol.engineio import (
    BadHandshake,
    Binary,
    Handshake,
    Pace,
    decode_payload,
)
from roomful.protocol.errors import BadPacket, CloseCode, RefusalCode, Refused
from roomful.protocol.session import Channel
from shard.clock import run, settle

PLENTY = 1 << 20
INTERVAL_S, TIMEOUT_S = 25.0, 20.0


class Echo:
    """An application that keeps what it hears."""

    def __init__(self) -> None:
        self.is_established = True
        self.heard: list[bytes] = []
        self.upgrades = 0
        self.closes = 0

    def on_text(self, payload: bytes) -> None:
        """Keep it."""
        self.heard.append(payload)

    def on_binary(self, payload: bytes) -> None:
        """Keep it."""
        self.heard.append(Binary(payload))

    def on_upgraded(self) -> None:
        """Count."""
        self.upgrades += 1

    def on_closed(self) -> None:
        """Count."""
        self.closes += 1


class Place:
    """An endpoint with one session that began on polling."""

    def __init__(self, *, is_established: bool = True) -> None:
        self.edge = Edge(make_settings())
        self.edge.start()
        self.echo = Echo()
        self.echo.is_established = is_established
        pace = Pace(int(INTERVAL_S * 1000), int(TIMEOUT_S * 1000), PLENTY)
        self.endpoint = Endpoint(self.edge, "/e/", pace, lambda _engine, _handshake: self.echo)
        self.engine, self.opening = self.endpoint.open_polling(Handshake("polling", None, False))

    def upgrade(self) -> FakeTransport:
        """Let a WebSocket probe and take over."""
        socket = FakeTransport()
        self.engine.probe(as_socket(socket))
        self.engine.receive(Channel.SOCKET, b"2probe")
        self.engine.receive(Channel.SOCKET, b"5")
        return socket


def as_socket(transport: FakeTransport) -> Socket:
    """Give *transport* for a WebSocket: an engine asks no more of one."""
    return cast(Socket, transport)


def in_loop(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run *check* on a clock of its own."""
    run(check())


# Polling ---------------------------------------------------------------------------------------


def test_a_poll_waits_for_mail() -> None:
    """And brings all there is at that moment."""

    async def check() -> None:
        place = Place()
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        await settle()
        assert not poll.done()
        place.engine.send((b"4a", Binary(b"\x00")))
        place.engine.send((b"4b",))
        assert decode_payload(await poll) == [b"4a", b"\x00", b"4b"]

    in_loop(check)


def test_two_polls_at_once_end_the_session() -> None:
    """The first gets the close, the second is refused (engine.io-protocol v4)."""

    async def check() -> None:
        place = Place()
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        await settle()
        with pytest.raises(PollConflict):
            await place.engine.poll(PLENTY)
        assert await poll == b"1"
        assert (place.engine.is_closed, place.echo.closes) == (True, 1)
        with pytest.raises(BadHandshake):
            place.endpoint.find(place.engine.sid)

    in_loop(check)


def test_packets_go_to_the_application() -> None:
    """Messages without their digit, binary as binary."""

    async def check() -> None:
        place = Place()
        for packet in (b"4hello", Binary(b"\x01"), b"4"):
            place.engine.receive(Channel.POLL, packet)
        assert place.echo.heard == [b"hello", b"\x01", b""]
        for bad in (b"2", b"0", b"5", b"6", b"x", b""):
            with pytest.raises(BadPacket):
                place.engine.receive(Channel.POLL, bad)

    in_loop(check)


def test_a_client_that_leaves() -> None:
    """Its poll returns, its session is over, and the application hears of it once."""

    async def check() -> None:
        place = Place()
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        await settle()
        place.engine.receive(Channel.POLL, b"1")
        assert await poll == b"6"
        place.engine.close(CloseCode.NORMAL, "")
        place.engine.send((b"4late",))
        assert place.echo.closes == 1

    in_loop(check)


def test_a_client_that_does_not_poll_is_closed() -> None:
    """More unread than the send buffer: closed, counted, and what was unread does not grow."""

    async def check() -> None:
        place = Place()
        limit = place.edge.settings.limits.send_buffer_bytes
        for _ in range(5):
            place.engine.send((b"4" + b"x" * (limit // 3),))
        assert (place.engine.is_closed, place.echo.closes) == (True, 1)
        assert place.engine.buffered() <= 2 * limit
        assert place.edge.statistics.slow_clients == 1

    in_loop(check)


LAST = b'42["last"]'


@pytest.mark.parametrize("code", sorted(LAST_WORDS), ids=lambda code: code.name)
@pytest.mark.parametrize("is_polled", [False, True], ids=["between polls", "during a poll"])
def test_what_the_client_has_to_hear_comes_before_the_close(
    code: CloseCode, is_polled: bool
) -> None:
    """Each with a poll of its own, whenever the client polls; then the session is forgotten."""

    async def check() -> None:
        place = Place()
        poll = asyncio.ensure_future(place.engine.poll(PLENTY))
        if is_polled:
            await settle()
        place.engine.send((LAST,))
        place.engine.close(code, "")
        assert (place.engine.is_closed, place.echo.closes) == (True, 1)
        assert await poll == LAST
        assert place.endpoint.find(place.engine.sid) is place.engine
        assert await place.engine.poll(PLENTY) == b"1"
        with pytest.raises(BadHandshake):
            place.endpoint.find(place.engine.sid)

    in_loop(check)


def test_a_client_that_does_not_come_for_it_is_forgotten() -> None:
    """In time; and its session takes nothing more, and cannot be upgraded."""

    async def check() -> None:
        place = Place()
        place.engine.send((LAST,))
        place.engine.close(CloseCode.RESTART, "")
        place.engine.send((b"4late",))
        with pytest.raises(BadPacket):
            place.engine.probe(as_socket(FakeTransport()))
        assert place.endpoint.lingering == {place.engine}
        await asyncio.sleep(LINGER_S + 1)
        assert place.endpoint.lingering == set()
        with pytest.raises(BadHandshake):
            place.endpoint.find(place.engine.sid)
        await place.edge.aclose()

    in_loop(check)


@pytest.mark.parametrize("code", [CloseCode.PING_TIMEOUT, CloseCode.BAD_PACKET])
def test_a_session_that_broke_is_forgotten_at_once(code: CloseCode) -> None:
    """The next poll is told that there is none (engine.io-protocol v4)."""

    async def check() -> None:
        place = Place()
        place.engine.send((LAST,))
        place.engine.close(code, "")
        with pytest.raises(BadHandshake):
            place.endpoint.find(place.engine.sid)

    in_loop(check)


def test_waiting_until_mail_is_read() -> None:
    """drained() returns when the poll took all, and refuses to wait for ever."""

    async def check() -> None:
        place = Place()
        await place.engine.drained()
        place.engine.send((b"4a",))
        waiting = asyncio.ensure_future(place.engine.drained())
        await settle()
        assert not waiting.done()
        await place.engine.poll(PLENTY)
        await waiting
        place.engine.send((b"4b",))
        with pytest.raises(Refused) as caught:
            await place.engine.drained()
        assert caught.value.code is RefusalCode.OVERLOADED

    in_loop(check)


# The upgrade -----------------------------------------------------------------------------------


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


# Heartbeats ------------------------------------------------------------------------------------


async def read(engine: EngineConnection) -> list[bytes]:
    """Poll, and give the packets."""
    return decode_payload(await engine.poll(PLENTY))


def test_heartbeats() -> None:
    """A ping every interval, as long as each is answered."""

    async def check() -> None:
        place = Place()
        loop = asyncio.get_running_loop()
        began, pings = loop.time(), []
        for _ in range(5):
            assert await read(place.engine) == [b"2"]
            pings.append(loop.time() - began)
            place.engine.receive(Channel.POLL, b"3")
        expected = [INTERVAL_S * number for number in range(1, 6)]
        tick_s = place.edge.settings.timer_tick_s
        assert all(abs(at - due) <= 6 * tick_s for at, due in zip(pings, expected, strict=True))
        await place.edge.aclose()

    in_loop(check)


def test_a_client_that_does_not_answer_is_closed() -> None:
    """Not before interval and timeout are over, and not much after."""

    async def check() -> None:
        place = Place()
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await read(place.engine) == [b"2"]
        assert await read(place.engine) == [b"1"]
        took_s = loop.time() - began
        tick_s = place.edge.settings.timer_tick_s
        assert abs(took_s - INTERVAL_S - TIMEOUT_S) <= 2 * tick_s
        assert place.echo.closes == 1
        await place.edge.aclose()

    in_loop(check)


def test_a_client_that_does_not_sign_in_is_closed() -> None:
    """Within connect_timeout_s, although it answers its pings."""

    async def check() -> None:
        place = Place(is_established=False)
        loop = asyncio.get_running_loop()
        began = loop.time()
        packets: Sequence[bytes] = ()
        while b"1" not in packets:
            packets = await read(place.engine)
            if b"2" in packets:
                place.engine.receive(Channel.POLL, b"3")
        timeout_s = place.edge.settings.limits.connect_timeout_s
        assert timeout_s - 1 <= loop.time() - began <= timeout_s + INTERVAL_S
        await place.edge.aclose()

    in_loop(check)
