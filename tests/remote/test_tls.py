"""Shards that are reached over TLS only: by the controller, by the commands and by edges."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from functions.server import PRODUCTS
from remote.certificates import Certificate, make_certificate
from roomful.cluster.topology import Address
from roomful.control.sealed import ServerOptions, build_server_options, render_config
from support.deadline import DEADLINE_S, until
from support.ports import claim_port
from support.server import serving
from support.sio import signed_in
from support.tokens import make_token

ROOMFUL = str(Path(sys.executable).parent / "roomful")


@contextmanager
def running(command: list[str], log: Path, more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run *command* for the length of the block."""
    environment = {"PATH": os.environ["PATH"], **(more or {})}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(3 * DEADLINE_S)


def config(directory: Path, port: int, certificate: Certificate) -> Path:
    """Write the configuration of a server that takes TLS only."""
    directory.mkdir()
    options = ServerOptions(Address("127.0.0.1", port), "127.0.0.1", str(directory))
    values = build_server_options(options) | {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": str(certificate.certificate),
        "tls-key-file": str(certificate.key),
        "tls-ca-cert-file": str(certificate.certificate),
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }
    path = directory / "redis.conf"
    path.write_text(render_config(values))
    return path


def topology(port: int, more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `roomful topology` on the server at *port*."""
    return subprocess.run(
        [ROOMFUL, "topology", f"127.0.0.1:{port}"],
        env={"PATH": os.environ["PATH"], **more},
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE_S,
        check=False,
    )


@pytest.mark.skipif(not PRODUCTS, reason="no server program is here")
async def test_a_cluster_over_tls(tmp_path: Path) -> None:
    """A message is acknowledged with a replica; who does not trust the servers is told."""
    certificate = make_certificate(tmp_path)
    trust = {"ROOMFUL_REDIS_TLS_CA": str(certificate.certificate)}
    ports = [claim_port(), claim_port()]
    with ExitStack() as stack:
        for port in ports:
            path = config(tmp_path / str(port), port, certificate)
            stack.enter_context(running([PRODUCTS[0], str(path)], tmp_path / f"{port}.log"))
        shard = "s1=" + ",".join(f"127.0.0.1:{port}" for port in ports)
        command = [ROOMFUL, "controller", "--shard", shard, "--acks", "1"]
        stack.enter_context(running(command, tmp_path / "controller.log", trust))
        await until(lambda: topology(ports[0], trust).returncode == 0, seconds=2 * DEADLINE_S)
        settings = {
            "shards": f"rediss://127.0.0.1:{ports[0]}",
            "redis_tls_ca": str(certificate.certificate),
        }
        server = stack.enter_context(serving(tmp_path, settings=settings))
        async with signed_in(server.ws_url, make_token("ann")) as ann:
            await ann.join("room")
            assert (await ann.say("room", "over TLS"))["offset"] > 0
        stranger = topology(ports[0], {})
        assert stranger.returncode == 2
        assert "Traceback" not in stranger.stderr
        other = make_certificate(_directory(tmp_path / "other")).certificate
        mistrusting = topology(ports[0], {"ROOMFUL_REDIS_TLS_CA": str(other)})
        assert mistrusting.returncode == 2
        assert "no TLS: CERTIFICATE_VERIFY_FAILED" in mistrusting.stderr
    unread = topology(ports[0], {"ROOMFUL_REDIS_TLS_CA": str(tmp_path / "none")})
    assert unread.returncode == 2
    assert "ROOMFUL_REDIS_TLS_CA" in unread.stderr


def _directory(path: Path) -> Path:
    path.mkdir()
    return path
