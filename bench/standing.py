"""From runs to a standing: medians, spreads, ratios and whether a target is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.match import Run
from bench.plan import Load, Metric
from bench.rivals import ROOMFUL, Rival

__all__ = ["LOAD_BOUND_SHARE", "Figure", "Row", "build_rows"]

LOAD_BOUND_SHARE = 0.9  # a load that uses more of its core may be what limits the number


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one server over all rounds; the CPU shares are medians over them."""

    median: float
    least: float
    most: float
    load_cpu: float
    server_cpu: float
    others_cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one load: Roomful's figure, each rival's by its key, and the verdict."""

    load: Load
    metric: Metric
    own: Figure
    others: dict[str, Figure]

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
        return self.own.load_cpu > LOAD_BOUND_SHARE


def build_rows(loads: Sequence[Load], rivals: Sequence[Rival], runs: Sequence[Run]) -> list[Row]:
    """Build one row per metric, for the loads that all servers have runs of."""
    rows = []
    for load in loads:
        for metric in load.metrics:
            own = _summarise(load, metric, ROOMFUL, runs)
            others = {rival.key: _summarise(load, metric, rival, runs) for rival in rivals}
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
        median(result.shares.load_cpu for result in results),
        median(result.shares.server_cpu for result in results),
        median(result.shares.others_cpu for result in results),
    )
