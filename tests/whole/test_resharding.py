"""
Two shards become four and then three while clients send: nothing is lost, and it goes on as fast.

A short form by default; `ROOMFUL_TEST_SCALE=full` is what it is judged by: 1,000 clients that send
2,000 messages a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from roomful.control.reading import read_cluster
from roomful.local.layout import Layout
from roomful.verify.cluster import LocalCluster, LocalShape, local_cluster
from support.deadline import DEADLINE_S

LONG_S = 30 * DEADLINE_S
KEPT_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is of everything."""

    edges: int
    clients: int
    rooms: int
    per_second: int
    log_s: int
    """For so long rooms keep all: far longer than it takes."""
    quiet_s: float
    """Before the first shard is added."""


SCALES = {
    "short": Scale(2, 30, 20, 200, 600, 10.0),
    "full": Scale(3, 1000, 500, 2000, 600, 20.0),
}
SCALE = SCALES[os.environ.get("ROOMFUL_TEST_SCALE", "short")]


@dataclass(slots=True)
class Load:
    """A `roomful verify` that runs, and how many messages were acknowledged by when."""

    # Mutable state: what it has said so far.
    process: subprocess.Popen[str]
    acked: list[tuple[float, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Hear it to the end of its load."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"(\d+) acknowledged", line):
                self.acked.append((time.monotonic(), int(found[1])))

    @property
    def is_over(self) -> bool:
        """Whether nothing is sent any more."""
        return self.process.poll() is not None or any(
            "waiting for acks" in one for one in self.said
        )

    def rate(self, begin: float, end: float) -> float:
        """Give how many were acknowledged a second, from the samples around *begin* to *end*."""
        first = max((one for one in self.acked if one[0] <= begin), default=self.acked[0])
        last = min((one for one in self.acked if one[0] >= end), default=self.acked[-1])
        return (last[1] - first[1]) / (last[0] - first[0])


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Give a cluster of two shards whose rooms keep all that is sent."""
    entries = 3 * SCALE.per_second * SCALE.log_s // SCALE.rooms + 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ROOMFUL_TEST_SCALE", raising=False)  # no setting of an edge
        with local_cluster(LocalShape(SCALE.edges, 2, 1), entries) as running:
            yield running


def start_load(cluster: LocalCluster) -> Load:
    """Let clients connect and send."""
    command = [sys.executable, "-m", "roomful.cli", "verify", *cluster.urls, "--dev"]
    command += ["--clients", str(SCALE.clients), "--rooms", str(SCALE.rooms)]
    command += ["--rate", str(SCALE.per_second), "--duration", str(SCALE.log_s)]
    command += ["--faults", "none", "--connect-timeout", str(LONG_S)]
    pipe = subprocess.PIPE
    return Load(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))


async def shares(cluster: LocalCluster) -> dict[str, int]:
    """Give how many buckets each shard has."""
    layout = Layout.read(cluster.state)
    assert layout is not None
    topology = (await read_cluster(place.address for place in layout.servers())).topology
    assert topology is not None
    return {name: len(topology.buckets_of(name)) for name in sorted(topology.shards)}


async def roomful(cluster: LocalCluster, *words: str) -> tuple[float, float]:
    """Run a command that has to be done; gives when it began and ended."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roomful.cli", *words, "--state-dir", str(cluster.state)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), LONG_S)
    assert process.returncode == 0, said.decode()
    return began, time.monotonic()


async def until_quiet_for(load: Load, seconds: float) -> None:
    """Wait until it has sent undisturbed for so long."""
    while not (load.acked and time.monotonic() > load.acked[0][0] + seconds):
        assert not load.is_over, load.said
        await asyncio.sleep(0.1)


async def test_two_shards_become_four_and_then_three(cluster: LocalCluster) -> None:
    """Shares stay even, at least 70% of the throughput stays, and nothing is lost or reordered."""
    load = start_load(cluster)
    listening = asyncio.create_task(asyncio.to_thread(load.listen))
    try:
        await until_quiet_for(load, SCALE.quiet_s)
        before = load.rate(load.acked[0][0], time.monotonic())
        assert await shares(cluster) == {"s1": 512, "s2": 512}
        begun, _ = await roomful(cluster, "shard", "add")
        assert sorted((await shares(cluster)).values()) == [341, 341, 342]
        await roomful(cluster, "shard", "add")
        assert await shares(cluster) == {"s1": 256, "s2": 256, "s3": 256, "s4": 256}
        _, ended = await roomful(cluster, "shard", "drain", "s1")
        held = await shares(cluster)
        assert (sorted(held), sorted(held.values())) == (["s2", "s3", "s4"], [341, 341, 342])
        assert not load.is_over, "the load ended before the moves: nothing was shown"
        load.process.send_signal(signal.SIGINT)
        await listening
        out, _ = await asyncio.to_thread(load.process.communicate)
    finally:
        load.process.kill()
        await listening
        load.process.communicate()
    during, report = load.rate(begun, ended), json.loads(out)
    told = f"{before:.0f}/s before, {during:.0f}/s during {ended - begun:.0f} s: {report}"
    print(told)  # noqa: T201 - the figures that it is judged by
    assert [report[name] for name in ("lost", "duplicated", "reordered")] == [0, 0, 0], told
    assert report["ok"], told
    assert during >= KEPT_SHARE * before, told
