"""Starts a server on its core, waits until it listens, and takes it down whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peer import Target
from bench.plan import SERVER_CORE
from bench.rivals import Rival

__all__ = ["ServerFailed", "serve"]

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02


class ServerFailed(Exception):
    """The server did not start; the sentence ends with what it said."""


@contextlib.contextmanager
def serve(rival: Rival, secret: str) -> Iterator[Target]:
    """Run *rival* on the server's core for the time of the context."""
    with tempfile.TemporaryDirectory(prefix="roomful-bench-") as name:
        directory = Path(name)
        port = _find_free_port()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for command in rival.commands(port):
                group = processes[0].pid if processes else 0
                environment = os.environ | rival.environment(secret)
                processes.append(_start(command, environment, directory, group))
            _wait_until_listening(processes[-1], port, directory)
            yield Target(_HOST, port, processes[0].pid)
        finally:
            _stop(processes)


def _start(
    command: list[str], environment: dict[str, str], directory: Path, group: int
) -> subprocess.Popen[bytes]:
    # In a group of its own Ctrl-C does not reach it; with the signal it never outlives the harness.
    pinned = ["taskset", "-c", str(SERVER_CORE), "setpriv", "--pdeathsig", "KILL", *command]
    with (directory / "output.log").open("ab") as output:
        return subprocess.Popen(
            pinned,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=group,
        )


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((_HOST, port)):
            return
        time.sleep(_POLL_S)
    raise ServerFailed(
        f"{process.args!r} does not listen on {port}:\n{(directory / 'output.log').read_text()}"
    )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port
