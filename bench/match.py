"""Plays the rounds: each load, each round, each server in turn; one fresh server per run."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.meter import CORES, NOISE_SHARE, Result, Shares
from bench.peer import Target
from bench.plan import LOAD_CORE, Load, OpenLoop
from bench.procfs import read_busy_s
from bench.rivals import OWN, Rival, rivals_of
from bench.server import serve

__all__ = ["Run", "RunFailed", "Settings", "play"]

_ROOT = Path(__file__).resolve().parent.parent
_OVERHEAD_TIMEOUT_S = 300.0
_QUIET_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """
    How long and how often: rounds per load, seconds of warm-up and of measuring per run.

    With *patience*, a run waits for a quiet machine, and one that was not is repeated, up to so
    often; the quietest one counts.
    """

    rounds: int
    warmup_s: float
    duration_s: float
    is_quick: bool
    patience: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one load against one server."""

    load: str
    rival: str
    round: int
    result: Result


class RunFailed(Exception):
    """The load found a fault in the server, or did not end; the sentence says which."""


def play(loads: Sequence[Load], rivals: Sequence[Rival], settings: Settings) -> Iterator[Run]:
    """Play *settings.rounds* rounds A B A B … of each load, and give each run when it is done."""
    secret = secrets.token_urlsafe(48)
    for load in loads:
        players = [OWN[load.is_shared], *rivals_of(rivals, is_shared=load.is_shared)]
        for number in range(1, settings.rounds + 1):
            for rival in players:
                result = _run_patiently(load, rival, secret, settings)
                yield Run(load.key, rival.key, number, result)


def _run_patiently(load: Load, rival: Rival, secret: str, settings: Settings) -> Result:
    results = []
    for _ in range(settings.patience + 1):
        if settings.patience:
            _wait_for_quiet()
        with serve(rival, secret, _store_cores(load)) as target:
            results.append(_run_load(load, target, secret, settings))
        if results[-1].shares.others_cpu <= NOISE_SHARE:
            break
    return min(results, key=lambda result: result.shares.others_cpu)


def _store_cores(load: Load) -> tuple[int, ...]:
    """
    Give where a server's store runs: on the load's core, since a server has one of its own.

    The system likes to wake a store on the core of who wrote to it, where it waits for the server's
    turn to end, and the server for its: with the other core idle for a third of the time. At a
    fixed rate both cores are idle for most of the time, and the system does place it.
    """
    return CORES if isinstance(load.shape, OpenLoop) else (LOAD_CORE,)


def _wait_for_quiet() -> None:
    """Wait until other processes leave the two cores alone for a second, but not for ever."""
    end = time.monotonic() + _QUIET_TIMEOUT_S
    while time.monotonic() < end:
        before = read_busy_s(CORES)
        time.sleep(1)
        if read_busy_s(CORES) - before <= NOISE_SHARE:
            return


def _run_load(load: Load, target: Target, secret: str, settings: Settings) -> Result:
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "bench.load", load.key]
    command += ["--host", target.host, "--port", str(target.port), "--group", str(target.group)]
    command += ["--store", str(target.store)]
    command += ["--warmup", str(settings.warmup_s), "--duration", str(settings.duration_s)]
    if settings.is_quick:
        command.append("--quick")
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env=os.environ | {"AUTH_SECRET": secret},
            capture_output=True,
            text=True,
            timeout=settings.warmup_s + settings.duration_s + _OVERHEAD_TIMEOUT_S,
            check=True,
            process_group=0,
        )
    except subprocess.CalledProcessError as error:
        raise RunFailed(f"load {load.key}: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise RunFailed(f"load {load.key} does not end") from None
    raw = json.loads(done.stdout)
    return Result(raw["metrics"], Shares(**raw["shares"]), raw["details"])
