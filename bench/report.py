"""Writes what was measured: a table for the terminal, and `docs/benchmarks.md`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from bench.meter import NOISE_SHARE
from bench.plan import Metric
from bench.rivals import OWN, Rival, Store, rivals_of
from bench.standing import LOAD_BOUND_SHARE, Figure, Row

__all__ = ["Context", "build_document", "build_table"]

_LOAD_BOUND_NOTE = (
    f"¹ The load was busy for more than {LOAD_BOUND_SHARE:.0%} of the time: "
    "it may be what limits this number."
)
_NOISE_NOTE = (
    f"² Other processes took more than {NOISE_SHARE:.0%} of a core: "
    "this number is no measurement, only a hint."
)
_TEMPLATE = Path(__file__).resolve().parent / "document.md"


@dataclass(frozen=True, slots=True)
class Context:
    """What has to be known with the numbers: when, where, how and with which versions."""

    date: str
    command: str
    machine: dict[str, str]
    rounds: int
    duration_s: float
    warmup_s: float


def build_table(rows: Sequence[Row], rivals: Sequence[Rival]) -> str:
    """Build the tables of results in Markdown: per metric all sides' median and spread."""
    return "\n\n".join(_each_kind(rows, rivals, _build_table))


def _each_kind(
    rows: Sequence[Row],
    rivals: Sequence[Rival],
    build: Callable[[Sequence[Row], Rival, Sequence[Rival]], str],
) -> list[str]:
    """Build one table for servers that keep rooms for themselves, and one for those that share."""
    return [
        build(those, OWN[is_shared], rivals_of(rivals, is_shared=is_shared))
        for is_shared in (False, True)
        if (those := [row for row in rows if row.load.is_shared == is_shared])
    ]


def _build_table(rows: Sequence[Row], own: Rival, rivals: Sequence[Rival]) -> str:
    head = ["load", "number", own.title]
    for rival in rivals:
        head += [rival.title, "times better", "target", "met"]
    lines = [_join(head), _join(["---"] * len(head))]
    for row in rows:
        mark = "¹" * row.is_load_bound + "²" * row.is_noisy
        cells = [row.load.key, _name(row.metric), _write_figure(row.own) + mark]
        for rival in rivals:
            met = row.is_met(rival.key)
            cells += [
                _write_figure(row.others[rival.key]),
                f"{row.ratio(rival.key):.2f}",
                _write_target(row.metric),
                "" if met is None else "yes" if met else "**no**",
            ]
        lines.append(_join(cells))
    if any(row.is_load_bound for row in rows):
        lines += ["", _LOAD_BOUND_NOTE]
    if any(row.is_noisy for row in rows):
        lines += ["", _NOISE_NOTE]
    return "\n".join(lines)


def build_shares_table(rows: Sequence[Row], rivals: Sequence[Rival]) -> str:
    """Build the tables of what each side used of its core, and of rates per second of CPU time."""
    return "\n\n".join(_each_kind(rows, rivals, _build_shares_table))


def _build_shares_table(rows: Sequence[Row], own: Rival, rivals: Sequence[Rival]) -> str:
    servers = [own, *rivals]
    head = ["load"]
    for server in servers:
        stores = ["store"] if server.store else []
        head += [f"{server.title}: server", "load", *stores, "others", "per CPU-second"]
    lines = [_join(head), _join(["---"] * len(head))]
    for row in rows:
        if row.metric is not row.load.metrics[0]:
            continue
        cells = [row.load.key]
        for figure in (row.own, *(row.others[rival.key] for rival in rivals)):
            shares = [figure.server_cpu, figure.load_busy]
            shares += [figure.store_cpu] * row.load.is_shared
            shares.append(figure.others_cpu)
            cells += [f"{share:.0%}" for share in shares]
            cells.append("" if row.metric.is_cost else _write(figure.per_cpu_s))
        lines.append(_join(cells))
    return "\n".join(lines)


def build_document(rows: Sequence[Row], rivals: Sequence[Rival], context: Context) -> str:
    """Build the page of the documentation from its template, the rows and their context."""
    loads = {row.load.key: row.load for row in rows}
    servers = [*OWN.values(), *rivals]
    stores: dict[int, Store] = {id(one.store): one.store for one in servers if one.store}
    versions = (
        f"| {server.title} | " + ", ".join(f"{k} {v}" for k, v in server.versions().items()) + " |"
        for server in servers
    )
    return Template(_TEMPLATE.read_text()).substitute(
        date=context.date,
        command=context.command,
        rounds=context.rounds,
        warmup=f"{context.warmup_s:g}",
        duration=f"{context.duration_s:g}",
        machine="\n".join(f"| {key} | {value} |" for key, value in context.machine.items()),
        versions="\n".join(versions),
        redis=next((store.versions()["Redis"] for store in stores.values()), ""),
        results=build_table(rows, rivals),
        shares=build_shares_table(rows, rivals),
        loads="\n".join(f"| {load.key} | {load.title} |" for load in loads.values()),
        servers="\n".join(f"- **{server.title}**: {server.note}." for server in servers),
    )


def _join(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _name(metric: Metric) -> str:
    return f"{metric.title}, {metric.unit}"


def _write_figure(figure: Figure) -> str:
    return f"{_write(figure.median)} ({_write(figure.least)}–{_write(figure.most)})"


def _write(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _write_target(metric: Metric) -> str:
    if metric.least_ratio is not None:
        return f"≥ {metric.least_ratio:g}×"
    return "" if metric.most is None else f"≤ {metric.most:g} {metric.unit}"
