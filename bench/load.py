"""
The load process: one load against one running server, the result as one line of JSON.

    AUTH_SECRET=… taskset -c 1 python -m bench.load c --port 3000 --group 4711

`bench/run.py` starts it; by hand it is good for profiling a server under one load.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import asdict

import jwt

from bench.loads.closed_loop import run_closed_loop
from bench.loads.connections import run_handshakes, run_idle
from bench.loads.open_loop import run_open_loop
from bench.meter import Result
from bench.peer import Target
from bench.plan import LOADS, ClosedLoop, Handshakes, Idle, Load, OpenLoop, count_tokens
from bench.reactor import LostLink, StuckError
from bench.wire import ProtocolFault

__all__ = ["main", "run_load"]

_TOKEN_TTL_S = 3600


def run_load(
    load: Load, target: Target, secret: str, *, warmup_s: float, duration_s: float
) -> Result:
    """Run *load* against *target*, with one token per connection, signed with *secret*."""
    tokens = _build_tokens(count_tokens(load.shape), secret)
    gc.collect()
    gc.disable()  # a pause of the load would look like one of the server
    match load.shape:
        case ClosedLoop() as shape:
            return run_closed_loop(shape, target, tokens, warmup_s=warmup_s, duration_s=duration_s)
        case OpenLoop() as shape:
            return run_open_loop(shape, target, tokens, warmup_s=warmup_s, duration_s=duration_s)
        case Handshakes() as shape:
            return run_handshakes(shape, target, tokens)
        case Idle() as shape:
            return run_idle(shape, target, tokens)


def _build_tokens(count: int, secret: str) -> list[str]:
    expires = int(time.time()) + _TOKEN_TTL_S
    grants = {"*": ["join", "send"]}
    return [
        jwt.encode({"sub": f"user-{n}", "exp": expires, "rooms": grants}, secret, "HS256")
        for n in range(count)
    ]


def main() -> int:
    """Run the load that the arguments name; 1 if the server did not do what the load asks."""
    parser = argparse.ArgumentParser(description="Run one load against one running server.")
    parser.add_argument("load", choices=sorted(LOADS))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--group", type=int, required=True, help="process group of the server")
    parser.add_argument("--store", type=int, default=0, help="process that runs what it keeps")
    parser.add_argument("--warmup", type=float, default=1.0, metavar="S")
    parser.add_argument("--duration", type=float, default=5.0, metavar="S")
    parser.add_argument("--quick", action="store_true", help="fewer connections in e and f")
    arguments = parser.parse_args()
    load = LOADS[arguments.load]
    try:
        result = run_load(
            load.shortened() if arguments.quick else load,
            Target(arguments.host, arguments.port, arguments.group, arguments.store),
            os.environ["AUTH_SECRET"],
            warmup_s=arguments.warmup,
            duration_s=arguments.duration,
        )
    except (LostLink, OSError, ProtocolFault, StuckError) as error:
        sys.stderr.write(f"load {load.key}: {error}\n")
        return 1
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
