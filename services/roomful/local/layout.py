"""
What a cluster on one machine consists of, and where it keeps it: the state directory.

    cluster.json    the shape, and each server's port, which it keeps; `roomful shard` adds to it
    servers/s1-0/   a shard server's append-only file and its configuration
    logs/s1-0.log   what a process wrote
    lock            held while it runs
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import MAX_ACKS, MAX_SHARDS, Address
from roomful.local.ports import HOST, is_free
from roomful.protocol.errors import RoomfulError

__all__ = [
    "PORTS",
    "BadCluster",
    "Layout",
    "ServerPlace",
    "Shape",
    "default_state_directory",
    "hold_directory",
]

VERSION: Final = 1
PORTS: Final = range(1024, 65536)
"""Where a shard server may listen."""

DURABILITIES: Final = ("memory", "replicated", "fsynced")


class BadCluster(RoomfulError):
    """A cluster that cannot be started as it was asked for; the words say what to do."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What was asked for; None: as it is, or the default of a new one."""

    shards: int | None = None
    replicas: int | None = None
    durability: str | None = None


_Ports = dict[ShardName, list[int]]


class _File(msgspec.Struct, omit_defaults=True):
    version: int
    shards: _Ports
    """The port of each server, by shard."""
    acks: int
    is_fsynced: bool
    begun: int = 0
    """How many shards it was begun with; 0: a file that does not say so."""


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """One shard server: what it is called, where it listens, where its data is."""

    name: str
    shard: ShardName
    address: Address
    directory: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """A cluster of one machine, as its state directory has it."""

    directory: Path
    shards: dict[ShardName, tuple[Address, ...]]
    acks: int
    is_fsynced: bool
    begun: int = 0
    """How many shards it was begun with: the command of then starts it, whatever came or left."""

    @property
    def durability(self) -> str:
        """Give what an ack means, in one word."""
        return "fsynced" if self.is_fsynced else "replicated" if self.acks else "memory"

    @property
    def logs(self) -> Path:
        """Where processes write."""
        return self.directory / "logs"

    def servers(self) -> Iterator[ServerPlace]:
        """Give all shard servers."""
        for shard, addresses in self.shards.items():
            for number, address in enumerate(addresses):
                name = f"{shard}-{number}"
                yield ServerPlace(name, shard, address, self.directory / "servers" / name)

    @classmethod
    def read(cls, directory: Path) -> Layout | None:
        """
        Give the cluster whose state is in *directory*; None: there is none.

        Raises:
            BadCluster: there is something else.
        """
        path = directory / "cluster.json"
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_File)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as exc:
            raise BadCluster(f"{path} cannot be read: {exc}") from exc
        if file.version != VERSION:
            raise BadCluster(f"{path} is of version {file.version}, this program reads {VERSION}")
        shards = {
            name: tuple(Address(HOST, port) for port in ports)
            for name, ports in file.shards.items()
        }
        return cls(directory, shards, file.acks, file.is_fsynced, file.begun)

    def next_shard(self, taken: Collection[ShardName]) -> tuple[ShardName, tuple[Address, ...]]:
        """
        Give a name and free ports for another shard, with as many servers as the others have.

        Args:
            taken: names that were used before, besides those that are.

        Raises:
            BadCluster: there are too few free ports.
        """
        names = {*taken, *self.shards}
        number = 1 + max(int(digits) for name in names if (digits := name[1:]).isdecimal())
        servers = list(self.servers())
        first_port = 1 + max(place.address.port for place in servers)
        ports = _free_ports(first_port, len(servers) // len(self.shards))
        return ShardName(f"s{number}"), tuple(Address(HOST, port) for port in ports)

    def with_shard(self, name: ShardName, servers: tuple[Address, ...]) -> Layout:
        """Keep that there is a shard *name*; `roomful cluster`, if it runs, starts its servers."""
        return self._change(lambda shards: {**shards, name: [one.port for one in servers]})

    def without_shards(self, names: Collection[ShardName]) -> Layout:
        """Keep that some shards are no more; their files stay."""
        return self._change(
            lambda shards: {name: ports for name, ports in shards.items() if name not in names}
        )

    def _change(self, change: Callable[[_Ports], _Ports]) -> Layout:
        """Change the shards that the file has now; one process at a time does."""
        try:
            with (self.directory / "cluster.json.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self.read(self.directory)
                assert found is not None, "it was read from there"
                ports = {
                    name: [one.port for one in servers] for name, servers in found.shards.items()
                }
                kept = (found.acks, found.is_fsynced, found.begun)
                _write(self.directory, _File(VERSION, change(ports), *kept))
        except OSError as exc:
            raise BadCluster(f"{self.directory} cannot be written: {exc.strerror}") from exc
        changed = self.read(self.directory)
        assert changed is not None
        return changed

    @classmethod
    def take_up(cls, directory: Path, shape: Shape, first_port: int) -> Layout:
        """
        Give the cluster in *directory*; a new one of *shape* when it is empty.

        Args:
            first_port: where a new one's servers listen, each on the next port that is free.

        Raises:
            BadCluster: the cluster there has another shape, or *shape* is none.
        """
        found = cls.read(directory)
        if found is None:
            return cls._create(directory, shape, first_port)
        found._compare(shape)
        return found

    @classmethod
    def _create(cls, directory: Path, shape: Shape, first_port: int) -> Layout:
        shards = 2 if shape.shards is None else shape.shards
        replicas = 1 if shape.replicas is None else shape.replicas
        durability = shape.durability or ("replicated" if replicas else "memory")
        _check(shards, replicas, durability)
        ports = _free_ports(first_port, shards * (replicas + 1))
        file = _File(
            VERSION,
            {
                ShardName(f"s{number + 1}"): [next(ports) for _ in range(replicas + 1)]
                for number in range(shards)
            },
            acks=0 if durability == "memory" else 1,
            is_fsynced=durability == "fsynced",
            begun=shards,
        )
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(directory, file)
        except OSError as exc:
            raise BadCluster(f"{directory} cannot be written: {exc.strerror}") from exc
        created = cls.read(directory)
        assert created is not None
        return created

    def _compare(self, shape: Shape) -> None:
        replicas = len(next(iter(self.shards.values()))) - 1
        shards = None if shape.shards == self.begun else shape.shards
        pairs: Sequence[tuple[str, object, object]] = (
            ("--shards", shards, len(self.shards)),
            ("--replicas", shape.replicas, replicas),
            ("--durability", shape.durability, self.durability),
        )
        wrong = [
            f"{option} {there}" for option, asked, there in pairs if asked not in (None, there)
        ]
        if wrong:
            raise BadCluster(
                f"{self.directory} holds a cluster with {' '.join(wrong)}: start it so (or "
                "leave that out), or name another --state-dir"
            )


def _write(directory: Path, file: _File) -> None:
    part = directory / "cluster.json.part"
    with part.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
        out.flush()
        # Else a power cut may leave the new name with nothing in it.
        os.fsync(out.fileno())
    part.replace(directory / "cluster.json")


def _free_ports(first: int, count: int) -> Iterator[int]:
    found = [port for port in range(first, min(first + 10 * count, 65536)) if is_free(HOST, port)]
    if len(found) < count:
        raise BadCluster(f"from port {first} on too few are free: choose others by --shard-port")
    return iter(found[:count])


def _check(shards: int, replicas: int, durability: str) -> None:
    if not 1 <= shards <= MAX_SHARDS:
        raise BadCluster(f"--shards {shards}: 1 to {MAX_SHARDS}")
    if not 0 <= replicas <= MAX_ACKS:
        raise BadCluster(f"--replicas {replicas}: 0 to {MAX_ACKS}")
    if durability == "replicated" and not replicas:
        raise BadCluster("--durability replicated needs --replicas 1 or more")


def default_state_directory() -> Path:
    """Give where a cluster is kept when nobody says where."""
    return Path(os.environ.get("ROOMFUL_STATE_DIR") or ".roomful") / "cluster"


@contextlib.contextmanager
def hold_directory(directory: Path) -> Iterator[None]:
    """
    Keep *directory* for this process, for the length of a `with` block.

    Raises:
        BadCluster: another process has it, or it cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / "lock").open("a+")
    except OSError as exc:
        raise BadCluster(f"{directory} cannot be written: {exc.strerror}") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "of another user"
            raise BadCluster(
                f"the cluster in {directory} is running already (process {pid}): stop it, or "
                "name another --state-dir"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
