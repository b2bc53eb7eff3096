"""A real `roomful serve` process on a free port, with its log and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from support.deadline import DEADLINE_S
from support.ports import claim_port
from support.tokens import SECRET

__all__ = ["RUNNING", "Server", "serving", "start"]

RUNNING: list[Server] = []
"""The servers that run now; the test report shows their logs when a test fails."""

_START_S = 3 * DEADLINE_S
_POLL_S = 0.02
_DRAIN_S = 0.5
_LOG_TAIL_BYTES = 12_000


@dataclass(slots=True)
class Server:
    """One server process; where it listens, and what can be seen of it from outside."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    state: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where HTTP is, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """Where WebSockets are, without a slash at the end."""
        return f"ws://127.0.0.1:{self.port}"

    def memory_bytes(self) -> int:
        """Return the process's resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(row for row in status.splitlines() if row.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def open_files(self) -> int:
        """Return the number of file descriptors that the process holds."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log_bytes(self) -> int:
        """Return how much the process has written to its log."""
        return self.log.stat().st_size

    def log_since(self, begin: int) -> str:
        """Return what the process has written since its log had *begin* bytes, or the end of it."""
        return self.log.read_bytes()[begin:][-_LOG_TAIL_BYTES:].decode(errors="replace")

    def is_ready(self) -> bool:
        """Whether /readyz says yes."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        return False

    def stop(self, *, patience_s: float = DEADLINE_S) -> int:
        """Stop the process, less and less politely; its exit status."""
        for ask, wait_s in (
            (self.process.terminate, _DRAIN_S),
            (self.process.terminate, patience_s),  # a second signal ends the drain
            (self.process.kill, patience_s),
        ):
            if self.process.poll() is None:
                ask()
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(wait_s)
        raise AssertionError(f"process {self.process.pid} cannot be killed")


def start(
    directory: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    port: int | None = None,
    program: Sequence[str] = (),
) -> Server:
    """
    Start `roomful serve` and return once it is ready.

    Args:
        directory: state and log go here; a second process on the same one takes over the state.
        arguments: of `roomful serve`, `--dev` when there are none.
        settings: `ROOMFUL_*` by their names without the prefix, lower case.
        port: the port to listen on; a free one when None.
        program: what to run instead of the installed `roomful`.
    """
    chosen = port or claim_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONUNBUFFERED": "1",
        "ROOMFUL_AUTH_SECRET": SECRET,
        "ROOMFUL_STATE_DIR": str(directory / "state"),
    } | {f"ROOMFUL_{name.upper()}": value for name, value in (settings or {}).items()}
    log = directory / f"server-{chosen}.log"
    command = [
        *(program or (_program(),)),
        "serve",
        *(arguments or ("--dev",)),
        "--port",
        str(chosen),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    server = Server(process, chosen, log, directory / "state", dict(settings or {}))
    try:
        _wait_until_ready(server)
    except BaseException:
        server.stop(patience_s=1)
        raise
    return server


@contextmanager
def serving(
    directory: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    program: Sequence[str] = (),
) -> Iterator[Server]:
    """Run a server for the length of a `with` block; arguments as for start."""
    server = start(directory, *arguments, settings=settings, program=program)
    RUNNING.append(server)
    try:
        yield server
    finally:
        RUNNING.remove(server)
        server.stop()


def _program() -> str:
    """Return the installed command that belongs to the Python which runs the tests."""
    return str(Path(sys.executable).parent / "roomful")


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + _START_S
    while not server.is_ready():
        status = server.process.poll()
        assert status is None, f"roomful serve ended with {status}:\n{server.log_since(0)}"
        assert time.monotonic() < end, f"not ready in {_START_S} s:\n{server.log_since(0)}"
        time.sleep(_POLL_S)
