"""From runs to a standing: medians, spreads, ratios and whether a target is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.match import Run
from bench.meter import NOISE_SHARE
from bench.plan import Load, Metric
from bench.rivals import OWN, Rival, rivals_of

__all__ = ["LOAD_BOUND_SHARE", "Figure", "Row", "build_rows"]

_LEAST_CPU = 0.001
LOAD_BOUND_SHARE = 0.9  # a load that is busy for longer may be what limits the number


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One metric of one server over all rounds; the shares (`Shares`) are medians over them.

    `per_cpu_s` is the metric divided by the server's CPU share: for a rate, what it does in one
    second of CPU time, which holds on a machine with other work too.
    """

    median: float
    least: float
    most: float
    load_busy: float
    server_cpu: float
    others_cpu: float
    store_cpu: float
    per_cpu_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one load: Roomful's figure, each rival's by its key, and the verdict."""

    load: Load
    metric: Metric
    own: Figure
    others: dict[str, Figure]
    """Of those rivals that the load was put on."""

    def ratio(self, rival: str) -> float:
        """How many times better Roomful is than *rival*; below 1 it is worse."""
        own, other = self.own.median, self.others[rival].median
        return other / own if self.metric.is_cost else own / other

    def is_met(self, rival: str) -> bool | None:
        """Whether the metric's target against *rival* is met; None if it has none."""
        if self.metric.least_ratio is not None:
            return self.ratio(rival) >= self.metric.least_ratio
        if self.metric.most is not None:
            return self.own.median <= self.metric.most
        return None

    @property
    def is_load_bound(self) -> bool:
        """Whether Roomful may be faster than this: the load had no time left."""
        return self.own.load_busy > LOAD_BOUND_SHARE

    @property
    def is_noisy(self) -> bool:
        """Whether other processes took so much of the cores that the number says little."""
        return any(f.others_cpu > NOISE_SHARE for f in (self.own, *self.others.values()))


def build_rows(loads: Sequence[Load], rivals: Sequence[Rival], runs: Sequence[Run]) -> list[Row]:
    """Build one row per metric, for the loads that all servers have runs of."""
    rows = []
    for load in loads:
        against = rivals_of(rivals, is_shared=load.is_shared)
        for metric in load.metrics:
            own = _summarise(load, metric, OWN[load.is_shared], runs)
            others = {rival.key: _summarise(load, metric, rival, runs) for rival in against}
            if own and all(others.values()):
                found = {key: figure for key, figure in others.items() if figure}
                rows.append(Row(load, metric, own, found))
    return rows


def _summarise(load: Load, metric: Metric, rival: Rival, runs: Sequence[Run]) -> Figure | None:
    results = [run.result for run in runs if (run.load, run.rival) == (load.key, rival.key)]
    if not results:
        return None
    values = [result.metrics[metric.key] for result in results]
    return Figure(
        median(values),
        min(values),
        max(values),
        median(result.shares.load_busy for result in results),
        median(result.shares.server_cpu for result in results),
        median(result.shares.others_cpu for result in results),
        median(result.shares.store_cpu for result in results),
        median(
            result.metrics[metric.key] / max(result.shares.server_cpu, _LEAST_CPU)
            for result in results
        ),
    )
