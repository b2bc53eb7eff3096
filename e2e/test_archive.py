"""History for good: the archiver beside a real PostgreSQL, in a real cluster."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.installation import NAMESPACE, RELEASE, Installation
from e2e.loaded import assert_kept
from e2e.shell import CommandFailed, eventually

pytestmark = pytest.mark.full

IMAGE = "postgres:17"
DATABASE = "postgres"
"""The name of the database's objects, as in the examples of docs/kubernetes.md."""


def objects(password: str) -> str:
    """Give a PostgreSQL without a volume, and the Secret that says where it is."""
    labels = {"app": DATABASE}
    container = {
        "name": DATABASE,
        "image": IMAGE,
        "env": [{"name": "POSTGRES_PASSWORD", "value": password}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-h", "127.0.0.1", "-U", DATABASE]}},
    }
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    found: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "stringData": {"uri": f"postgresql://postgres:{password}@{DATABASE}/postgres"},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "spec": {"selector": labels, "ports": [{"port": 5432}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        },
    ]
    items = [{**one, "metadata": {"name": DATABASE, "namespace": NAMESPACE}} for one in found]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.fixture
def archived(chart: Installation) -> Iterator[Installation]:
    """Give the chart with an archive, and take that away again."""
    chart.bring(IMAGE)
    documents = objects(secrets.token_hex(16))
    chart.kubectl("apply", "--filename=-", stdin=documents)
    try:
        rolled(chart, DATABASE)
        chart.upgrade(*(f"--set=cluster.archive.dsn.{one}" for one in ("name=postgres", "key=uri")))
        for name in ("edge", "archiver"):
            rolled(chart, f"{RELEASE}-{name}")
        yield chart
    finally:
        chart.upgrade()
        rolled(chart, f"{RELEASE}-edge")
        chart.kubectl("delete", "--filename=-", stdin=documents)
    with pytest.raises(CommandFailed, match="NotFound"):
        chart.get("deployment", f"{RELEASE}-archiver")


def rolled(chart: Installation, deployment: str) -> None:
    """Wait until all pods of a Deployment are new and ready."""
    words = ("rollout", "status", f"deployment/{deployment}", "--timeout=120s")
    chart.kubectl(*words, timeout_s=130)


def count(chart: Installation, what: str) -> int:
    """Give what PostgreSQL counts of the messages that it has."""
    query = f"select count({what}) from roomful.message"
    psql = ("psql", "-U", "postgres", "-Atc", query)
    return int(chart.kubectl("exec", f"deployment/{DATABASE}", "--", *psql))


def test_every_message_is_archived_once(archived: Installation, log: Path) -> None:
    """The archiver is killed under load: another one goes on, and PostgreSQL has all of it once."""
    with archived.load(log, seconds=40) as load:
        (old,) = archived.pods("archiver")
        eventually(lambda: count(archived, "*") > 0, "the first messages are archived")
        archived.kubectl("delete", "pod", old, "--grace-period=0", "--force")
        report = load.report()
        assert_kept(report)
    eventually(lambda: count(archived, "*") >= report["acked"], "all are there", timeout_s=120)
    assert report["acked"] <= count(archived, "distinct id") <= report["sent"]
    assert count(archived, "*") == count(archived, "distinct id")
