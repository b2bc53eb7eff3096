"""`roomful verify` against a server that keeps its promise, and against some that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.server import serving
from support.tokens import SECRET
from verify.broken_server import __file__ as broken_server

_LIMIT_S = 120
_ROOMFUL = str(Path(sys.executable).parent / "roomful")


def run(*arguments: str, secret: str | None = SECRET) -> subprocess.CompletedProcess[str]:
    """Run `roomful verify` with *arguments*."""
    environment = {"PATH": os.environ["PATH"]}
    if secret is not None:
        environment["ROOMFUL_AUTH_SECRET"] = secret
    return subprocess.run(
        [_ROOMFUL, "verify", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )


def verify(url: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a short verification of *url*; gives the exit status and the report."""
    done = run(
        url,
        *("--duration", "4", "--rate", "200", "--clients", "12", "--rooms", "6", "--seed", "7"),
        *arguments,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_server_that_keeps_its_promise_passes(tmp_path: Path) -> None:
    """Nothing is lost, doubled or reordered while clients are cut, and all resume."""
    with serving(tmp_path) as server:
        status, report = verify(server.url)

    assert status == 0, report
    assert report["ok"]
    assert (report["lost"], report["duplicated"], report["reordered"]) == (0, 0, 0)
    assert report["acked"] == report["sent"] > 100
    assert report["resumed"] > 0
    assert report["faults"]["client-cut"]["count"] == 1


@pytest.mark.parametrize(
    ("guard", "broken"),
    [
        pytest.param("ids", "duplicated", id="a retry is stored again"),
        pytest.param("deliveries", "lost", id="a delivery falls out"),
        pytest.param("acks", "lost", id="an ack without a message"),
        pytest.param("order", "reordered", id="a delivery comes late"),
    ],
)
def test_a_server_without_a_guard_is_found_out(tmp_path: Path, guard: str, broken: str) -> None:
    """The verifier fails, with the right count and an example in words."""
    program = [sys.executable, broken_server, guard]
    with serving(tmp_path, program=program) as server:
        status, report = verify(server.url)

    assert status == 1
    assert not report["ok"]
    assert report[broken] > 0, report
    assert any(example.startswith(broken) for example in report["examples"])


def test_a_cluster_that_is_not_there_is_said() -> None:
    """No traceback, and a status of its own."""
    done = run("http://127.0.0.1:9", "--clients", "1", "--rooms", "1", "--connect-timeout", "0.5")

    assert done.returncode == 3
    assert "only 0 of 1 clients could connect" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_arguments_are_all_named() -> None:
    """One message has everything that is wrong."""
    done = run("ftp://here", "--rate", "0", "--clients", "-1")

    assert done.returncode == 2
    for name in ("--rate", "--clients", "ftp://here"):
        assert name in done.stderr


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [("earthquake", "there is no such fault"), ("edge-kill", "cannot be done to this cluster")],
)
def test_faults_that_cannot_be_done_are_refused(faults: str, sentence: str) -> None:
    """Before anything is loaded."""
    done = run("http://127.0.0.1:9", "--faults", faults)

    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_secret_is_needed() -> None:
    """Without one nobody can sign in."""
    done = run("http://127.0.0.1:9", secret=None)

    assert done.returncode == 2
    assert "ROOMFUL_AUTH_SECRET" in done.stderr
