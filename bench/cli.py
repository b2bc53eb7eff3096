"""The command line of the benchmark: what to run, and where the numbers go."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

from bench.machine import describe_machine
from bench.match import Run, RunFailed, Settings, play
from bench.plan import LOADS, Load
from bench.report import Context, build_document, build_table
from bench.rivals import COMPARABLE, OWN, RIVALS, Rival, rivals_of
from bench.server import ServerFailed
from bench.standing import build_rows

__all__ = ["main"]

_T = TypeVar("_T")

_HERE = Path(__file__).resolve().parent
_DOCUMENT = _HERE.parent / "docs" / "benchmarks.md"
_FULL = Settings(rounds=5, warmup_s=2.0, duration_s=5.0, is_quick=False, patience=0)
_QUICK = Settings(rounds=1, warmup_s=0.5, duration_s=1.5, is_quick=True, patience=0)


def main() -> int:
    """Run what the arguments ask for; 1 if a server failed or a load found a fault."""
    arguments = _parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background ignores it
        signal.signal(number, _interrupt)
    started = datetime.now(UTC)
    base = _QUICK if arguments.quick else _FULL
    settings = Settings(
        arguments.rounds or base.rounds,
        base.warmup_s,
        arguments.duration or base.duration_s,
        base.is_quick,
        arguments.patience,
    )
    loads, rivals = arguments.only, arguments.vs
    runs: list[Run] = []
    status = 0
    try:
        for is_shared in {load.is_shared for load in loads}:
            for rival in (OWN[is_shared], *rivals_of(rivals, is_shared=is_shared)):
                rival.prepare()
        for run in play(loads, rivals, settings):
            runs.append(run)
            _print_run(run)
    except (FileNotFoundError, RunFailed, ServerFailed) as error:
        print(error, file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; what was measured so far:", file=sys.stderr)
        status = 130
    rows = build_rows(loads, rivals, runs)
    if runs:
        _write_raw(arguments.json or _name_raw(started), started, runs, settings)
    if rows:
        print("\n" + build_table(rows, rivals))
    if status == 0 and loads == list(LOADS.values()) and not arguments.quick:
        context = Context(
            f"{started:%Y-%m-%d}",
            " ".join(["python", "bench/run.py", *sys.argv[1:]]),
            describe_machine(),
            settings.rounds,
            settings.duration_s,
            settings.warmup_s,
        )
        arguments.document.write_text(build_document(rows, rivals, context))
    return status


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description="Compare Roomful with other servers: one core each, the same events, one run.",
        epilog="loads: "
        + "; ".join(
            f"{load.key}: {load.title}" + ", rooms shared through Redis" * load.is_shared
            for load in LOADS.values()
        ),
    )
    parser.add_argument(
        "--only",
        type=_parse_loads,
        default=list(LOADS.values()),
        metavar="LOADS",
        help="loads to run, like a,c (default: all)",
    )
    parser.add_argument(
        "--vs",
        type=_parse_rivals,
        default=list(RIVALS.values()),
        metavar="RIVALS",
        help=f"servers to compare with, of: {', '.join(COMPARABLE)} (default: {', '.join(RIVALS)})",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {_FULL.rounds}")
    parser.add_argument(
        "--duration", type=float, metavar="S", help=f"of measuring (default: {_FULL.duration_s:g})"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short and small, for a look; writes no document"
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="wait for a quiet machine, and repeat a run that was not quiet up to N times",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="raw numbers (default: bench/results/<time>.json)"
    )
    parser.add_argument(
        "--document",
        type=Path,
        default=_DOCUMENT,
        metavar="PATH",
        help="page that a full run of all loads writes (default: docs/benchmarks.md)",
    )
    return parser.parse_args()


def _parse_loads(text: str) -> list[Load]:
    return _choose(LOADS, text)


def _parse_rivals(text: str) -> list[Rival]:
    return _choose(COMPARABLE, text)


def _choose(known: dict[str, _T], text: str) -> list[_T]:
    keys = text.split(",")
    if unknown := [key for key in keys if key not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of: {', '.join(known)}")
    return [value for key, value in known.items() if key in keys]


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_run(run: Run) -> None:
    numbers = ", ".join(f"{key} {value:,.2f}" for key, value in run.result.metrics.items())
    shares = run.result.shares
    print(
        f"{run.load} round {run.round} {run.rival:<15} {numbers}  "
        f"(server {shares.server_cpu:.0%}, load {shares.load_busy:.0%}, "
        f"store {shares.store_cpu:.0%}, others {shares.others_cpu:.0%})",
        flush=True,
    )


def _name_raw(started: datetime) -> Path:
    return _HERE / "results" / f"{started:%Y%m%dT%H%M%SZ}.json"


def _write_raw(path: Path, started: datetime, runs: Sequence[Run], settings: Settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = {
        "started": started.isoformat(),
        "machine": describe_machine(),
        "settings": asdict(settings),
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
