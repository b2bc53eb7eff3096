"""`kubectl roomful` as people run it, in a real cluster under load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e.installation import NAMESPACE, RELEASE, Installation
from e2e.loaded import assert_kept, assert_resumed
from e2e.shell import ROOT, CommandFailed, Shell, eventually

pytestmark = pytest.mark.full


def roomful(chart: Installation, *words: str) -> str:
    """Run the plugin; gives what it prints."""
    path = f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    shell = Shell({**chart.shell.environment, "PATH": path})
    return shell.run("kubectl", "roomful", "--namespace", NAMESPACE, *words)


def test_it_tells_how_the_cluster_is(chart: Installation) -> None:
    """The state, and each shard with its primary."""
    lines = roomful(chart, "status", RELEASE).splitlines()
    assert lines[0] == f"{RELEASE}: Ready"
    for shard in chart.buckets():
        assert any(f"shard {shard}: " in line and chart.primary(shard) in line for line in lines)


def test_a_role_is_handed_to_the_replica_that_is_named(chart: Installation, log: Path) -> None:
    """Under load, and nothing is lost."""
    old = chart.primary("s1")
    chosen = max(set(chart.pods("shard", "s1")) - {old})
    with chart.load(log, seconds=25) as load:
        roomful(chart, "failover", RELEASE, "s1", "--to", chosen)
        eventually(lambda: chart.primary("s1") == chosen, f"{chosen} is the primary", timeout_s=30)
        assert_kept(load.report())


def test_an_edge_is_drained(chart: Installation, log: Path) -> None:
    """Its pod goes, another one comes, and its clients resume."""
    before = chart.pods("edge")
    with chart.load(log, seconds=40) as load:
        roomful(chart, "drain-edge", before[0])
        eventually(lambda: before[0] not in chart.pods("edge"), "it goes")
        assert_resumed(load.report())
    eventually(lambda: len(chart.pods("edge")) == len(before), "another one is there")


def test_what_cannot_be_done_fails(chart: Installation) -> None:
    """With the operator's reason."""
    with pytest.raises(CommandFailed, match="refused: .*s9"):
        roomful(chart, "move-bucket", RELEASE, "7", "s9")


def test_passwords_change_under_load(chart: Installation, log: Path) -> None:
    """All programs get another one, no server restarts, and nothing is lost."""

    def passwords() -> dict[str, str]:
        found = chart.get("secret", f"{RELEASE}-redis")["data"]
        assert isinstance(found, dict)
        return found

    before, servers, edges = passwords(), uids(chart, "shard"), uids(chart, "edge")
    with chart.load(log, seconds=90, rate=20) as load:
        roomful(chart, "change-passwords", RELEASE)
        eventually(
            lambda: not any(name.endswith(".previous") for name in passwords()),
            "the old ones have ended",
            timeout_s=180,
        )
        assert_resumed(load.report())
    after = passwords()
    for program in ("controller", "edge", "archiver", "replica"):
        assert after[program] != before[program]
    assert uids(chart, "shard") == servers
    assert not uids(chart, "edge") & edges


def uids(chart: Installation, component: str) -> set[str]:
    """Give what tells the pods of a component from others of the same name."""
    pods = chart.get("pods", labels=f"app.kubernetes.io/component={component}")
    return {pod["metadata"]["uid"] for pod in pods}
