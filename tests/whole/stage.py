"""Edges before shards with replicas, and ways to break them while `roomful verify` looks."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote.cluster import Cluster, running_cluster
from support.server import RUNNING, Server, start
from support.tokens import SECRET

__all__ = ["Stage", "Verdict", "staged"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `roomful verify` found."""

    status: int
    report: dict[str, Any]
    words: str

    def number(self, name: str) -> int:
        """Give one of the report's counts."""
        count: int = self.report[name]
        return count


class Stage:
    """Edges that run, and the shards that they use."""

    # Mutable state: the edges, the one that is being started again, and what was broken so far.
    def __init__(self, directory: Path, cluster: Cluster, starter: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._cluster = cluster
        self._starter = starter
        self._restart: Future[Server] | None = None
        self.edges: list[Server] = []
        self.killed_edges = 0
        self.cut_readers = 0

    def start_edge(self, port: int | None = None) -> Server:
        """Start an edge, on a new port or on one that it had."""
        settings = {**self._cluster.settings, "drain_window_s": "0"}
        return start(self._directory, settings=settings, port=port)

    def kill_edge(self) -> None:
        """SIGKILL an edge and start it again, once the last one is back."""
        if self._restart is not None:
            if not self._restart.done():
                return
            self.take_back()
        edge = random.choice(self.edges)  # noqa: S311 - no secret
        edge.process.kill()
        edge.process.wait()
        self.edges.remove(edge)
        self._restart = self._starter.submit(self.start_edge, edge.port)
        self.killed_edges += 1

    def take_back(self) -> None:
        """Wait for the edge that is being started."""
        if self._restart is not None:
            self.edges.append(self._restart.result())
            self._restart = None
        RUNNING[:] = self.edges

    def cut_readers_off(self) -> None:
        """Let each shard's primary cut all who are subscribed."""
        for member in self._cluster.members.values():
            self.cut_readers += member.calls.command("CLIENT", "KILL", "TYPE", "pubsub")

    def verify(self, *options: str, faults: Mapping[Callable[[], None], float]) -> Verdict:
        """
        Put load on it, do *faults* while it lasts, each every so many seconds, and count.

        Args:
            options: of `roomful verify`.
        """
        command = [sys.executable, "-m", "roomful.cli", "verify", *options]
        command += [edge.url for edge in self.edges]
        environment = {**os.environ, "ROOMFUL_AUTH_SECRET": SECRET}
        words = self._directory / "verify.log"
        with words.open("w") as log:
            verify = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        due = {fault: time.monotonic() + every_s for fault, every_s in faults.items()}
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    out, _ = verify.communicate(timeout=0.1)
                    break
                said = words.read_text()
                if "sending" not in said or "waiting for acks" in said:
                    continue
                for fault, at in due.items():
                    if time.monotonic() >= at:
                        fault()
                        due[fault] = time.monotonic() + faults[fault]
        finally:
            verify.kill()
            self.take_back()
        assert out, words.read_text()
        return Verdict(verify.returncode, json.loads(out), words.read_text())


@contextmanager
def staged(
    product: str, directory: Path, *, edges: int, shards: int, replicas: int
) -> Iterator[Stage]:
    """Run all of it for the length of a `with` block."""
    with (
        running_cluster(product, directory, shards=shards, replicas=replicas) as cluster,
        ThreadPoolExecutor(edges) as starter,
    ):
        stage = Stage(directory, cluster, starter)
        try:
            for starting in [starter.submit(stage.start_edge) for _ in range(edges)]:
                stage.edges.append(starting.result())
            stage.take_back()
            yield stage
        finally:
            stage.take_back()
            RUNNING.clear()
            for edge in stage.edges:
                edge.stop()
