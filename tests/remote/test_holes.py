"""Messages that are gone before an edge could read them: only their room is told."""

from __future__ import annotations

from remote.stage import Stage, key_of
from support.proxy import Proxy


async def test_a_hole_is_told_before_anything_newer(stage: Stage) -> None:
    """The log no longer reaches back: whoever is in the room must know; other rooms go on."""
    async with Proxy.before(stage.server.port) as proxy:
        address = stage.via(proxy.port)
        async with stage.hearing("a", "b", address=address) as heard:
            await stage.publish({"a": ["0"], "b": ["0"]})
            await heard.until("b", "0")
            proxy.freeze()
            await stage.publish({"b": ["1"]})
            for number in range(1, 300):
                await stage.publish({"a": [str(number)]}, keep=1)
            proxy.cut()
            proxy.thaw()
            await heard.until("b", "1")
            await heard.until_live()
            assert heard.sink.lost == [("a", True)]
            await stage.say("a", "new")
            await heard.until("a", "new")
            assert heard.bodies("a") == ["0", "new"]
            assert heard.reader.stream.statistics.lost_rooms == 1


async def test_a_key_that_is_no_log_costs_its_room_alone(stage: Stage) -> None:
    """It was made something else while messages were missed: only their room lacks them."""
    async with Proxy.before(stage.server.port) as proxy:
        async with stage.hearing("a", "b", address=stage.via(proxy.port)) as heard:
            await stage.publish({"a": ["1"], "b": ["1"]})
            await heard.until("b", "1")
            proxy.freeze()
            await stage.publish({"a": ["2"], "b": ["2"]})
            await stage.call("DEL", key_of("a"))
            await stage.call("SET", key_of("a"), "poison")
            proxy.cut()
            proxy.thaw()
            await heard.until("b", "2")
            await heard.until_live()
            assert heard.sink.lost == [("a", True)]
