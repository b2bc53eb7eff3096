"""A small cluster of real servers, put together as the controller would leave it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from functions.calls import Calls
from functions.server import RunningServer, serving
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, UNPLACED, place
from roomful.cluster.topology import Address, ShardRecord, Topology, encode_topology
from roomful.shard.library import library_source
from roomful.shard.users import Role, user_rules
from support.users import EDGE, USERS

__all__ = ["Cluster", "Member", "address_of", "running_cluster"]


def address_of(server: RunningServer) -> Address:
    """Give where *server* listens."""
    return Address("127.0.0.1", server.port)


@dataclass(slots=True)
class Member:
    """One shard's servers."""

    name: ShardName
    primary: RunningServer
    replicas: Sequence[RunningServer]
    calls: Calls

    def record(self, term: int = 1, address: Address | None = None) -> ShardRecord:
        """Give it as the topology has it; *address*: of a proxy before the primary."""
        replicas = tuple(map(address_of, self.replicas))
        return ShardRecord(term, address or address_of(self.primary), replicas)


@dataclass(slots=True)
class Cluster:
    """Shards with all buckets placed on them, and the topology that they keep."""

    # Mutable state: the newest topology.
    members: dict[ShardName, Member] = field(default_factory=dict)
    topology: Topology | None = None

    @property
    def urls(self) -> str:
        """What ROOMFUL_SHARDS is."""
        servers = (one.primary for one in self.members.values())
        return ",".join(f"redis://127.0.0.1:{server.port}" for server in servers)

    @property
    def settings(self) -> dict[str, str]:
        """How an edge finds these shards and signs in to them."""
        return {"shards": self.urls, "redis_username": EDGE.username} | (
            {"redis_password": EDGE.password} if EDGE.password else {}
        )

    def announce(self, topology: Topology) -> None:
        """Let all shards keep *topology*."""
        self.topology = topology
        for member in self.members.values():
            member.calls("set_topology", [], topology.generation, encode_topology(topology))


@contextmanager
def running_cluster(
    product: str, directory: Path, *, shards: int = 1, replicas: int = 0, is_fsynced: bool = False
) -> Iterator[Cluster]:
    """Run a cluster for the length of a `with` block."""
    options = ["--repl-diskless-sync-delay", "0", "--appendonly", "yes" if is_fsynced else "no"]
    cluster = Cluster()
    with ExitStack() as stack:
        for number in range(1, shards + 1):
            name = ShardName(f"s{number}")
            primary = stack.enter_context(
                serving(product, directory / name, *options, has_real_time=True)
            )
            calls = primary.connect()
            calls.command("FUNCTION", "LOAD", library_source())
            for role in (Role.EDGE, Role.ARCHIVER):
                calls.command("ACL", "SETUSER", role.value, *user_rules(role, USERS[role]))
            calls("take_term", [], name, 1)
            following = [
                stack.enter_context(
                    serving(
                        product,
                        directory / f"{name}-{index}",
                        *options,
                        "--replicaof",
                        f"127.0.0.1 {primary.port}",
                        has_real_time=True,
                    )
                )
                for index in range(replicas)
            ]
            calls.command("SET", "replicated", 1)
            while calls.command("WAIT", replicas, 1000) < replicas:
                pass
            calls.command("DEL", "replicated")
            cluster.members[name] = Member(name, primary, following, calls)
        owners = place(cluster.members, UNPLACED)
        for name, member in cluster.members.items():
            mine = [f"{{{bucket}}}b" for bucket in range(BUCKETS) if owners[bucket] == name]
            member.calls("claim", mine, 1, 1)
        records = {name: member.record() for name, member in cluster.members.items()}
        cluster.announce(Topology(1, records, owners, (1,) * BUCKETS, replicas, is_fsynced))
        yield cluster
