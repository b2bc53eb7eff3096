"""How an edge hears a shard on a real server: everything once, in order, whatever breaks."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from functions.server import PRODUCTS, RunningServer, serving
from remote.stage import QUICK, SHARD, Stage, key_of, staged
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.held import StreamLimits
from roomful.shard.message import RoomId
from support.deadline import DEADLINE_S, eventually, within
from support.proxy import Proxy


def names(first: int, last: int) -> list[str]:
    """Give ids."""
    return [f"m{number}" for number in range(first, last)]


# While nothing breaks ---------------------------------------------------------------------------


async def test_what_is_published_is_heard_in_the_shards_order(stage: Stage) -> None:
    """Over all rooms held, a batch by room; and nothing of rooms that are not held."""
    async with stage.hearing("a", "b") as heard:
        offsets = await stage.publish({"a": ["1", "2"], "other": ["x"], "b": ["3"]})
        await heard.until("b", "3")
        assert heard.offsets == [offsets[0], offsets[1], offsets[3]]
        assert heard.bodies("a") == ["1", "2"]
        (entry, *_) = heard.sink.entries
        assert (entry.envelope.room, entry.envelope.event) == ("a", "message")
        assert heard.reader.statistics.lost_connections == 0


async def test_hold_returns_when_nothing_later_is_missed(stage: Stage) -> None:
    """Many rooms at once, each with a message as soon as it is held."""
    async with stage.hearing() as heard:

        async def enter(room: str) -> None:
            await heard.reader.hold(RoomId(room))
            await stage.say(room, "first")

        async with asyncio.TaskGroup() as group:
            for number in range(500):
                group.create_task(enter(f"room{number}"))
        for number in range(500):
            await heard.until(f"room{number}", "first")
        assert heard.offsets == sorted(heard.offsets)
        assert heard.reader.stream.statistics.gaps == 0


async def test_any_number_may_wait_for_one_room(stage: Stage) -> None:
    """All who come back at once to a room that nobody here has held yet."""
    async with stage.hearing() as heard:
        async with asyncio.TaskGroup() as group:
            for _ in range(3_000):
                group.create_task(heard.reader.hold(RoomId("a")))
        await stage.say("a", "1")
        await heard.until("a", "1")
        assert heard.bodies("a") == ["1"]
        assert heard.reader.statistics.lost_connections == 0


async def test_a_room_that_is_released_is_not_heard(stage: Stage) -> None:
    """Unless it is held again: then from there on."""
    async with stage.hearing("a", "b") as heard:
        (one,) = await stage.say("a", "1")
        await heard.until("a", "1")
        assert heard.reader.release(RoomId("a")) == one
        await asyncio.sleep(0)
        await stage.publish({"a": ["2"], "b": ["3"]})
        await heard.until("b", "3")
        await heard.reader.hold(RoomId("a"))
        await stage.say("a", "4")
        await heard.until("a", "4")
        assert heard.bodies("a") == ["1", "4"]


async def test_release_and_hold_at_once_lose_nothing(stage: Stage) -> None:
    """Again and again in a stream, in one turn of the loop and over several."""
    async with stage.hearing("a") as heard:
        for number in range(50):
            heard.reader.release(RoomId("a"))
            if number % 2:
                await asyncio.sleep(0)
            await heard.reader.hold(RoomId("a"))
            (offset,) = await stage.say("a", str(number))
            await within(heard.reader.heard(offset))
        assert heard.bodies("a") == [str(number) for number in range(50)]


async def test_a_reader_without_rooms_hears_how_far_the_shard_is(stage: Stage) -> None:
    """A client that is about to join needs a cursor that names the shard."""
    async with stage.hearing() as heard:
        (offset,) = await stage.say("other", "1")
        await within(heard.reader.heard(offset))
        assert heard.reader.position() == offset
        assert heard.reader.statistics.lost_connections == 0


async def test_a_quiet_shard_moves_the_position_on(stage: Stage) -> None:
    """By what others said there: cursors of quiet rooms do not grow old."""
    async with stage.hearing("a") as heard:
        (offset,) = await stage.say("other", "1")

        async def has_reached() -> bool:
            reached = heard.sink.positions.get(SHARD, 0)
            return heard.reader.position() >= offset and reached >= offset

        await eventually(has_reached, "the position moves on")


async def test_heard_waits_for_an_offset(stage: Stage) -> None:
    """What is stored before has been delivered when it returns."""
    async with stage.hearing("a") as heard:
        for number in range(20):
            (offset,) = await stage.say("a", str(number))
            await within(heard.reader.heard(offset))
            assert heard.offsets[-1] == offset


async def test_heard_refuses_what_does_not_come(stage: Stage) -> None:
    """An offset that no one has: retryable, in its time."""
    async with stage.hearing("a", limits=replace(QUICK, hold_s=0.2)) as heard:
        with pytest.raises(Refused) as refused:
            await heard.reader.heard(1 << 50)
        assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE


async def test_an_edge_reads_only_what_its_rooms_get(stage: Stage) -> None:
    """1 % of the rooms, at most 2 % of the bytes."""
    rooms = [f"room{number}" for number in range(300)]
    calm = replace(QUICK, canary_s=1.0, deaf_after_s=5.0)
    async with (
        stage.hearing(*rooms, edge="all", limits=calm) as everything,
        stage.hearing(*rooms[:3], edge="few", limits=calm) as few,
    ):
        for one in (everything, few):
            await one.until_live()
        before = everything.reader.received_bytes, few.reader.received_bytes
        for number in range(20):
            await stage.publish({room: [str(number)] for room in rooms}, size=100)
        await everything.until(rooms[-1], "19")
        await few.until(rooms[2], "19")
        total = everything.reader.received_bytes - before[0]
        mine = few.reader.received_bytes - before[1]
        assert total > 1_000_000
        assert mine / total < 0.02


# When something breaks --------------------------------------------------------------------------


async def test_a_reader_that_is_cut_hears_everything_once(stage: Stage) -> None:
    """The server cuts it in the middle of a stream, again and again."""
    async with stage.hearing("a", "b") as heard:
        for turn in range(10):
            for number in range(turn * 20, turn * 20 + 20):
                await stage.publish({"a": [str(number)], "b": [str(number)]})
                if number % 20 == 10:
                    assert await stage.kill_readers() <= 1
            # Else it may all be over before the reader is there again.
            await heard.until("b", str(turn * 20 + 19))
        for room in "ab":
            assert heard.bodies(room) == [str(number) for number in range(200)]
        assert heard.offsets == sorted(heard.offsets)
        assert heard.reader.statistics.lost_connections > 1


async def test_publications_that_go_missing_are_read(stage: Stage) -> None:
    """The server forgets that we are subscribed: the next publication, or the audit, shows it."""
    async with stage.hearing("a", "b", "c") as heard:
        await heard.until_live()
        await stage.say("a", "1")
        await heard.until("a", "1")
        hearing = heard.reader._hearing
        assert hearing is not None
        connection = heard.reader._connection
        assert connection is not None
        connection.send(b"*2\r\n$11\r\nUNSUBSCRIBE\r\n$3\r\nr:a\r\n")
        await within(heard.reader.heard(heard.reader.position()))
        await connection.call("PING")
        await stage.say("a", "2", "3")
        await heard.until("a", "3")
        assert heard.bodies("a") == ["1", "2", "3"]
        assert heard.reader.stream.statistics.gaps > 0


async def test_a_server_that_stands_still_is_deaf_and_loses_nothing(stage: Stage) -> None:
    """No byte comes and nothing is closed: the canary does not come back."""
    async with Proxy.before(stage.server.port) as proxy:
        address = stage.via(proxy.port)
        async with stage.hearing("a", address=address) as heard:
            await heard.until_live()
            proxy.freeze()

            async def is_deaf() -> bool:
                return heard.reader.is_deaf

            await eventually(is_deaf, "it knows that it does not hear")
            with pytest.raises(Refused) as refused:
                await heard.reader.hold(RoomId("b"))
            assert refused.value.code is RefusalCode.SHARD_UNAVAILABLE
            await stage.say("a", "1", "2")
            proxy.cut()
            proxy.thaw()
            await heard.until("a", "2")
            assert heard.bodies("a") == ["1", "2"]
            await heard.until_live()
            await heard.reader.hold(RoomId("b"))


async def test_a_server_that_is_stopped_and_goes_on_is_heard_again(tmp_path: Path) -> None:
    """It takes connections all the while and answers none; what it does later is heard once."""
    with serving(PRODUCTS[0], tmp_path / "stopped") as server:
        async with staged(server) as stage, stage.hearing("a") as heard:
            await stage.say("a", "1")
            await heard.until("a", "1")
            assert server._process is not None
            server._process.send_signal(signal.SIGSTOP)

            async def is_deaf() -> bool:
                return heard.reader.is_deaf and heard.reader.statistics.failed_attempts > 0

            try:
                await eventually(is_deaf, "it knows that it does not hear", seconds=3 * DEADLINE_S)
            finally:
                server._process.send_signal(signal.SIGCONT)
            await heard.until_live()
            await stage.say("a", "2")
            await heard.until("a", "2")
            assert heard.bodies("a") == ["1", "2"]


async def test_a_reader_that_does_not_keep_up_is_cut_and_fills(stage: Stage) -> None:
    """The server's limit on what it buffers for us is one more lost connection."""
    await stage.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1")
    limits = replace(QUICK, deaf_after_s=10.0, stream=StreamLimits(fill_bytes=256 << 10))
    try:
        async with stage.hearing("a", limits=limits) as heard:
            await heard.until_live()
            connection = heard.reader._connection
            assert connection is not None
            assert connection._transport is not None
            connection._transport.pause_reading()
            for number in range(400):
                await stage.publish({"a": [str(number)]}, size=50_000)
            connection._transport.resume_reading()
            await heard.until("a", "399")
            assert heard.bodies("a") == [str(number) for number in range(400)]
            assert heard.reader.statistics.lost_connections > 0
    finally:
        await stage.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")


async def test_many_rooms_come_back_in_the_shards_order(stage: Stage) -> None:
    """All of them behind, far more than one page and one share, while more is published."""
    rooms = [f"room{number}" for number in range(1200)]
    limits = replace(
        QUICK,
        deaf_after_s=10.0,
        stream=StreamLimits(fill_bytes=512 << 10, page_bytes=4 << 10, share_rooms=100),
    )
    async with Proxy.before(stage.server.port) as proxy:
        async with stage.hearing(*rooms, address=stage.via(proxy.port), limits=limits) as heard:
            proxy.freeze()
            for number in range(3):
                for first in range(0, 1200, 300):
                    await stage.publish(
                        {room: [str(number)] for room in rooms[first : first + 300]}
                    )
            proxy.cut()
            proxy.thaw()
            for number in range(3, 6):
                await stage.publish({room: [str(number)] for room in rooms})

            async def is_whole() -> bool:
                return sum(len(one.entries) for one in heard.sink.delivered) >= 6 * len(rooms)

            await eventually(is_whole, "all was delivered", seconds=3 * DEADLINE_S)
            by_room: dict[str, list[str]] = {room: [] for room in rooms}
            for entry in heard.sink.entries:
                by_room[entry.envelope.room].append(entry.envelope.id)
            assert set(map(tuple, by_room.values())) == {("0", "1", "2", "3", "4", "5")}
            assert heard.offsets == sorted(heard.offsets)
            assert heard.reader.stream.statistics.filled >= 3600


async def test_what_waits_is_bounded(stage: Stage) -> None:
    """More than may wait while logs are read: it is thrown away, and read."""
    limits = replace(QUICK, stream=StreamLimits(waiting_bytes=2000, page_bytes=1000, fill_bytes=1))
    async with stage.hearing("a", limits=limits) as heard:
        for turn in range(5):
            await stage.kill_readers()
            for number in range(turn * 100, turn * 100 + 100):
                await stage.publish({"a": [str(number)]}, size=300)
        await heard.until("a", "499")
        assert heard.bodies("a") == [str(number) for number in range(500)]


async def test_another_term_is_heard_where_the_shard_is_then(stage: Stage) -> None:
    """Refused with the old one, and told why; then everything goes on."""
    async with stage.hearing("a") as heard:
        said: list[str] = []
        heard.reader.on_refused = said.append
        await stage.say("a", "1")
        await heard.until("a", "1")
        await stage.take_term(2)
        await stage.say("a", "2")

        async def is_refused() -> bool:
            return "STALE_TERM 2" in said

        await eventually(is_refused, "the shard says that it has another term")
        heard.reader.retarget(stage.address, 2)
        await heard.until("a", "2")
        assert heard.bodies("a") == ["1", "2"]
        assert heard.sink.lost == []


async def test_what_a_failover_lost_is_told(stage: Stage, server: RunningServer) -> None:
    """Heard, but never replicated: the new primary does not have it, nor another at its offset."""
    async with stage.hearing("a", "b") as heard:
        (kept,) = await stage.say("b", "kept")
        await heard.until("b", "kept")
        await stage.say("a", "ghost")
        await heard.until("a", "ghost")
        # What a replica would have that got everything but the last message.
        log = key_of("a")
        await stage.call("DEL", log, log.replace("l:", "t:"))
        await stage.call("HSET", "roomful:shard", "seq", kept)
        await stage.take_term(2)
        heard.reader.retarget(stage.address, 2)
        await stage.publish({"a": ["new"], "b": ["new"]})
        await heard.until("b", "new")
        assert heard.sink.lost == [("a", False)]
        assert heard.bodies("a") == ["ghost", "new"]
        assert len(set(heard.offsets)) == len(heard.offsets)


async def test_a_shard_that_is_away_comes_back_by_itself(
    stage: Stage, server: RunningServer
) -> None:
    """Nobody listens for a while; it is tried again and again, and then all is filled."""
    async with Proxy.before(stage.server.port) as proxy:
        address = stage.via(proxy.port)
        async with stage.hearing("a", address=address) as heard:
            target, proxy.target = proxy.target, 1
            proxy.cut()
            await stage.say("a", "1")

            async def has_tried() -> bool:
                return heard.reader.statistics.failed_attempts > 2

            await eventually(has_tried, "it tries again")
            proxy.target = target
            await heard.until("a", "1")
