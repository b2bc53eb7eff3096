"""
What one server says about itself, as values: its role, whom it follows, how much it has.

Everything that the controller decides comes from these, never from what it remembers to have
ordered: it may have died in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from roomful.cluster.topology import Address
from roomful.control.sealed import SEALED

__all__ = [
    "Follower",
    "Observation",
    "Role",
    "ShardState",
    "parse_info",
    "parse_observation",
    "parse_shard_state",
]


class Role(Enum):
    """What a server takes: writes, or another server's stream."""

    PRIMARY = "master"
    REPLICA = "slave"


@dataclass(frozen=True, slots=True)
class Follower:
    """A replica, as its primary sees it."""

    address: Address
    is_online: bool
    """It has the whole of the data and hears the stream."""
    offset: int
    """How much of the stream it has confirmed, in bytes."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """What is written in a server's data; it goes from a primary to its replicas."""

    name: str | None = None
    """The shard that the data is of; None: it never had a term."""
    term: int = 0
    sequence: int = 0
    """The newest offset given out."""
    generation: int = 0
    """That of the topology kept here; 0: none."""
    base: int = 0
    """The newest offset before its term began."""
    requests: int = 0
    """How many requests of people wait here."""
    is_known: bool = True
    """Whether it could be read; a server that loads its file does not say."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One server at one moment."""

    address: Address
    run_id: str
    """The process: another one after each start."""
    role: Role
    replication_id: str
    """The name of the stream that it has; two offsets of the same stream can be compared."""
    previous_id: str
    """The stream that it was on before this one; zeros: none."""
    offset: int
    """How much of the stream it has, in bytes."""
    turned_at: int = 0
    """How much it had of the stream before."""
    upstream: Address | None = None
    """Whom a replica follows; SEALED: nobody; None: it is a primary."""
    is_linked: bool = False
    """Whether a replica hears the one whom it follows."""
    is_syncing: bool = False
    """Whether it is getting all data anew: what it has meanwhile is not whole."""
    silence_s: int | None = None
    """Seconds since a replica last heard the one whom it follows; None: it does not."""
    followers: tuple[Follower, ...] = ()
    is_handing_over: bool = False
    """Whether a FAILOVER is under way."""
    now_ms: int = 0
    """What its clock says: UNIX time in ms."""
    keys: int = 0
    """How many keys its data has."""
    is_loading: bool = False
    """Whether it still reads its file; it answers little else meanwhile."""
    has_functions: bool = True
    """Whether it has the library, of our version or a later one; one that cannot say so yet may."""
    state: ShardState = ShardState()

    @property
    def is_sealed(self) -> bool:
        """Whether it has no role."""
        return self.upstream == SEALED

    @property
    def online(self) -> frozenset[Address]:
        """The replicas that follow this primary and are whole."""
        return frozenset(one.address for one in self.followers if one.is_online)

    def follows(self, primary: Address) -> bool:
        """Whether it is told to follow *primary*; it may not have reached it yet."""
        return self.upstream == primary


def parse_info(text: str) -> dict[str, str]:
    """Read the reply of INFO, all sections in one."""
    pairs = (line.partition(":") for line in text.splitlines() if line[:1] not in ("", "#"))
    return {key: value for key, _, value in pairs}


def parse_observation(address: Address, info: Mapping[str, str], state: ShardState) -> Observation:
    """
    Read INFO (sections server, replication, persistence, keyspace) of the server at *address*.

    Raises:
        KeyError, ValueError: it is not an INFO that Redis 7 or Valkey 8 gives.
    """
    role = Role(info["role"])
    is_replica = role is Role.REPLICA
    silence = int(info.get("master_last_io_seconds_ago", -1))
    return Observation(
        address=address,
        run_id=info["run_id"],
        role=role,
        replication_id=info["master_replid"],
        previous_id=info["master_replid2"],
        offset=int(info["slave_repl_offset" if is_replica else "master_repl_offset"]),
        # It names the first byte that is of the new stream.
        turned_at=max(0, int(info["second_repl_offset"]) - 1),
        upstream=Address(info["master_host"], int(info["master_port"])) if is_replica else None,
        is_linked=info.get("master_link_status") == "up",
        is_syncing=info.get("master_sync_in_progress") == "1",
        silence_s=silence if silence >= 0 else None,
        followers=tuple(_followers(info)),
        is_handing_over=info.get("master_failover_state", "no-failover") != "no-failover",
        now_ms=int(info["server_time_usec"]) // 1000,
        keys=_keys(info.get("db0")),
        is_loading=info["loading"] == "1",
        state=state,
    )


def parse_shard_state(
    shard: Sequence[bytes | None],
    generation: bytes | None,
    terms: Sequence[bytes] = (),
    requests: int = 0,
) -> ShardState:
    """
    Read the fields name, term and seq of the shard's hash, and the topology's generation.

    Args:
        terms: of each term but the first the offset that it began after, and the newest one
            before it, one after the other.
    """
    name, term, sequence = shard
    newest = int(sequence or 0)
    begun = zip(map(int, terms[::2]), map(int, terms[1::2]), strict=True)
    _, base = max((one for one in begun if one[0] <= newest), default=(0, 0))
    return ShardState(
        None if name is None else name.decode(),
        int(term or 0),
        newest,
        int(generation or 0),
        base,
        requests,
    )


def _keys(database: str | None) -> int:
    # db0:keys=12,expires=0,avg_ttl=0; the line is left out when there are none.
    return int(database.split(",")[0].removeprefix("keys=")) if database else 0


def _followers(info: Mapping[str, str]) -> list[Follower]:
    found = []
    for number in range(int(info.get("connected_slaves", 0))):
        # slave0:ip=127.0.0.1,port=7001,state=online,offset=14,lag=0
        words = dict(part.split("=", 1) for part in info[f"slave{number}"].split(","))
        found.append(
            Follower(
                Address(words["ip"], int(words["port"])),
                words["state"] == "online",
                int(words["offset"]),
            )
        )
    return found
