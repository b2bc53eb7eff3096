"""Writes what the loads of many connections measured: for the terminal, and `docs/scale.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Final

from bench.scale.loads import Figures

__all__ = ["LOADS", "Context", "build_document", "build_summary", "to_raw"]

LOADS: Final = {
    "held": "connections held at once, each in two rooms, with messages through all of them",
    "cuts": "one room of all, two broadcasts a second; each client is cut every 15 s, for 2 s",
    "restarts": "one room of all, two broadcasts a second; all edges restart, one after the other",
}

_TEMPLATE: Final = Path(__file__).resolve().parent / "document.md"
_TIMES: Final = {
    "live_ns": "due to delivered, while connected",
    "replayed_ns": "due to delivered, after a reconnect",
    "reconnect_ns": "first attempt to come back to session resumed",
    "away_ns": "connection lost to session resumed",
}
_EXTRA: Final = {
    "edge_kb": ("edges' memory for a connection (with its rooms, presence, session)", "KB"),
    "edge_busy_kb": ("the same while messages flow", "KB"),
    "server_kb": ("memory of all shard servers for a connection", "KB"),
    "kernel_kb": ("kernel buffers of both ends of a connection", "KB"),
    "open_edge_ms": ("CPU time of an edge to connect and join two rooms", "ms"),
    "open_server_ms": ("CPU time of all shard servers for that", "ms"),
    "idle_edge_cores": ("cores that all edges use with no message", ""),
    "idle_server_cores": ("cores that all shard servers use with no message", ""),
    "busy_edge_cores": ("cores that all edges use while messages flow", ""),
    "busy_server_cores": ("cores that all shard servers use while messages flow", ""),
    "edge_cores": ("cores that all edges use", ""),
    "server_cores": ("cores that all shard servers use", ""),
    "restart_s": ("from the first edge's SIGTERM to the last one's readiness", "s"),
}


@dataclass(frozen=True, slots=True)
class Context:
    """What has to be known with the numbers: when, how and where."""

    date: str
    command: str
    machine: Mapping[str, str]


def _rows(key: str, figures: Figures) -> list[tuple[str, str]]:
    counts, crowd = figures.outcome.counts, figures.crowd
    rate = crowd.connections / figures.open_s
    rows = [
        ("edges", f"{crowd.edges}"),
        ("connections", f"{crowd.connections:,}"),
        ("connected and in all rooms at the end", f"{counts['ready'] - crowd.has_announcer:,}"),
        ("connected and joined, at the beginning", f"{rate:,.0f} a second"),
        ("messages sent", f"{figures.sent:,}"),
        ("deliveries owed", f"{figures.expected:,}"),
        ("**delivered**", f"**{counts['deliveries']:,}**"),
        ("**lost, doubled or reordered**", f"**{counts['lost'] + counts['doubled']:,}**"),
        ("**errors**", f"**{sum(figures.outcome.errors.values()):,}**"),
    ]
    if key != "held":
        rows += [
            ("connections cut by the load", f"{counts['cuts']:,}"),
            ("connections closed by an edge", f"{counts['closed']:,}"),
            ("sessions resumed with nothing missing", f"{counts['resumed']:,}"),
            ("sessions not resumed", f"{counts['not_resumed']:,}"),
            ("attempts refused, tried elsewhere", f"{counts['refused']:,}"),
        ]
    elif counts["closed"]:
        rows.append(("connections closed by an edge", f"{counts['closed']:,}"))
    for name, title in _TIMES.items():
        if times := figures.outcome.times[name]:
            parts = [figures.percentile_ms(name, part) for part in (0.5, 0.99)]
            shown = " / ".join(f"{part:,.1f}" for part in (*parts, times[-1] / 1e6))
            rows.append((f"{title}: p50 / p99 / max", f"{shown} ms"))
    for name, number in figures.extra.items():
        title, unit = _EXTRA[name]
        rows.append((title, f"{number:,.2f} {unit}".strip()))
    return rows


def build_summary(key: str, figures: Figures) -> str:
    """Build the table of one load in Markdown, and the errors if there are any."""
    lines = [f"| {key} | |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in _rows(key, figures)]
    lines += [f"\n{number} times: {error}" for error, number in figures.outcome.errors.items()]
    return "\n".join(lines)


def build_document(found: Mapping[str, Figures], context: Context) -> str:
    """Build the page of the documentation from its template and all loads."""
    return Template(_TEMPLATE.read_text()).substitute(
        date=context.date,
        command=context.command,
        machine="\n".join(f"| {key} | {value} |" for key, value in context.machine.items()),
        **{key: build_summary(key, figures) for key, figures in found.items()},
    )


def to_raw(figures: Figures) -> dict[str, object]:
    """Give the numbers as they are kept."""
    outcome = figures.outcome
    return {
        "crowd": asdict(figures.crowd),
        "sent": figures.sent,
        "expected": figures.expected,
        "open_s": figures.open_s,
        "counts": outcome.counts,
        "errors": outcome.errors,
        "load_cpu_s": outcome.cpu_s,
        "extra": figures.extra,
        "percentiles_ms": {
            name: {str(part): figures.percentile_ms(name, part) for part in (0.5, 0.9, 0.99, 0.999)}
            for name in outcome.times
        },
    }
