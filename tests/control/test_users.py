"""Every program signs in to the servers as itself, and may do there what it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.resources import files

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.driving import Driven
from control.servers import Fleet, SealedServer
from roomful.control.link import Credentials, Link, ServerUnreachable
from roomful.control.server import Server
from roomful.shard.library import library_source
from roomful.shard.users import FUNCTIONS, Role, user_rules
from support.deadline import DEADLINE_S, eventually
from support.users import CONTROLLER, USERS

MakeFleet = Callable[..., Fleet]
Control = Callable[..., Driven]

# All that changes a server, its configuration, users, code or replication, or shows others' data.
ABOUT_SERVERS = """\
    CONFIG SET dir /tmp | CONFIG GET * | CONFIG REWRITE | FLUSHALL | FLUSHDB | SWAPDB 0 1
    REPLICAOF NO ONE | FAILOVER | SHUTDOWN NOSAVE | MODULE LIST | MONITOR
    FUNCTION LOAD x | FUNCTION DELETE roomful | FUNCTION FLUSH | FUNCTION DUMP | FUNCTION LIST
    EVAL 0 0 | SCRIPT FLUSH | ACL SETUSER edge +@all | ACL LIST | ACL GETUSER edge
    CLIENT KILL TYPE normal | CLIENT LIST | CLIENT PAUSE 1 | BGREWRITEAOF | SAVE | PSYNC ? -1
    REPLCONF ACK 1 | KEYS * | RANDOMKEY | DUMP {1}l:a | MIGRATE h 1 k 0 1 | SLOWLOG GET
    LATENCY RESET | MEMORY DOCTOR | SELECT 1"""
REFUSED: Mapping[Role, str] = {
    Role.EDGE: f"""{ABOUT_SERVERS}
        | SET roomful:topology x | DEL roomful:terms | HSET roomful:arrivals a b
        | HSET roomful:requests a b | GET other | PUBLISH other x | SUBSCRIBE other
        | FCALL roomful_v1_take_term 0 s1 9 | FCALL roomful_v1_set_topology 0 9 x
        | FCALL roomful_v1_release 1 {{1}}b | FCALL ROOMFUL_V1_CLAIM 1 {{1}}b 1 1
        | FCALL roomful_v1_archived 0 1 1-1""",
    Role.ARCHIVER: f"""{ABOUT_SERVERS}
        | XRANGE {{1}}l:a - + | SET {{1}}l:a x | DEL roomful:outbox | HGET roomful:leases a
        | XADD roomful:outbox * a b | PUBLISH roomful:control x | SUBSCRIBE r:a
        | FCALL roomful_v1_publish 0 | FCALL roomful_v1_erase 1 {{1}}l:a 1 1 1 1 1
        | FCALL roomful_v1_set_topology 0 9 x""",
    Role.REPLICA: f"""{ABOUT_SERVERS.replace("| PSYNC ? -1", "").replace("REPLCONF ACK 1 |", "")}
        | GET {{1}}l:a | SET {{1}}l:a x | INFO | PUBLISH r:a x | CLIENT SETNAME x
        | FCALL roomful_v1_publish 0 | FCALL_RO roomful_v1_topology 0""",
    Role.CONTROLLER: """\
        FLUSHALL | FLUSHDB | SWAPDB 0 1 | SHUTDOWN NOSAVE | MODULE LIST | MONITOR
        CONFIG GET * | CONFIG REWRITE | FUNCTION DELETE roomful | FUNCTION FLUSH | EVAL 0 0
        KEYS * | MIGRATE h 1 k 0 1 | PSYNC ? -1 | SUBSCRIBE r:a | PUBLISH r:a x
        FCALL roomful_v1_publish 0 | FCALL roomful_v1_revoke 0 | ACL LIST | SELECT 1""",
}


def commands(text: str) -> list[list[str]]:
    """Give the commands of *text*, apart by lines or bars."""
    return [one.split() for one in re.split(r"[|\n]", text) if one.strip()]


def test_each_function_is_somebodys() -> None:
    """Who gets a function of a new version is decided, and nobody may call what is not there."""
    there = set(re.findall(r"^register\('(\w+)'", library_source(), re.MULTILINE))
    assert there == frozenset().union(*FUNCTIONS.values())


@pytest.fixture
def served(make_fleet: MakeFleet) -> SealedServer:
    """Start one server that has users."""
    (server,) = make_fleet(shards=1, replicas=0).servers
    return server


@pytest.mark.parametrize(
    ("file", "roles"),
    [
        ("functions.lua", [Role.EDGE, Role.CONTROLLER]),
        ("functions_publishing.lua", [Role.EDGE]),
        ("functions_reading.lua", [Role.EDGE]),
        ("functions_presence.lua", [Role.EDGE]),
        ("functions_control.lua", [Role.EDGE]),
        ("functions_moving.lua", [Role.CONTROLLER]),
    ],
)
def test_what_functions_do_their_callers_may(file: str, roles: list[Role]) -> None:
    """A command that is new in a function is a new right of its callers, whichever way it goes."""
    source = files("roomful.shard").joinpath(file).read_text("utf-8")
    used = {word.lower() for word in re.findall(r"redis\.p?call\('(\w+)'", source)}
    for role in roles:
        rights = {word[1:].split("|")[0] for word in user_rules(role, ()) if word[0] == "+"}
        assert used <= rights, f"{role.value} has to have {used - rights}"


class Program:
    """One connection of *role*; of nobody with None."""

    def __init__(
        self, server: SealedServer, role: Role | None, password: str | None = None
    ) -> None:
        self._client = redis.Redis(
            port=server.address.port,
            username=role and role.value,
            password=password or (role and USERS[role][0]),
            socket_timeout=DEADLINE_S,
            retry=Retry(NoBackoff(), 0),
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, *words: str | int) -> object:
        """Send one command."""
        reply: object = self._client.execute_command(*words)  # type: ignore[no-untyped-call]
        return reply


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_a_role_may_do_nothing_else(served: SealedServer, role: Role) -> None:
    """What a program does not need is refused for want of the right, not by chance."""
    served.command("REPLICAOF", "NO", "ONE")
    served.command("FUNCTION", "LOAD", library_source())
    allowed = []
    for words in commands(REFUSED[role]):
        with Program(served, role) as client:
            try:
                client.ask(*words)
                allowed.append(words)
            except redis.exceptions.NoPermissionError:
                pass
            except redis.RedisError as exc:
                allowed.append([*words, repr(exc)])
    assert allowed == []


def test_nobody_signs_in_without_a_name(served: SealedServer) -> None:
    """The default user is off, with and without a password, and says nothing."""
    for password in (None, "x"):
        for words in (("PING",), ("INFO",), ("FCALL_RO", "roomful_v1_topology", 0)):
            with Program(served, None, password) as client:
                with pytest.raises(redis.AuthenticationError):
                    client.ask(*words)


async def test_a_wrong_password_is_said_in_one_sentence(served: SealedServer) -> None:
    """It names the server and the user, and no password."""
    wrong = Credentials("guessed", "controller")
    with pytest.raises(ServerUnreachable, match="sign-in as controller failed: WRONGPASS") as seen:
        await Link.open(served.address, wrong, DEADLINE_S)
    assert "guessed" not in str(seen.value)


async def test_only_a_controller_can_be_in_the_way_of_one(served: SealedServer) -> None:
    """An edge may give its connection any name: it does not lead by that."""
    with Program(served, Role.EDGE) as client:
        client.ask("CLIENT", "SETNAME", "roomful-controller")
        server = Server(served.address, CONTROLLER, timeout_s=DEADLINE_S)
        try:
            await server.observe()
            assert server.is_lead
        finally:
            server.close()


async def test_passwords_change_while_everyone_stays(
    make_fleet: MakeFleet, control: Control
) -> None:
    """Both are taken for a while; then only the new one, and no connection has ended."""
    fleet = make_fleet(shards=1, replicas=1)
    driven = control(fleet, acks=1)
    await driven.serve()
    primary, replica = fleet.servers
    new = {role: (f"new-{role.value}",) for role in Role}
    both = {role: (*new[role], *USERS[role]) for role in Role}
    before = {role: Program(primary, role) for role in (Role.EDGE, Role.ARCHIVER)}
    for client in before.values():
        client.ask("FCALL_RO", "roomful_v1_topology", 0)

    first = Credentials("new-controller", "controller", previous=CONTROLLER.password)
    driven.controller.change_passwords(first, both)
    assert not driven.controller.has_admitted
    await driven.until(lambda _: driven.controller.has_admitted)
    for server in fleet.servers:
        for password in both[Role.EDGE]:
            with Program(server, Role.EDGE, password) as client:
                assert client.ask("PING")

    # A server that starts again may have the old file still.
    replica.restart()
    await driven.until(lambda status: status.is_serving and not status.unreachable)
    await driven.until(lambda _: driven.controller.has_admitted)
    with Program(replica, Role.EDGE, "new-edge") as client:
        assert client.ask("PING")

    driven.controller.change_passwords(Credentials("new-controller", "controller"), new)
    await driven.until(lambda _: driven.controller.has_admitted)
    for server in fleet.servers:
        with Program(server, Role.EDGE) as client, pytest.raises(redis.AuthenticationError):
            client.ask("PING")
    for client in before.values():
        client.ask("FCALL_RO", "roomful_v1_topology", 0)
        client.__exit__()
    assert (await driven.serve()).is_serving

    # Replicas come back with the new one, over a connection that is new.
    primary.command("CLIENT", "KILL", "TYPE", "replica")

    async def follows() -> bool:
        return replica.info()["master_link_status"] == "up"

    await eventually(follows, "the replica follows with its new password")
