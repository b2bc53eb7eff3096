"""
The users of a shard's servers: each program signs in as one that may do what it does, no more.

What a function does is checked as if its caller did it: so an edge has the commands of its
functions too, on the keys of rooms and on those that edges share. What it has not: the topology,
terms and requests (to write them), functions of others, and everything that is about the server
itself. The controller may change users and configuration: it is the one to be trusted.

Source: docs/adr/0026-users-of-the-servers.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

__all__ = ["FUNCTIONS", "Role", "render_users", "user_rules"]


class Role(Enum):
    """What a program is to the servers; the value is the name of its user."""

    CONTROLLER = "controller"
    EDGE = "edge"
    ARCHIVER = "archiver"
    REPLICA = "replica"


# With v1_ before them; the test of this file sees to it that each is somebody's.
_EDGE: Final = """\
    publish read tails page save_session load_session drop_session canary control topology terms
    arrivals lineage join leave set_status members lease end_lease edges sweep revoke revocations
    erase outbox"""
_CONTROLLER: Final = """\
    take_term terms claim buckets set_topology request topology outbox move keys dump entries
    changed freeze thaw release begin_import import extend complete activate drop_import clear
    arrivals lineage"""
_ARCHIVER: Final = "topology outbox archived"

FUNCTIONS: Final[Mapping[Role, frozenset[str]]] = {
    Role.CONTROLLER: frozenset(
        {"roomful_version", *(f"roomful_v1_{name}" for name in _CONTROLLER.split())}
    ),
    Role.EDGE: frozenset(f"roomful_v1_{name}" for name in _EDGE.split()),
    Role.ARCHIVER: frozenset(f"roomful_v1_{name}" for name in _ARCHIVER.split()),
    Role.REPLICA: frozenset(),
}
"""The functions that each may call."""

# A category, since WAITAOF is in it from Redis 7.2 on and before is no word that an ACL may have.
_CONNECTING: Final = ("+@connection", "-@admin", "-@dangerous", "-select", "-reset")
_COMMANDS: Final = {
    Role.EDGE: """\
        info subscribe unsubscribe publish scan time
        del unlink exists pexpire get mget set setrange
        hget hmget hgetall hexists hscan hset hdel hincrby
        sadd srem scard sismember spop srandmember
        zadd zrem zcard zcount zscore zrange zrangebyscore zremrangebyscore
        xadd xdel xlen xrange xrevrange xtrim""",
    Role.CONTROLLER: """\
        info client|list client|kill
        config|set replicaof failover function|load function|list acl|setuser
        publish scan time memory|usage dump restore
        del unlink exists pexpire pttl get mget set
        hget hmget hgetall hexists hlen hscan hset hdel hincrby
        sadd srem scard sismember smembers spop
        zadd zrem zrangebyscore zremrangebyscore zscore
        xadd xlen xrange xrevrange""",
    Role.ARCHIVER: """\
        time hget hmget hset hincrby xack xdel xlen xrange xreadgroup
        xautoclaim xinfo|consumers xgroup|create xgroup|delconsumer""",
    Role.REPLICA: "auth ping psync replconf",
}

_KEYS: Final = {
    Role.EDGE: (
        "~{*}*",
        *(f"~roomful:{name}" for name in ("shard", "marks", "outbox", "counts", "dead", "gone")),
        *(f"~roomful:{name}" for name in ("edges", "edge:*", "leases", "revo*")),
        *(f"%R~roomful:{name}" for name in ("topology", "terms", "arrivals")),
    ),
    Role.CONTROLLER: ("~*",),
    Role.ARCHIVER: ("~roomful:shard", "~roomful:outbox", "%R~roomful:topology"),
    Role.REPLICA: (),
}
_CHANNELS: Final = {
    Role.EDGE: ("&r:*", "&roomful:*"),
    Role.CONTROLLER: ("&roomful:*",),
    Role.ARCHIVER: (),
    Role.REPLICA: (),
}


def user_rules(role: Role, passwords: Iterable[str]) -> tuple[str, ...]:
    """
    Give the words of ACL SETUSER for the user of *role*; what it was before does not matter.

    Args:
        passwords: any of them will do: while they change there are two. The words have hashes.
    """
    functions = sorted(FUNCTIONS[role])
    return (
        "reset",
        "on",
        *(f"#{hashlib.sha256(one.encode()).hexdigest()}" for one in passwords),
        *_KEYS[role],
        *_CHANNELS[role],
        *(() if role is Role.REPLICA else _CONNECTING),
        *(f"+{command}" for command in _COMMANDS[role].split()),
        *(f"+{call}|{name}" for name in functions for call in ("fcall", "fcall_ro")),
    )


def render_users(passwords: Mapping[Role, Sequence[str]]) -> str:
    """
    Give the lines of redis.conf that make all users; nobody else can sign in.

    Args:
        passwords: of each role, the one in use first. A replica signs in to its primary with it.
    """
    users = [" ".join(("user", role.value, *user_rules(role, passwords[role]))) for role in Role]
    replica = Role.REPLICA
    own = [f"masteruser {replica.value}", f"masterauth {passwords[replica][0]}"]
    return "\n".join(("user default off", *users, *own, ""))
