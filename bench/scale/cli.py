"""The command line of the loads of many connections."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from bench.machine import describe_machine
from bench.scale.checks import TooMuch, check_machine
from bench.scale.crew import CrewFailed
from bench.scale.loads import Figures, run_cuts, run_held, run_restarts
from bench.scale.plan import Crowd
from bench.scale.report import LOADS, Context, build_document, build_summary, to_raw
from roomful.verify.cluster import NoCluster

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent.parent
_DOCUMENT = _HERE.parent / "docs" / "scale.md"
ROOM_SIZES = (10, 100)

DESCRIPTION = """\
Puts many connections on a whole cluster (`roomful cluster`: edges, two shards with a replica each,
on real redis-server processes), each one checking that it hears everything once and in order:

"""

EPILOG = """\
exit status: 0 all was delivered, once, in order, with no error; 1 not so; 2 bad arguments, or
this machine cannot hold so many; 3 it could not be found out; 130 interrupted.
"""


def main() -> int:
    """Run what the arguments ask for."""
    arguments = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background ignores it
        signal.signal(number, _interrupt)
    started = datetime.now(UTC)
    found: dict[str, Figures] = {}
    try:
        for key in arguments.only:
            check_machine(_crowd(key, arguments))
        for key in arguments.only:
            found[key] = _run(key, arguments)
            print(build_summary(key, found[key]) + "\n", flush=True)
    except TooMuch as exc:
        print(exc, file=sys.stderr)
        return 2
    except (CrewFailed, NoCluster) as exc:
        print(f"bench/crowd.py: {exc}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    path = arguments.json or _HERE / "results" / f"{started:%Y%m%dT%H%M%SZ}-crowd.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = {key: to_raw(figures) for key, figures in found.items()}
    path.write_text(json.dumps({"machine": describe_machine(), "loads": raw}, indent=1) + "\n")
    if arguments.document is not None:
        command = " ".join(["python", "bench/crowd.py", *sys.argv[1:]])
        context = Context(f"{started:%Y-%m-%d}", command, describe_machine())
        arguments.document.write_text(build_document(found, context))
    return 0 if all(figures.is_ok for figures in found.values()) else 1


def _run(key: str, arguments: argparse.Namespace) -> Figures:
    crowd = _crowd(key, arguments)
    if key == "held":
        return run_held(crowd, rate=arguments.rate, duration_s=arguments.duration, speak=_speak)
    if key == "cuts":
        return run_cuts(crowd, broadcasts=arguments.broadcasts, speak=_speak)
    return run_restarts(crowd, speak=_speak)


def _crowd(key: str, arguments: argparse.Namespace) -> Crowd:
    if key == "held":
        return Crowd(arguments.connections, arguments.edges, ROOM_SIZES)
    clients = arguments.clients
    return Crowd(clients, 3, (clients,), has_announcer=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/crowd.py",
        description=DESCRIPTION + "\n".join(f"  {key:<9} {what}" for key, what in LOADS.items()),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_parse_loads, default=list(LOADS), metavar="LOADS", help="like held,cuts")
    add("--connections", type=_above_0, default=100_000, metavar="N", help="held (100000)")
    add("--edges", type=_above_0, default=7, metavar="N", help="of held, and load processes (7)")
    add("--rate", type=_above_0, default=1_000, metavar="N", help="messages/s of held (1000)")
    add("--duration", type=_above_0, default=60, metavar="S", help="of sending in held (60)")
    add("--clients", type=_above_0, default=10_000, metavar="N", help="of the others (10000)")
    add("--broadcasts", type=_above_0, default=120, metavar="N", help="of cuts (120)")
    add("--json", type=Path, metavar="PATH", help="raw numbers (bench/results/<time>-crowd.json)")
    add(
        "--document",
        type=Path,
        nargs="?",
        const=_DOCUMENT,
        metavar="PATH",
        help="write the page too (docs/scale.md)",
    )
    arguments = parser.parse_args()
    if arguments.document is not None and arguments.only != list(LOADS):
        parser.error("--document needs all loads")
    return arguments


def _parse_loads(text: str) -> list[str]:
    keys = text.split(",")
    if unknown := [key for key in keys if key not in LOADS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of: {', '.join(LOADS)}")
    return [key for key in LOADS if key in keys]


def _above_0(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _speak(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
