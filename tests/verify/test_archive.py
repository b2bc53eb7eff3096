"""`roomful verify --archive`: all is in PostgreSQL too, once, whatever was broken meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psycopg

from archive.database import Cluster, running_cluster
from roomful.verify.archived import ArchiveFigures, compare_archive
from roomful.verify.incidents import FaultKind
from roomful.verify.ledger import Stored, key_of

_ROOMFUL = str(Path(sys.executable).parent / "roomful")
_LONG_S = float(os.environ.get("ROOMFUL_TEST_ARCHIVE_S", "0"))
"""Seconds that the database is away; the short form takes as many as it needs to show."""
_LIMIT_S = 300 + 6 * _LONG_S
_FAULTS = (
    FaultKind.ARCHIVER_KILL,
    FaultKind.DATABASE_AWAY,
    FaultKind.PRIMARY_KILL,
    FaultKind.RESHARD,
)


_SEED = 0
"""All four come, and the one that takes longest is the last."""


def _archived(cluster: Cluster) -> int:
    try:
        with psycopg.connect(cluster.url("postgres")) as connection:
            row = connection.execute("SELECT count(*) FROM roomful.message").fetchone()
    except psycopg.Error:
        return 0
    return int(row[0]) if row else 0


def _wait_archived(cluster: Cluster, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until more than *count* messages are in the archive, or *process* gave up."""
    end = time.monotonic() + _LIMIT_S
    while _archived(cluster) <= count and process.poll() is None:
        assert time.monotonic() < end, "messages arrive in the archive"
        time.sleep(0.05)


def test_every_acknowledged_message_is_archived_once(tmp_path: Path) -> None:
    """
    Archivers are killed, PostgreSQL crashes and is away, a primary dies, shards come and go.

    The archive is the log, message by message, and the log has what was acknowledged.
    """
    command = [_ROOMFUL, "verify", "--local", "--edges", "2", "--shards", "2", "--replicas", "1"]
    command += ["--rate", "150", "--clients", "24", "--rooms", "12", "--seed", str(_SEED)]
    command += ["--duration", str(22 + 3 * _LONG_S), "--fault-every", "4"]
    command += ["--faults", ",".join(_FAULTS), "--outage", str(_LONG_S or 3)]
    with running_cluster() as cluster:
        process = subprocess.Popen(
            [*command, "--archive", cluster.url("postgres")],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for count in (100, 1000):
                _wait_archived(cluster, count, process)
                cluster.kill()
                cluster.start()
            said, heard = process.communicate(timeout=_LIMIT_S)
        finally:
            process.terminate()
            process.communicate()
        assert said, heard
        report = json.loads(said)
        archived = _archived(cluster)

    assert process.returncode == 0, report
    assert {kind for kind, one in report["faults"].items() if not one["failed"]} == {*_FAULTS}
    assert (report["lost"], report["duplicated"], report["reordered"]) == (0, 0, 0)
    # A third of 1024; of those in whose move a primary is replaced no pause is told.
    assert report["faults"]["reshard"]["bucketPauseMs"]["count"] > 100, report
    figures = report["archive"]
    assert {figures[name] for name in ("missing", "doubled", "strange", "reordered")} == {0}
    assert archived == figures["messages"] == report["acked"] > 1000


def test_what_is_not_as_in_the_log_is_told() -> None:
    """Each way in which an archive can differ is a figure of its own, with an example."""
    one, two, three = (Stored(n, key_of(1, n)) for n in (1, 2, 3))
    compare = partial(compare_archive, {"a": [one, two]})

    assert compare({"a": [one, two], "b": [three]}).ok
    assert counts(compare({"a": [one]})) == (1, 0, 0, 0)
    assert counts(compare({})) == (2, 0, 0, 0)
    assert counts(compare({"a": [one, two, two]})) == (0, 1, 0, 0)
    assert counts(compare({"a": [one, two, three]})) == (0, 0, 1, 0)
    assert counts(compare({"a": [one, Stored(9, two.key)]})) == (1, 0, 1, 0)
    assert counts(compare({"a": [two, one]})) == (0, 0, 0, 1)
    assert compare({"a": [one]}).examples == ["v1.2 at 2 in a is not in the archive"]


def counts(figures: ArchiveFigures) -> tuple[int, int, int, int]:
    """Give what is missing, doubled, strange and reordered."""
    assert not figures.ok
    return figures.missing, figures.doubled, figures.strange, figures.reordered


def test_the_database_has_to_be_named(tmp_path: Path) -> None:
    """One on a socket, or of several hosts, has no way to it that could be closed."""
    for url in ("mysql://x/y", "postgresql:///roomful", "postgresql://a,b/roomful"):
        done = subprocess.run(
            [_ROOMFUL, "verify", "--local", "--archive", url],
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "--archive: " in done.stderr
        assert "Traceback" not in done.stderr
