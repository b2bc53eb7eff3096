"""`roomful verify --local`: a cluster of its own, broken and found whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roomful.verify.incidents import FaultKind, plan_faults
from roomful.verify.processes import children_of, processes_of
from support.deadline import DEADLINE_S

_ROOMFUL = str(Path(sys.executable).parent / "roomful")
_LIMIT_S = 300


def verify_local(directory: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Break a cluster of two edges, two shards and a replica each; gives status and report."""
    done = subprocess.run(
        [
            *(_ROOMFUL, "verify", "--local", "--edges", "2", "--shards", "2", "--replicas", "1"),
            *("--rate", "150", "--seed", "5", "--clients", "24", "--rooms", "12"),
            *arguments,
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_cluster_that_is_broken_keeps_its_promise(tmp_path: Path) -> None:
    """An edge and a primary are killed and clients cut: nothing lost, doubled or reordered."""
    faults = FaultKind.CLIENT_CUT, FaultKind.EDGE_KILL, FaultKind.PRIMARY_KILL
    status, report = verify_local(
        tmp_path, "--duration", "20", "--fault-every", "4", "--faults", ",".join(faults)
    )

    assert status == 0, report
    assert (report["lost"], report["duplicated"], report["reordered"]) == (0, 0, 0)
    assert report["acked"] == report["sent"] > 1000
    assert {kind for kind, figures in report["faults"].items() if not figures["failed"]} == {
        *faults
    }


def test_a_cluster_that_acks_before_a_replica_has_it_is_found_out(tmp_path: Path) -> None:
    """A primary that is cut off goes on acknowledging: with `memory`, what nobody else gets."""
    status, report = verify_local(
        tmp_path,
        *("--durability", "memory", "--faults", FaultKind.PARTITION),
        *("--duration", "16", "--fault-every", "12"),
    )

    assert status == 1
    assert not report["ok"]
    assert report["lost"] > 0
    assert report["examples"]


def test_a_fault_that_the_cluster_cannot_survive_is_refused(tmp_path: Path) -> None:
    """Without replicas no primary may be killed: it is said before anything starts."""
    done = subprocess.run(
        [_ROOMFUL, "verify", "--local", "--replicas", "0", "--faults", "primary-kill"],
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 3,
        check=False,
    )

    assert done.returncode == 2
    assert "primary-kill: cannot be done to this cluster" in done.stderr


@pytest.mark.parametrize("seed", [1, 2, 99])
def test_the_same_seed_plans_the_same_faults(seed: int) -> None:
    """All kinds before any comes again, never in the first and last seconds."""
    kinds = [FaultKind.EDGE_KILL, FaultKind.PAUSE, FaultKind.CLIENT_CUT]
    plan = plan_faults(kinds, duration_s=60, every_s=10, seed=seed)

    assert plan == plan_faults(reversed(kinds), duration_s=60, every_s=10, seed=seed)
    assert [fault.at_s for fault in plan] == [5, 15, 25, 35, 45, 55]
    assert {fault.kind for fault in plan[:3]} == {fault.kind for fault in plan[3:]} == {*kinds}
    assert plan != plan_faults(kinds, duration_s=60, every_s=10, seed=seed + 1)


def test_no_kinds_plan_nothing() -> None:
    """A run without faults is a run without faults."""
    assert plan_faults([], duration_s=60, every_s=10, seed=1) == []


def test_processes_of_nobody_are_none() -> None:
    """A parent without children of a cluster has none; its other children are not taken for any."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert child.pid in set(children_of(os.getpid()))
            assert [one for one in processes_of(os.getpid()) if one.pid == child.pid] == []
        finally:
            child.kill()
