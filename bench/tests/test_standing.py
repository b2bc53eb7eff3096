"""Ratios and targets mean the same for rates and for costs: more is better for Roomful."""

from __future__ import annotations

import pytest

from bench.match import Run
from bench.meter import Result, Shares
from bench.plan import LOADS
from bench.rivals import RIVALS, ROOMFUL
from bench.standing import Row, build_rows

_RIVAL = RIVALS["socketio"]


def build_row(
    load: str,
    own: list[float],
    other: list[float],
    *,
    load_busy: float = 0.5,
    others_cpu: float = 0.0,
) -> Row:
    """Build the row of the first metric of *load* from one value per round and server."""
    key = LOADS[load].metrics[0].key
    shares = Shares(1.0, load_busy, 0.5, others_cpu)
    metrics = {metric.key: 1.0 for metric in LOADS[load].metrics}
    runs = [
        Run(load, server.key, number, Result(metrics | {key: value}, shares, {}))
        for server, values in ((ROOMFUL, own), (_RIVAL, other))
        for number, value in enumerate(values, 1)
    ]
    return build_rows([LOADS[load]], [_RIVAL], runs)[0]


def test_figure_is_the_median_with_its_spread() -> None:
    """One odd round moves the spread, not the figure."""
    row = build_row("a", [900.0, 1.0, 1_000.0], [100.0])
    assert (row.own.median, row.own.least, row.own.most) == (900.0, 1.0, 1_000.0)


@pytest.mark.parametrize(
    ("load", "own", "other", "ratio", "is_met"),
    [
        ("a", 250.0, 100.0, 2.5, True),
        ("a", 249.0, 100.0, 2.49, False),
        ("c", 150.0, 100.0, 1.5, False),
        ("d", 2.0, 4.0, 2.0, True),
        ("d", 4.0, 2.0, 0.5, False),
        ("e", 11.0, 5.0, 5 / 11, True),
        ("e", 11.1, 20.0, 20 / 11.1, False),
        ("b", 1.0, 2.0, 0.5, None),
    ],
)
def test_verdict(load: str, own: float, other: float, ratio: float, is_met: bool | None) -> None:
    """A rate or cost that is so many times better gives that ratio, and the load's verdict."""
    row = build_row(load, [own], [other])
    assert row.ratio(_RIVAL.key) == pytest.approx(ratio)
    assert row.is_met(_RIVAL.key) is is_met


def test_busy_load_is_flagged() -> None:
    """A number that the load may have limited says so."""
    assert build_row("a", [1.0], [1.0], load_busy=0.95).is_load_bound
    assert not build_row("a", [1.0], [1.0], load_busy=0.85).is_load_bound


def test_busy_machine_is_flagged() -> None:
    """A number that was measured next to other work says so."""
    assert build_row("a", [1.0], [1.0], others_cpu=0.3).is_noisy
    assert not build_row("a", [1.0], [1.0], others_cpu=0.02).is_noisy


def test_rate_per_cpu_second_is_what_a_whole_core_would_do() -> None:
    """Half a core for 100/s is 200/s of CPU time."""
    assert build_row("a", [100.0], [1.0]).own.per_cpu_s == pytest.approx(200.0)


def test_load_without_runs_of_both_has_no_row() -> None:
    """An interrupted match shows what is complete."""
    shares = Shares(1.0, 0.5, 1.0, 0.0)
    runs = [Run("a", ROOMFUL.key, 1, Result({"deliveries_per_s": 1.0}, shares, {}))]
    assert build_rows([LOADS["a"]], [_RIVAL], runs) == []
