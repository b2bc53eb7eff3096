"""How many edges and shards there are, over whole days of load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.cluster.autoscale import (
    CPU_TARGET,
    EdgeLoad,
    EdgeTargets,
    History,
    decide_edges,
    excess_connections,
    first_to_go,
)

TARGETS = EdgeTargets(minimum=2, maximum=50, connections=1000, deliveries_per_s=10_000.0)
STEP_S = 10.0


def spread(
    connections: int, edges: int, *, deliveries_per_s: float = 0.0, cpu: float = 0.0
) -> list[EdgeLoad]:
    """Give *edges* that share *connections*."""
    return [
        EdgeLoad(
            f"e{number}",
            connections // edges + (number < connections % edges),
            deliveries_per_s=deliveries_per_s,
            cpu=cpu,
        )
        for number in range(edges)
    ]


def simulate(
    load: Callable[[float], int],
    *,
    hours: float,
    start: int = 2,
    step_s: float = STEP_S,
    silent: Callable[[float], float] = lambda _: 0.0,
) -> Iterator[tuple[float, int, int]]:
    """Run the autoscaler over a load; gives time, connections and edges of each step."""
    random, current = Random(7), start  # noqa: S311 - the same each time
    history = History.beginning(0.0, start)
    for step in range(int(hours * 3600 / step_s)):
        now = step * step_s
        connections = load(now)
        loads = [
            EdgeLoad(one.name, one.connections, is_readable=random.random() >= silent(now))
            for one in spread(connections, current)
        ]
        decision = decide_edges(TARGETS, loads, current, now, history)
        current, history = decision.count, decision.history
        yield now, connections, current


def turns(counts: Sequence[int]) -> int:
    """Give how often a series changes its direction."""
    steps = [b - a for a, b in zip(counts, counts[1:], strict=False) if a != b]
    return sum(a * b < 0 for a, b in zip(steps, steps[1:], strict=False))


def noisy(base: Callable[[float], float], share: float = 0.05) -> Callable[[float], int]:
    """Give *base* with noise; the same noise each time."""
    random = Random(3)  # noqa: S311 - the same each time
    return lambda now: int(base(now) * (1 + random.uniform(-share, share)))


def test_a_steady_load_changes_nothing() -> None:
    """An hour of the same load with 5 % noise: the number is found once, and stays."""
    counts = [count for now, _, count in simulate(noisy(lambda _: 7400), hours=1) if now > 300]
    assert len(set(counts)) == 1


@pytest.mark.parametrize("base", range(1000, 20_000, 1700))
def test_no_load_makes_it_flap(base: int) -> None:
    """Whatever the load is, also just at a border: with noise there is no going back and forth."""
    counts = [count for _, _, count in simulate(noisy(lambda _: base), hours=1)]
    assert turns(counts) == 0


def of_signal(signal: str, base: float, edges: int) -> list[EdgeLoad]:
    """Give *edges* for which one signal alone says that *base* edges are needed; all share it."""
    if signal == "connections":
        return spread(int(base * TARGETS.connections / (1 + TARGETS.buffer)), edges)
    if signal == "deliveries":
        return spread(0, edges, deliveries_per_s=base * TARGETS.deliveries_per_s / edges)
    return spread(0, edges, cpu=min(1.0, base * CPU_TARGET / edges))


@pytest.mark.parametrize("signal", ["connections", "deliveries", "cpu"])
@pytest.mark.parametrize("base", [2.4, 5.1, 8.7])
@pytest.mark.parametrize("noise", [0.02, 0.25])
def test_six_steady_hours_never_turn_round(signal: str, base: float, noise: float) -> None:
    """Whatever tells the load, and however noisy it is: it goes to its number, and not back."""
    random = Random(11)  # noqa: S311 - the same each time
    current, history, counts = 2, History.beginning(0.0, 2), []
    for step in range(int(6 * 3600 / STEP_S)):
        now = step * STEP_S
        loads = of_signal(signal, base * (1 + random.uniform(-noise, noise)), current)
        decision = decide_edges(TARGETS, loads, current, now, history)
        current, history = decision.count, decision.history
        counts.append(current)
    # What answers the first peak may be one more than is needed.
    assert turns(counts) <= 1


def test_a_day_goes_up_and_down_once() -> None:
    """A day and a night: one rise, one fall, and always room for everybody."""

    def day(now: float) -> float:
        return 10_000 - 8_000 * math.cos(now / 86_400 * 2 * math.pi)

    seen = list(simulate(noisy(day, 0.02), hours=24, start=3, step_s=60))
    assert turns([count for _, _, count in seen]) <= 1
    for now, connections, count in seen:
        assert connections <= count * TARGETS.connections or now < 120
        assert count <= connections * 1.2 / TARGETS.connections * 1.35 + 3


def test_five_times_the_load_is_met_in_a_minute() -> None:
    """A sudden load is met step by step, at most doubled each time, within a minute."""
    seen = list(simulate(lambda now: 2_000 if now < 600 else 10_000, hours=0.5))
    assert all(count >= 10 for now, _, count in seen if now >= 660)


def test_a_mass_disconnect_takes_nothing_away_at_once() -> None:
    """Everybody gone for two minutes, as when a network fails: all edges are there after it."""
    seen = list(simulate(lambda now: 0 if 600 <= now < 720 else 9_000, hours=0.5))
    before = max(count for now, _, count in seen if now < 600)
    assert all(count >= before for now, _, count in seen if now >= 600)


def test_edges_go_slowly() -> None:
    """When most of the load is gone for good, edges go one by one, a minute apart."""
    seen = list(simulate(lambda now: 9_000 if now < 600 else 1_000, hours=1.5))
    changes = [
        (now, before - count)
        for (_, _, before), (now, _, count) in zip(seen, seen[1:], strict=False)
        if count < before
    ]
    assert changes
    assert changes[0][0] >= 600 + TARGETS.window_s - STEP_S
    assert all(gone == 1 for _, gone in changes)
    assert all(b - a >= 60 for (a, _), (b, _) in zip(changes, changes[1:], strict=False))
    assert seen[-1][2] == 2


def test_silent_edges_take_nothing_away() -> None:
    """A fifth of the edges silent at any time: never fewer than before, and no flapping."""
    seen = list(simulate(lambda _: 9_000, hours=1, silent=lambda now: 0.2 if now > 900 else 0.0))
    counts = [count for now, _, count in seen if now > 600]
    assert min(counts) == counts[0]
    assert turns(counts) == 0


def test_half_of_the_edges_silent_stops_it() -> None:
    """When we cannot see, nothing is changed, and it is told."""
    loads = [*spread(900, 2), EdgeLoad("x", is_readable=False), EdgeLoad("y", is_readable=False)]
    decision = decide_edges(TARGETS, loads, 4, 0.0, History())
    assert (decision.count, decision.reason, decision.is_active) == (4, "MetricsMissing", False)


def test_clients_of_draining_edges_count() -> None:
    """They come back in a moment, and need room then."""
    loads = [*spread(2000, 2), EdgeLoad("old", 2000, is_draining=True)]
    assert decide_edges(TARGETS, loads, 2, 0.0, History()).count >= 5


def test_deliveries_and_cpu_count_too() -> None:
    """The signal that asks for most wins; CPU only when it was high twice in a row."""
    busy = spread(10, 3, deliveries_per_s=20_000.0)
    assert decide_edges(TARGETS, busy, 3, 0.0, History()).count == 6
    hot = spread(10, 4, cpu=0.95)
    once = decide_edges(TARGETS, hot, 4, 0.0, History.beginning(0.0, 4))
    assert once.count == 4
    assert decide_edges(TARGETS, hot, 4, 10.0, once.history).count == 6


def test_nothing_goes_while_something_else_changes() -> None:
    """A reshard, a failover or a roll: edges may come, and none goes."""
    old = History(((0.0, 2),))
    loads = spread(100, 5)
    assert decide_edges(TARGETS, loads, 5, 1.0, old, is_calm=False).reason == "Waiting"
    assert decide_edges(TARGETS, loads, 5, 1.0, old).count == 4


def test_who_has_just_begun_takes_nothing_away() -> None:
    """An operator that was restarted has seen no window: all edges stay until it has."""
    decision = decide_edges(TARGETS, spread(100, 5), 5, 1.0, History.beginning(0.0, 5))
    assert decision.count == 5


@given(
    connections=st.integers(0, 100_000),
    current=st.integers(1, 60),
    minimum=st.integers(1, 10),
    more=st.integers(0, 50),
)
def test_the_bounds_hold(connections: int, current: int, minimum: int, more: int) -> None:
    """Never above the maximum, and within bounds never below the minimum."""
    targets = EdgeTargets(minimum, minimum + more, 1000, 10_000.0)
    decision = decide_edges(targets, spread(connections, current), current, 0.0, History())
    assert decision.count <= max(targets.maximum, current)
    assert decision.count >= min(minimum, current)


# Who goes, and who sheds --------------------------------------------------------------------


def test_the_emptiest_go_first() -> None:
    """As few clients as possible have to move; edges that drain are not counted again."""
    loads = [EdgeLoad("a", 5), EdgeLoad("b", 1), EdgeLoad("c", 0, is_draining=True)]
    assert first_to_go(loads, 1) == ("b",)


def test_those_go_that_share_a_node() -> None:
    """A lost node takes as few edges as possible; among equals the emptiest goes."""
    loads = [
        *(EdgeLoad("a", 1, node="n1"), EdgeLoad("b", 2, node="n1")),
        *(EdgeLoad("c", 9, node="n2"), EdgeLoad("d", 8, node="n2"), EdgeLoad("e", 7, node="n2")),
    ]
    assert first_to_go(loads, 1) == ("e",)
    assert first_to_go(loads, 3) == ("e", "a", "d")


@pytest.mark.parametrize("count", [0, -1, -2])
def test_when_more_come_none_goes(count: int) -> None:
    """Who is marked once is the first to go ever after."""
    assert first_to_go(spread(100, 4), count) == ()


def rebalanced(loads: list[int]) -> Iterator[list[int]]:
    """Give the loads after each round of shedding; who is shed comes to the emptiest edge."""
    while True:
        edges = [EdgeLoad(f"e{number}", count) for number, count in enumerate(loads)]
        shed = excess_connections(edges)
        if not shed:
            return
        for number in range(len(loads)):
            moved = shed.get(f"e{number}", 0)
            loads[number] -= moved
            for _ in range(moved):
                loads[loads.index(min(loads))] += 1
        yield loads


def test_new_edges_get_their_share() -> None:
    """After a scale-up full edges shed a little in each round, and it ends."""
    rounds = list(rebalanced([1000, 1000, 0]))
    assert 2 <= len(rounds) <= 40
    final = rounds[-1]
    assert max(final) <= 1.25 * sum(final) / 3
    assert sum(final) == 2000


@given(loads=st.lists(st.integers(0, 3000), min_size=2, max_size=8))
def test_shedding_always_ends(loads: list[int]) -> None:
    """Whatever the loads, shedding comes to an end; nobody is moved for ever."""
    for number, _ in enumerate(rebalanced(loads)):
        assert number < 500


# Shards -------------------------------------------------------------------------------------
