"""Real shards for the archiver, who publishes on them, and `roomful archive` processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import redis

from functions.calls import BUCKETS, Calls, Limits, Post
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address, ShardRecord, encode_topology, first_topology
from roomful.shard.library import library_source
from roomful.shard.message import Envelope, RoomId, UserId
from roomful.shard.users import Role, user_rules
from support.deadline import DEADLINE_S
from support.ports import claim_port
from support.users import USERS

__all__ = [
    "Archivers",
    "Message",
    "Publisher",
    "ShardServer",
    "eventually",
    "running_shard",
    "tell_topology",
]

REQUIRED = Limits(outbox=100_000, classes="1")


@dataclass(frozen=True, slots=True)
class Message(Post):
    """A post whose envelope is an edge's."""

    @property
    def envelope(self) -> bytes:
        """What is stored."""
        body = msgspec.json.encode({"content": self.body})[:-1]
        return msgspec.msgpack.encode(
            Envelope(RoomId(self.room), "message", self.name, UserId(self.user), self.time, body)
        )


@dataclass(slots=True)
class ShardServer:
    """One server process, which keeps its port and data over restarts."""

    product: str
    directory: Path
    port: int
    options: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [self.product, "--port", str(self.port), "--dir", str(self.directory)]
        command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        command += ["--repl-diskless-sync-delay", "0", *self.options]
        role = Role.ARCHIVER
        command += ["--user", role.value, *user_rules(role, USERS[role])]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._is_up, "the server answers")

    def _is_up(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def address(self) -> Address:
        """Where it is."""
        return Address("127.0.0.1", self.port)


@contextmanager
def running_shard(
    product: str, directory: Path, name: str | None, *options: str
) -> Iterator[ShardServer]:
    """Run a server; with a *name* it is a shard's primary that owns all buckets."""
    server = ShardServer(product, directory, claim_port(), options)
    try:
        server.start()
        if name is not None:
            calls = Calls(server.port)
            calls.command("FUNCTION", "LOAD", library_source())
            calls("take_term", [], name, 1)
            calls("claim", [f"{{{number}}}b" for number in range(BUCKETS)], 1, 1)
            calls.close()
        yield server
    finally:
        server.kill()


def tell_topology(
    primaries: Mapping[str, ShardServer], *, generation: int = 1, term: int = 1, acks: int = 0
) -> None:
    """Tell every one of *primaries* where all shards are."""
    records = {
        ShardName(name): ShardRecord(term, server.address) for name, server in primaries.items()
    }
    topology = first_topology(records, acks=acks)
    topology = msgspec.structs.replace(topology, generation=generation)
    for server in primaries.values():
        calls = Calls(server.port)
        calls("set_topology", [], generation, encode_topology(topology))
        calls.close()


def eventually(is_so: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Wait until *is_so*; *what* is said if it never is."""
    end = time.monotonic() + 3 * DEADLINE_S
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"in vain: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


class Publisher:
    """Publishes on one shard in a thread, and keeps what was acknowledged, in order."""

    # Mutable state: what was acknowledged, where the shard is now, and whether to go on.
    def __init__(self, name: str, server: ShardServer, *, replicas: int = 0) -> None:
        self.name = name
        self.server = server
        self.term = 1
        self.acked: dict[str, int] = {}
        """Offsets by id."""
        self._replicas = replicas
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def finish(self) -> None:
        """Publish nothing new; all that was begun is acknowledged."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._is_over.is_set():
            batch = [
                Message(f"{self.name}-{n % 7}", body=f"{n}", name=f"{n}", time=_now_ms())
                for n in range(number, number + 20)
            ]
            while not self._publish(batch):
                time.sleep(0.02)
            number += 20

    def _publish(self, batch: Sequence[Message]) -> bool:
        try:
            calls = Calls(self.server.port)
        except redis.RedisError:
            return False
        try:
            replies = calls.publish(*batch, term=self.term, limits=REQUIRED)
            if self._replicas and calls.command("WAIT", self._replicas, 1000) < self._replicas:
                return False
        except redis.RedisError:
            return False
        finally:
            calls.close()
        if "LAGGING" in replies:
            return False
        for post, reply in zip(batch, replies, strict=True):
            self.acked[post.name] = int(str(reply).split()[0])
        return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Archivers:
    """`roomful archive` processes with the same settings."""

    directory: Path
    settings: Mapping[str, str]
    password: str = USERS[Role.ARCHIVER][0]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        """Start one more."""
        environment = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
        settings = {"port": "0", **self.settings, **more}
        environment["ROOMFUL_SHARDS"] = settings.pop("shards")
        environment["ROOMFUL_REDIS_USERNAME"] = Role.ARCHIVER.value
        environment["ROOMFUL_REDIS_PASSWORD"] = self.password
        environment |= {f"ROOMFUL_ARCHIVE_{key.upper()}": one for key, one in settings.items()}
        program = str(Path(sys.executable).parent / "roomful")
        with (self.directory / "archiver.log").open("ab") as log:
            process = subprocess.Popen(
                [program, "archive"], env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """Kill the oldest."""
        process = self.processes.pop(0)
        process.kill()
        process.wait()

    def end(self) -> list[int]:
        """Stop all in order; gives their exit statuses."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(DEADLINE_S) for process in self.processes]

    def log(self) -> str:
        """Give what they said."""
        return (self.directory / "archiver.log").read_text()[-8000:]
