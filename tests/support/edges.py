"""Several edges that know each other, and HAProxy in front of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from support.deadline import DEADLINE_S, within
from support.eio import Polling
from support.ports import claim_port
from support.server import Server, serving

__all__ = ["balanced", "ended", "listed_edges", "metric", "passing"]

_PROGRAM = Path(__file__).parent / "listed_edge.py"

_HAPROXY = """
global
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
frontend all
  bind 127.0.0.1:{port}
  default_backend edges
backend edges
  balance roundrobin
"""


@contextmanager
def listed_edges(
    directory: Path, count: int, settings: Mapping[str, str] | None = None
) -> Iterator[list[Server]]:
    """Run *count* edges, each with a memory shard of its own, that pass requests to each other."""
    folder = directory / "edges"
    folder.mkdir()
    with ExitStack() as stack:
        servers = []
        for number in range(count):
            own = directory / f"edge-{number}"
            own.mkdir()
            program = (sys.executable, str(_PROGRAM), str(folder))
            servers.append(stack.enter_context(serving(own, program=program, settings=settings)))
        yield servers


@contextmanager
def balanced(directory: Path, servers: Sequence[Server]) -> Iterator[str]:
    """Run HAProxy over *servers*, each request to the next one in turn; gives its URL."""
    port = claim_port()
    config = directory / "haproxy.cfg"
    lines = [f"  server e{index} 127.0.0.1:{one.port}" for index, one in enumerate(servers)]
    config.write_text(_HAPROXY.format(port=port) + "\n".join(lines) + "\n")
    with (directory / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(config)], stdout=log, stderr=log, env={"PATH": _PATH}
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/readyz", directory / "haproxy.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


# Debian puts servers where only root's PATH has them.
_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError(f"HAProxy is not ready: {log.read_text()}")


async def metric(http: httpx.AsyncClient, server: Server, name: str) -> float:
    """Return a metric of *server* by its whole name."""
    response = await http.get(f"{server.url}/metrics")
    for line in response.text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}:\n{response.text}")


async def passing(http: httpx.AsyncClient, server: Server, count: int) -> None:
    """Wait until *server* passes exactly *count* polls and WebSockets on."""

    async def watch() -> None:
        while True:
            if await metric(http, server, "roomful_passing") == count:
                return
            await asyncio.sleep(0.02)

    await within(watch())


async def ended(session: Polling, home: Server) -> None:
    """Wait until *home* says that *session* is unknown; asking keeps one that is there alive."""
    session.endpoint = f"{home.url}/socket.io/"

    async def watch() -> httpx.Response:
        while True:
            if (response := await session.post("3")).status_code != 200:
                return response
            await asyncio.sleep(0.05)

    response = await within(watch())
    assert response.json() == {"code": 1, "message": "Session ID unknown"}
