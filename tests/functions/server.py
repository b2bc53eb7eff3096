"""
Real servers for the tests, on free ports, each with a clock that only the test moves.

libfaketime gives a server its time of day, which stands still at what a file says. Timers inside
the server use the monotonic clock, which is left alone. libc comes before jemalloc in the
preload, because jemalloc asks for the time before libfaketime is ready.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from functions.calls import Calls
from support.ports import claim_port

__all__ = ["EPOCH_S", "PRODUCTS", "SUPPORTED", "RunningServer", "serving"]

SUPPORTED = ("redis-server", "valkey-server")
PRODUCTS = tuple(name for name in SUPPORTED if shutil.which(name))
"""Those that this machine has; the tests run on each."""

EPOCH_S = 1_800_000_000
"""The time of day when a server begins."""

_FAKETIME = "faketime/libfaketime.so.1"


def _faketime() -> Path:
    for directory in (*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib"), Path("/usr/lib64")):
        if (library := directory / _FAKETIME).exists():
            return library
    raise FileNotFoundError("these tests need libfaketime (Debian: apt-get install faketime)")


@dataclass(slots=True)
class RunningServer:
    """One server process, which keeps its port and directory over restarts."""

    # Mutable state: its time of day, the process, and the connections given out.
    product: str
    port: int
    directory: Path
    options: tuple[str, ...]
    has_real_time: bool = False
    now_s: float = EPOCH_S
    _process: subprocess.Popen[str] | None = None
    _calls: list[Calls] = field(default_factory=list)

    def start(self) -> None:
        """Start the process and wait until it takes connections."""
        self._set_clock()
        faked = {
            "TZ": "UTC",
            "LD_PRELOAD": f"{_faketime()} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        environment = {**os.environ, **({} if self.has_real_time else faked)}
        command = [self.product, "--port", str(self.port), "--dir", str(self.directory)]
        self._process = subprocess.Popen(
            [*command, "--bind", "127.0.0.1", "--save", "", *self.options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if "Ready to accept connections" in line:
                return
        raise RuntimeError(f"{self.product} did not start:\n{said}")

    def kill(self) -> None:
        """End the process as a power cut would, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process with grace, and wait until it is gone."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        for calls in self._calls:
            calls.close()
        self._calls.clear()
        if self._process is not None:
            self._process.send_signal(number)
            self._process.communicate()
            self._process = None

    def connect(self) -> Calls:
        """Give a connection of its own."""
        calls = Calls(self.port)
        self._calls.append(calls)
        return calls

    def pass_time(self, seconds: float) -> None:
        """Move the server's clock on, and wait until it has seen that: it keeps the time cached."""
        self.now_s += seconds
        self._set_clock()
        calls = self._calls[0] if self._calls else self.connect()
        while True:
            whole_s, more_us = calls.command("TIME")
            if abs(whole_s + more_us / 1e6 - self.now_s) < 1e-3:
                return

    @property
    def _clock(self) -> Path:
        return self.directory / "clock"

    def _set_clock(self) -> None:
        # Replaced at once: the server reads it at any time.
        new = self.directory / "clock.new"
        new.write_text(datetime.fromtimestamp(self.now_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f\n"))
        new.replace(self._clock)


@contextmanager
def serving(
    product: str, directory: Path, *options: str, has_real_time: bool = False
) -> Iterator[RunningServer]:
    """
    Run *product* (a name of PRODUCTS) with *options* in *directory*.

    Args:
        has_real_time: its clock goes by itself: WAIT ends by it, and timeouts of the server.
    """
    directory.mkdir(parents=True, exist_ok=True)
    running = RunningServer(product, claim_port(), directory, options, has_real_time)
    try:
        running.start()
        yield running
    finally:
        running.kill()
