"""Real shard servers on free ports, each started sealed as the product starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.sealed import ServerOptions, build_server_options, render_config
from roomful.control.spec import ClusterSpec
from roomful.shard.users import render_users
from support.deadline import DEADLINE_S
from support.ports import claim_port
from support.users import USERS

__all__ = ["Fleet", "SealedServer", "running_fleet"]


@dataclass(slots=True)
class SealedServer:
    """One server process, which keeps its port and directory over restarts."""

    product: str
    address: Address
    directory: Path
    has_users: bool = False
    """Programs sign in, as on Kubernetes, and tests as an administrator."""
    memory_bytes: int | None = None
    """For data."""
    _process: subprocess.Popen[bytes] | None = None
    _client: redis.Redis | None = None

    def start(self) -> None:
        """Start it sealed, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "redis.conf"
        options = ServerOptions(
            self.address, "127.0.0.1", str(self.directory), max_memory_bytes=self.memory_bytes
        )
        text = render_config(build_server_options(options))
        if self.has_users:
            text += render_users(USERS) + "user admin on >admin ~* &* +@all\n"
        config.write_text(text)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([self.product, str(config)], stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE_S
        while True:
            with suppress(redis.ConnectionError):
                if self.info()["loading"] == 0:
                    return
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Let it answer nothing until resume."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on as if nothing had been."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it, and start it again, sealed."""
        self.kill()
        self.start()

    def info(self) -> Mapping[str, object]:
        """Give what it says about itself."""
        if self._client is None:
            self._client = self._connect()
        found: Mapping[str, object] = self._client.info()
        return found

    def command(self, *words: object) -> object:
        """Send one command."""
        with self._connect() as client:
            reply: object = client.execute_command(*words)
            return reply

    def on_one_connection(self, *commands: Sequence[object]) -> list[object]:
        """Send commands one after the other: WAIT is about what its own connection wrote."""
        with self._connect() as client, client.pipeline(transaction=False) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            return list(pipeline.execute())

    def store(self, key: str, value: str) -> None:
        """Set a key, as soon as it counts enough replicas: it counts them once a second."""
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.command("SET", key, value)
            except redis.ResponseError as exc:
                if not str(exc).startswith("NOREPLICAS") or time.monotonic() >= end:
                    raise
                time.sleep(0.01)
            else:
                return

    def _connect(self) -> redis.Redis:
        name = "admin" if self.has_users else None
        return redis.Redis(
            port=self.address.port, username=name, password=name, socket_timeout=DEADLINE_S
        )

    def _end(self, number: signal.Signals) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


@dataclass(slots=True)
class Fleet:
    """The servers of some shards."""

    shards: dict[str, list[SealedServer]] = field(default_factory=dict)

    @property
    def servers(self) -> list[SealedServer]:
        """All of them."""
        return [server for servers in self.shards.values() for server in servers]

    def spec(self, acks: int = 0, only: Sequence[str] = ()) -> ClusterSpec:
        """Give what the controller is told of it: of the shards *only*, or of all."""
        shards = {
            ShardName(name): tuple(server.address for server in servers)
            for name, servers in self.shards.items()
            if name in (only or self.shards)
        }
        return ClusterSpec(shards, acks)

    def at(self, address: Address) -> SealedServer:
        """Give the one that listens at *address*."""
        return next(server for server in self.servers if server.address == address)


@contextmanager
def running_fleet(
    directory: Path,
    *,
    shards: int,
    replicas: int,
    has_users: bool = False,
    memory_bytes: int | None = None,
) -> Iterator[Fleet]:
    """Run the servers of *shards* shards, each with *replicas* replicas to be."""
    fleet = Fleet()
    try:
        for number in range(1, shards + 1):
            name = f"s{number}"
            fleet.shards[name] = [
                SealedServer(
                    "redis-server",
                    Address("127.0.0.1", claim_port()),
                    directory / f"{name}-{member}",
                    has_users,
                    memory_bytes,
                )
                for member in range(replicas + 1)
            ]
            for server in fleet.shards[name]:
                server.start()
        yield fleet
    finally:
        for server in fleet.servers:
            server.kill()
