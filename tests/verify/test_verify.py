"""`roomful verify` against a server that keeps its promise, and against some that do not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from roomful.verify.incidents import Fault, FaultKind, Incident
from roomful.verify.load import LoadPlan
from roomful.verify.run import Run
from roomful.verify.run import verify as verify_run
from support.server import serving
from support.tokens import SECRET, make_service_token, make_token
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


def test_ctrl_c_ends_the_load_and_not_the_comparison(tmp_path: Path) -> None:
    """What was sent until then is found whole, long before the time that was given."""
    with serving(tmp_path) as server:
        process = subprocess.Popen(
            [_ROOMFUL, "verify", server.url, "--duration", "100000", "--faults", "none"],
            env={"PATH": os.environ["PATH"], "ROOMFUL_AUTH_SECRET": SECRET},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            assert any(" acknowledged, " in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=_LIMIT_S)

    assert "ends early" in said
    assert process.returncode == 0, out
    report = json.loads(out)
    assert report["acked"] == report["sent"] > 0


class Slow:
    """Breaks nothing, and needs longer for each fault than the load lasts."""

    kinds = frozenset({FaultKind.EDGE_KILL, FaultKind.PAUSE})

    async def inflict(self, fault: Fault) -> Incident:
        """Take the time."""
        began_at = time.monotonic()
        await asyncio.sleep(1.1)
        return Incident(fault.kind, "nothing", began_at, time.monotonic())


async def test_each_kind_of_fault_comes_once_however_slow_they_are(tmp_path: Path) -> None:
    """Others are left out when the time is over."""
    with serving(tmp_path) as server:
        run = Run(
            [server.url],
            make_token,
            make_service_token(),
            LoadPlan(clients=2, rooms=1, rooms_per_client=1, rate=20),
            kinds=sorted(Slow.kinds),
            duration_s=1.0,
            fault_every_s=0.1,
        )
        report = await verify_run(run, Slow(), lambda _sentence: None)

    assert {kind: figures.count for kind, figures in report.faults.items()} == {
        "edge-kill": 1,
        "pause": 1,
    }


def test_a_cluster_that_is_not_there_is_said() -> None:
    """No traceback, and a status of its own."""
    done = run("http://127.0.0.1:9", "--clients", "1", "--rooms", "1", "--connect-timeout", "0.5")

    assert done.returncode == 3
    assert "only 0 of 1 clients could connect" in done.stderr
    assert "failed last: [Errno 111]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("clients", ["1", "4"], ids=["Socket.IO", "all kinds"])
def test_another_secret_is_said(tmp_path: Path, clients: str) -> None:
    """Whoever gave the wrong one learns that it is that."""
    with serving(tmp_path) as server:
        done = run(
            *(server.url, "--clients", clients, "--rooms", "1", "--rooms-per-client", "1"),
            *("--connect-timeout", "1"),
            secret="another-secret-that-is-long-enough-for-this",
        )
    assert done.returncode == 3
    assert "Authentication failed" in done.stderr or "TOKEN_INVALID" in done.stderr


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
