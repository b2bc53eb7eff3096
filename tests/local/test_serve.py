"""What `roomful serve` says when it cannot start: one sentence, status 2, and nothing before it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.deadline import DEADLINE_S
from support.ports import claim_port

REFUSED = 2


def serve(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it in *directory* until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "roomful.cli", "serve", "--dev", *options],
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        check=False,
    )


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Which one, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(tmp_path, "--port", str(port))
    assert done.returncode == REFUSED
    assert done.stderr == (
        "roomful: bad settings:\n"
        f"  - port {port} of 127.0.0.1 is taken by another program: choose another by --port\n"
    )


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    """What the system says of it, once."""
    done = serve(tmp_path, "--host", "203.0.113.9")
    assert done.returncode == REFUSED
    said = "  - cannot listen on 203.0.113.9:8080: Cannot assign requested address"
    assert done.stderr.splitlines()[1:] == [said]


@pytest.mark.parametrize(
    ("path", "why"), [("none.toml", "No such file or directory"), (".", "Is a directory")]
)
def test_a_file_of_settings_that_cannot_be_read(tmp_path: Path, path: str, why: str) -> None:
    """Its path, once, and why."""
    done = serve(tmp_path, "--config", path)
    assert done.returncode == REFUSED
    assert done.stderr == f"roomful: bad settings:\n  - {path} cannot be read: {why}\n"


@pytest.mark.parametrize(
    "options",
    [("--state-dir", "file/state"), ("--config", "shards.toml")],
    ids=["state directory", "shards"],
)
def test_it_says_where_it_is_only_when_it_is_there(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    """No address of a server that does not come up, and no traceback."""
    (tmp_path / "file").touch()
    shards = f'shards = ["redis://127.0.0.1:{claim_port()}"]\n[redis]\nstart_timeout_s = 0.2\n'
    (tmp_path / "shards.toml").write_text(shards)
    done = serve(tmp_path, "--port", str(claim_port()), *options)
    assert done.returncode == REFUSED
    assert done.stderr.startswith("roomful: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "others"),
    [
        pytest.param("::1", (), id="one"),
        pytest.param("::", ("http://[::1]", "http://127.0.0.1"), id="all"),
    ],
)
def test_an_address_of_ipv6_is_said_as_a_url(
    tmp_path: Path, host: str, others: tuple[str, ...]
) -> None:
    """What it says can be opened as it is; and on all addresses are those of IPv4, too."""
    command = [sys.executable, "-m", "roomful.cli", "serve", "--dev", "--host", host]
    port = claim_port()
    with subprocess.Popen(
        [*command, "--port", str(port)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            said = next(line for line in server.stderr if line.startswith("Roomful is at "))
            url = said.split()[-1]
            for one in (url, *(f"{other}:{port}" for other in others)):
                assert httpx.get(f"{one}/readyz", timeout=DEADLINE_S).is_success
        finally:
            server.terminate()
            server.communicate(timeout=3 * DEADLINE_S)


def test_who_reads_may_stop_reading(tmp_path: Path) -> None:
    """As `head` does: that is no failure with a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "roomful.cli", "serve", "--dev", "--check-config"],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=3 * DEADLINE_S,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141
