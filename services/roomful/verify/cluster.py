"""A cluster of our own: `roomful cluster`, in a directory and on ports that it has alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from roomful.local.ports import HOST, NoPorts, hold_ports
from roomful.protocol.errors import RoomfulError
from roomful.verify.processes import LocalProcess, processes_of

__all__ = ["LOOK_S", "LocalCluster", "LocalShape", "NoCluster", "is_ready", "local_cluster"]

START_S: Final = 120.0
STOP_S: Final = 60.0
LOOK_S: Final = 0.1
SPARE_SHARDS: Final = 4
"""Ports are kept for so many more shards: those that are added come behind the others."""

CLAIM_AFTER_S: Final = 5.0
"""What a killed archiver had fetched, another one takes over by then."""


class NoCluster(RoomfulError):
    """The cluster did not start; the words are its own."""


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A running `roomful cluster`."""

    process: subprocess.Popen[bytes]
    directory: Path
    edge_ports: Sequence[int]

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.directory / "state"

    @property
    def urls(self) -> list[str]:
        """Where its edges are."""
        return [f"http://{HOST}:{port}" for port in self.edge_ports]

    def processes(self, role: str) -> list[LocalProcess]:
        """Give its processes of *role* that run now."""
        return [one for one in processes_of(self.process.pid) if one.role == role]

    def log(self) -> str:
        """Give the end of what it said."""
        with suppress(OSError):
            return (self.directory / "cluster.log").read_text(errors="replace")[-4000:]
        return ""


@dataclass(frozen=True, slots=True)
class LocalShape:
    """How many processes to run."""

    edges: int = 3
    shards: int = 3
    replicas: int = 1
    durability: str | None = None
    """None: the most that the replicas allow without a disk."""
    archivers: int = 0
    outage_s: float = 60.0
    """How long the archive's database is away."""


@contextmanager
def local_cluster(
    shape: LocalShape, log_entries: int, archive_url: str = ""
) -> Iterator[LocalCluster]:
    """
    Run a cluster in a directory of its own for the length of a `with` block.

    Args:
        log_entries: what each room keeps, so that the logs can be compared whole.
        archive_url: where archivers, if there are any, reach their database.

    Raises:
        NoCluster: it did not start.
    """
    servers = (shape.shards + SPARE_SHARDS) * (shape.replicas + 1)
    with (
        TemporaryDirectory(prefix="roomful-verify-") as name,
        _held_ports(shape.edges + servers) as first,
    ):
        directory = Path(name)
        command = [sys.executable, "-m", "roomful.cli", "cluster", "--dev"]
        command += ["--edges", str(shape.edges), "--shards", str(shape.shards)]
        command += ["--replicas", str(shape.replicas), "--state-dir", str(directory / "state")]
        command += ["--port", str(first), "--shard-port", str(first + shape.edges)]
        command += ["--archivers", str(shape.archivers)]
        if shape.durability is not None:
            command += ["--durability", shape.durability]
        settings = {
            "ROOMFUL_LOG_MESSAGES_PER_ROOM": str(log_entries),
            # Never the one of the environment: it was not given to be broken.
            "ROOMFUL_ARCHIVE_URL": archive_url,
            "ROOMFUL_ARCHIVE_CLAIM_AFTER_S": str(CLAIM_AFTER_S),
        }
        with (directory / "cluster.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **settings},
                start_new_session=True,  # Ctrl-C ends the load first, and the cluster after it
            )
        cluster = LocalCluster(process, directory, range(first, first + shape.edges))
        try:
            _wait_until_ready(cluster)
            yield cluster
        finally:
            _stop(process)


@contextmanager
def _held_ports(count: int) -> Iterator[int]:
    """Keep *count* ports in a row for the length of a `with` block; gives the first."""
    try:
        held = hold_ports(count)
    except NoPorts as exc:
        raise NoCluster(str(exc)) from exc
    with ExitStack() as stack:
        for one in held:
            stack.enter_context(one)
        yield held[0].getsockname()[1]


def _wait_until_ready(cluster: LocalCluster) -> None:
    end = time.monotonic() + START_S
    while not all(map(is_ready, cluster.urls)):
        if cluster.process.poll() is not None or time.monotonic() > end:
            raise NoCluster(f"the cluster did not start:\n{cluster.log()}")
        time.sleep(LOOK_S)


def is_ready(url: str) -> bool:
    """Whether the edge at *url* serves."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=2.0).status_code == httpx.codes.OK
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
