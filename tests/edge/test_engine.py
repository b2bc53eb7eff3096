"""One Engine.IO session on whatever carries it: mail, polls, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from edge.engine_place import (
    INTERVAL_S,
    LAST,
    PLENTY,
    TIMEOUT_S,
    Place,
    as_socket,
    in_loop,
    read,
)
from edge.transport import FakeTransport
from roomful.edge.endpoint import LINGER_S
from roomful.edge.engine import LAST_WORDS, PollConflict
from roomful.protocol.engineio import (
    BadHandshake,
    Binary,
    decode_payload,
)
from roomful.protocol.errors import BadPacket, CloseCode, RefusalCode, Refused
from roomful.protocol.session import Channel
from shard.clock import settle

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


# Heartbeats ------------------------------------------------------------------------------------


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
