"""The timer wheel: never late, at most a tick early, and once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.edge.wheel import TimerWheel
from shard.clock import ClockLoop, run

TICKS = st.sampled_from([0.5, 0.05, 0.1, 1 / 3, 0.015])
DELAYS = st.floats(0, 30)
ROUNDING_S = 1e-6


class Item:
    """Implements Timed: notes when it is called, and asks for more from a list."""

    def __init__(self, delays: list[float]) -> None:
        self.delays = delays
        self.due_at = 0.0
        self.calls: list[tuple[float, float]] = []

    def begin(self, wheel: TimerWheel) -> None:
        """Ask for the first call."""
        self._add(wheel, self.delays[0])

    def _add(self, wheel: TimerWheel, delay_s: float) -> None:
        self.due_at = asyncio.get_running_loop().time() + delay_s
        wheel.add(self, delay_s)

    def on_timer(self, now: float) -> float | None:
        """Note when it was due and when it came."""
        self.calls.append((self.due_at, now))
        if len(self.calls) == len(self.delays):
            return None
        delay_s = self.delays[len(self.calls)]
        self.due_at = now + delay_s
        return delay_s


@settings(max_examples=60)
@given(tick_s=TICKS, items=st.lists(st.lists(DELAYS, min_size=1, max_size=4), max_size=5))
def test_items_are_called_up_to_a_tick_early_and_never_late(
    tick_s: float, items: list[list[float]]
) -> None:
    """No call comes more than a tick before it is due, nor after it, but for the next tick."""

    async def check() -> None:
        wheel = TimerWheel(tick_s)
        wheel.start()
        made = [Item(delays) for delays in items]
        for item in made:
            item.begin(wheel)
        await asyncio.sleep(150)
        wheel.stop()
        for item in made:
            assert len(item.calls) == len(item.delays)
            for due_at, came_at in item.calls:
                assert due_at - tick_s - ROUNDING_S <= came_at
            for delay_s, (due_at, came_at) in zip(item.delays, item.calls, strict=True):
                # What is due before the next tick has to wait for it.
                assert came_at <= due_at + max(0.0, tick_s - delay_s) + ROUNDING_S

    run(check())


@settings(max_examples=40)
@given(tick_s=TICKS, blocked_s=st.floats(0, 20), delays=st.lists(DELAYS, min_size=1, max_size=6))
def test_a_loop_that_was_blocked_serves_all_that_is_due(
    tick_s: float, blocked_s: float, delays: list[float]
) -> None:
    """At once when it turns again, each item once, none before its time."""

    async def check() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockLoop)
        wheel = TimerWheel(tick_s)
        wheel.start()
        items = [Item([delay]) for delay in delays]
        for item in items:
            item.begin(wheel)
        loop.skip(blocked_s)
        await asyncio.sleep(tick_s + ROUNDING_S)
        now = loop.time()
        for item in items:
            if item.due_at <= now - tick_s:
                assert len(item.calls) == 1
        await asyncio.sleep(60)
        assert all(len(item.calls) == 1 for item in items)
        assert all(due - tick_s - ROUNDING_S <= at for item in items for due, at in item.calls)
        wheel.stop()

    run(check())


def test_what_keeps_asking_for_now_does_not_stop_the_loop() -> None:
    """A delay of nothing is the next tick."""

    async def check() -> None:
        wheel = TimerWheel(0.5)
        wheel.start()
        item = Item([0.0] * 1000)
        item.begin(wheel)
        await asyncio.sleep(10)
        wheel.stop()
        assert 19 <= len(item.calls) <= 21

    run(check())


def test_an_item_that_fails_takes_nobody_with_it() -> None:
    """Whoever is due in the same tick and later is called all the same."""

    class Broken:
        def on_timer(self, _now: float) -> float | None:
            raise ValueError("a bug")

    async def check() -> None:
        wheel = TimerWheel(0.5)
        wheel.start()
        item = Item([1.0, 1.0])
        wheel.add(Broken(), 1.0)
        item.begin(wheel)
        await asyncio.sleep(5)
        wheel.stop()
        assert len(item.calls) == 2

    run(check())


def test_a_stopped_wheel_calls_nobody() -> None:
    """And can be stopped twice."""

    async def check() -> None:
        wheel = TimerWheel(0.5)
        wheel.start()
        item = Item([1.0])
        item.begin(wheel)
        wheel.stop()
        wheel.stop()
        await asyncio.sleep(10)
        assert item.calls == []

    run(check())


def test_a_wheel_needs_its_loop() -> None:
    """Nothing can be added before it was started."""
    with pytest.raises(AssertionError):
        TimerWheel().add(Item([1.0]), 1.0)
