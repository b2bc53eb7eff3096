"""Starts a server on its core, waits until it listens, and takes it down whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.peer import Target
from bench.plan import SERVER_CORE
from bench.rivals import Rival
from roomful.local.ports import HOST, hold_ports

__all__ = ["ServerFailed", "serve"]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02


class ServerFailed(Exception):
    """The server did not start; the sentence ends with what it said."""


@contextlib.contextmanager
def serve(rival: Rival, secret: str, store_cores: Sequence[int]) -> Iterator[Target]:
    """
    Run *rival* on the server's core for the time of the context, and its store on *store_cores*.

    Raises:
        ServerFailed: one of them did not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="roomful-bench-") as name,
        contextlib.ExitStack() as running,
    ):
        directory = Path(name)
        addresses: list[str] = []
        store = 0
        if rival.store is not None:
            first = _hold_ports(rival.store.ports, running)
            addresses = rival.store.addresses(first)
            for command in rival.store.commands(directory, first):
                process = running.enter_context(
                    _running(command, store_cores, {}, directory, store)
                )
                store = store or process.pid
            for number in range(rival.store.ports):
                _wait_until_listening(process, first + number, directory)
        port = _hold_ports(1, running)
        environment = rival.environment(secret, addresses)
        server = running.enter_context(
            _running(rival.command(port), (SERVER_CORE,), environment, directory, 0)
        )
        _wait_until_listening(server, port, directory)
        yield Target(HOST, port, server.pid, store)


def _hold_ports(count: int, running: contextlib.ExitStack) -> int:
    """Give the first of *count* ports in a row that nobody else gets until *running* ends."""
    held = [running.enter_context(one) for one in hold_ports(count)]
    first: int = held[0].getsockname()[1]
    return first


@contextlib.contextmanager
def _running(
    command: list[str],
    cores: Sequence[int],
    environment: dict[str, str],
    directory: Path,
    group: int,
) -> Iterator[subprocess.Popen[bytes]]:
    # In a group of its own Ctrl-C does not reach it; with the signal it never outlives the harness.
    pinned = ["taskset", "-c", ",".join(map(str, cores))]
    pinned += ["setpriv", "--pdeathsig", "KILL", *command]
    with (directory / "output.log").open("ab") as output:
        process = subprocess.Popen(
            pinned,
            env=os.environ | environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=group,
        )
    try:
        yield process
    finally:
        _stop(process)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return
        time.sleep(_POLL_S)
    raise ServerFailed(
        f"{process.args!r} does not listen on {port}:\n{(directory / 'output.log').read_text()}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
