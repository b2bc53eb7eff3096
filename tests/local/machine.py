"""`roomful cluster` as its user has it: a process that is started, looked at and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from roomful.verify.processes import LocalProcess, processes_of
from support.deadline import DEADLINE_S
from support.tokens import SECRET

__all__ = ["EDGES", "SERVERS", "Machine", "run"]

EDGES = 2
SERVERS = 4
_LONG_S = 9 * DEADLINE_S
_STEP_S = 0.05
_ROOMFUL = str(Path(sys.executable).parent / "roomful")
_ENVIRONMENT = {"PATH": os.environ["PATH"], "ROOMFUL_AUTH_SECRET": SECRET}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `roomful` with *arguments* to its end."""
    return subprocess.run(
        [_ROOMFUL, *map(str, arguments)],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=_LONG_S,
        check=False,
    )


@dataclass(slots=True)
class Machine:
    """Two edges and two shards with a replica each, in a directory that outlives them."""

    # Mutable state: the process that runs now.
    directory: Path
    first_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.directory / "state"

    @property
    def ws_urls(self) -> list[str]:
        """Where the edges are."""
        return [f"ws://127.0.0.1:{self.first_port + number}" for number in range(EDGES)]

    @property
    def arguments(self) -> Sequence[str]:
        """What it is started with."""
        shape = ("--edges", str(EDGES), "--shards", "2", "--replicas", "1")
        ports = ("--port", str(self.first_port), "--shard-port", str(self.first_port + EDGES))
        return ("cluster", "--dev", *shape, *ports, "--state-dir", str(self.state))

    def start(self) -> None:
        """Start it, and return once it has said what runs."""
        self._log.write_bytes(b"")
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [_ROOMFUL, *self.arguments], stdout=log, stderr=log, env=_ENVIRONMENT
            )
        end = time.monotonic() + _LONG_S
        while "Ctrl-C\n" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(_STEP_S)

    def said(self) -> str:
        """Give what it has written since it was started."""
        return self._log.read_text()

    def processes(self, role: str = "") -> list[LocalProcess]:
        """Give those of its processes that run now; of one role, or all."""
        assert self.process is not None
        return [one for one in processes_of(self.process.pid) if role in ("", one.role)]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal, as Ctrl-C does; gives its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(_LONG_S)

    def close(self) -> None:
        """End it, with whatever it started."""
        if self.process is None or self.process.poll() is not None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.end()
            return
        self.process.kill()  # what it started ends with it
        self.process.wait()

    @property
    def _log(self) -> Path:
        return self.directory / "cluster.log"
