"""
The promise over several edges and shards with replicas, while clients, edges and readers are cut.

A short form by default; `ROOMFUL_TEST_SCALE=full` is what the promise is judged by: 3 edges, 3
shards with a replica each, 60 clients in 40 rooms, 500 messages a second, a client cut each 100 ms,
an edge killed each 10 s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from functions.server import PRODUCTS
from whole.stage import Stage, Verdict, staged

assert PRODUCTS, "these tests need redis-server or valkey-server (Debian: redis-server)"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is of everything."""

    edges: int
    shards: int
    clients: int
    rooms: int
    per_second: int
    duration_s: float
    kill_every_s: float


SCALES = {
    "short": Scale(2, 2, 16, 10, 100, 6.0, 3.0),
    "full": Scale(3, 3, 60, 40, 500, 60.0, 10.0),
}
SCALE = SCALES[os.environ.get("ROOMFUL_TEST_SCALE", "short")]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Edges and shards that all tests here use, and break."""
    directory = tmp_path_factory.mktemp("whole")
    sizes = {"edges": SCALE.edges, "shards": SCALE.shards, "replicas": 1}
    with staged(PRODUCTS[0], directory, **sizes) as one:
        yield one


def options(*more: str) -> list[str]:
    """Give the options of `roomful verify`."""
    chosen = ["--clients", str(SCALE.clients), "--rooms", str(SCALE.rooms)]
    chosen += ["--rate", str(SCALE.per_second), "--duration", str(SCALE.duration_s)]
    return [*chosen, *more]


def check(verdict: Verdict) -> None:
    """Nothing lost, doubled or reordered; everyone came back, and every message was answered."""
    broken = {
        name: verdict.report[name]
        for name in ("lost", "duplicated", "reordered", "neverBack", "unacknowledged")
        if verdict.report[name]
    }
    assert not broken, f"{verdict.report}\n{verdict.words}"
    assert verdict.status == 0, verdict.words
    assert verdict.number("acked") > SCALE.per_second * SCALE.duration_s / 4
    assert verdict.number("heard") > verdict.number("acked")


def test_everyone_hears_the_same_in_the_same_order(stage: Stage) -> None:
    """Over all edges and shards, with nothing broken."""
    check(stage.verify(*options("--faults", "none"), faults={}))


def test_clients_that_are_cut_miss_nothing(stage: Stage) -> None:
    """One every 100 ms; each resumes, on whichever edge it comes to."""
    faults = ("--faults", "client-cut", "--fault-every", "0.1")
    verdict = stage.verify(*options(*faults), faults={})
    check(verdict)
    assert verdict.number("resumed") > 0
    assert verdict.number("beganAnew") == 0


def test_edges_may_be_killed(stage: Stage) -> None:
    """Without a word, under cuts too; and the servers cut what the edges hear by, all the time."""
    faults = {stage.kill_edge: SCALE.kill_every_s, stage.cut_readers_off: 0.5}
    verdict = stage.verify(
        *options("--faults", "client-cut", "--fault-every", "0.1"), faults=faults
    )
    check(verdict)
    assert stage.killed_edges > 0
    assert stage.cut_readers > 0
    assert verdict.number("resumed") > 0
    assert verdict.number("beganAnew") == 0
