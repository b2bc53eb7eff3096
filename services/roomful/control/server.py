"""
One server as the controller uses it: what it says, who has the lead over it, what it is ordered.

An order can be repeated at any time: it says what shall be, and a server that is so already
changes nothing.

The lead: whichever controller's connection to a server is the oldest leads there. The server
itself numbers its connections, so nothing has to be stored or agreed on; and orders go over the
same connection, so a controller whose connection was closed cannot order anything late, however
long it slept. A connection on which nothing came for LEAD_S is closed by the next one in line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import ResponseError

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import (
    Address,
    Topology,
    decode_topology,
    encode_topology,
)
from roomful.control.link import Credentials, Link, ServerUnreachable
from roomful.control.observation import (
    Observation,
    ShardState,
    parse_info,
    parse_observation,
    parse_shard_state,
)
from roomful.control.sealed import SEALED
from roomful.protocol.errors import RoomfulError
from roomful.shard.library import LIBRARY_NAME, Installed, install_library, library_version
from roomful.shard.users import Role, user_rules

__all__ = ["LEAD_S", "NotNow", "OrderRefused", "Server", "Users"]

LEAD_S: Final = 5
"""Seconds of silence after which a controller has lost its lead; it asks every second or so."""

NAME: Final = "roomful-controller"
READER: Final = "roomful-reader"
Users = Mapping[Role, Sequence[str]]
"""The passwords of each role's user, the newest first."""
LIST: Final = ("CLIENT", "LIST", "TYPE", "normal")
INFO: Final = ("INFO", "server", "replication", "persistence", "keyspace")
SHARD: Final = ("HMGET", "roomful:shard", "name", "term", "seq")
TERMS: Final = ("HGETALL", "roomful:terms")
GENERATION: Final = ("HGET", "roomful:topology", "generation")
REQUESTS: Final = "roomful:requests"
WAITING: Final = ("HLEN", REQUESTS)
LIBRARY: Final = ("FCALL_RO", f"{LIBRARY_NAME}_version", 0)


class OrderRefused(RoomfulError):
    """A server did not do what it was ordered."""

    def __init__(self, address: Address, order: str, why: str) -> None:
        super().__init__(f"{address} refused {order}: {why}")
        self.address = address


class NotNow(OrderRefused):
    """It did nothing of it, and would refuse all orders that write: another server may take it."""


_NOT_NOW: Final = ("BUSY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY")


class Server:
    """
    One server; connects when it is first asked, and again after each loss.

    A reader never leads, and is in nobody's way.

    Methods raise ServerUnreachable, and OrderRefused when the server says no.
    """

    # Mutable state: how to sign in, the connection, its number there, and the users that it was
    # told over this connection.
    def __init__(
        self,
        address: Address,
        credentials: Credentials,
        *,
        timeout_s: float = 1.0,
        is_reader: bool = False,
    ) -> None:
        self._name = READER if is_reader else NAME
        self.address = address
        self.credentials = credentials
        """How the next connection signs in."""
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._number = 0
        self._users: Users | None = None
        self.is_lead = False

    def close(self) -> None:
        """Let go of the connection, and of the lead with it."""
        self.is_lead = False
        if self._link is not None:
            self._link.close()
            self._link = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that was not seen to end."""
        return self._link is not None and not self._link.is_closed

    # What it says ---------------------------------------------------------------------------

    async def observe(self, *, insists: bool = False) -> Observation:
        """
        Give what the server is now, and see who leads.

        Args:
            insists: whether to take the lead from a controller that is at work.
        """
        link = await self._connected()
        commands = [LIST, INFO, LIBRARY, SHARD, GENERATION, TERMS, WAITING]
        clients, text, library, *kept = await link.pipeline(commands)
        if isinstance(clients, ResponseError):
            raise ServerUnreachable(self.address, f"does not say who is connected: {clients}")
        if isinstance(text, ResponseError):
            raise ServerUnreachable(self.address, f"does not say what it is: {text}")
        await self._settle_lead(link, clients.decode(), insists=insists)
        is_known = not any(isinstance(reply, ResponseError) for reply in kept)
        # What cannot be said now says nothing of it.
        is_old = isinstance(library, int) and library < library_version()
        has_functions = not is_old and "function not found" not in str(library).lower()
        try:
            state = parse_shard_state(*kept) if is_known else ShardState(is_known=False)
            info = parse_info(text.decode())
            return replace(
                parse_observation(self.address, info, state), has_functions=has_functions
            )
        except (KeyError, ValueError) as exc:
            why = f"is neither Redis 7 nor Valkey 8: {exc!r}"
            raise ServerUnreachable(self.address, why) from exc

    async def info(self, *sections: str) -> dict[str, str]:
        """Give what INFO says in *sections*."""
        return parse_info((await self._ask("INFO", *sections)).decode())

    async def topology(self) -> Topology | None:
        """
        Give the topology that the server keeps; None: none.

        Raises:
            BadTopology: it keeps something else.
        """
        document = await self._ask("HGET", "roomful:topology", "document")
        return None if document is None else decode_topology(document)

    async def records(self, buckets: Sequence[int]) -> list[str]:
        """
        Give the record of each of *buckets* as it comes to now, in the words of functions.lua.

        Raises:
            OrderRefused: it does not have the functions yet.
        """
        link = await self._connected()
        keys = [f"{{{bucket}}}b" for bucket in buckets]
        try:
            found = await link.execute_command("FCALL_RO", "roomful_v1_buckets", len(keys), *keys)
        except ResponseError as exc:
            raise OrderRefused(self.address, "roomful_v1_buckets", str(exc)) from exc
        return [record.decode() for record in found]

    async def outbox(self) -> int:
        """Give how many entries wait for the archive."""
        return int((await self._ask("FCALL_RO", "roomful_v1_outbox", 0))[3])

    async def requests(self) -> dict[bytes, bytes]:
        """Give what people ask of the cluster here, by a name that grows with time."""
        found = await self._ask("HGETALL", REQUESTS)
        return dict(sorted(zip(found[::2], found[1::2], strict=True)))

    async def request(self, name: str, document: bytes, acks: int) -> None:
        """
        Leave a request for whichever controller leads; needs no lead.

        Raises:
            OrderRefused: too many wait here, or too few replicas have it.
        """
        await self._ask("FCALL", "roomful_v1_request", 0, name, document)
        if not await self.wait(acks, self._timeout_s):
            raise OrderRefused(self.address, "a request", "too few replicas have it")

    # What it is ordered ---------------------------------------------------------------------

    def lead_link(self) -> Link:
        """
        Give the connection that the lead is on, for orders that belong together.

        Raises:
            ServerUnreachable: there is none.
        """
        if not self.is_lead or self._link is None or self._link.is_closed:
            raise ServerUnreachable(self.address, "this controller does not have the lead")
        return self._link

    async def seal(self) -> None:
        """Take its role away: it keeps its data and takes no writes."""
        await self.follow(SEALED)

    async def follow(self, primary: Address) -> None:
        """Make it a replica of *primary*."""
        await self._order("REPLICAOF", primary.host, primary.port)

    async def promote(self) -> None:
        """Make it a primary."""
        await self._order("REPLICAOF", "NO", "ONE")

    async def disconnect_clients(self) -> None:
        """
        Close all connections but this one: edges look up who the primary is now.

        Subscribers too, who would otherwise wait for ever for what is published elsewhere.
        """
        await self._order("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        await self._order("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def require_replicas(self, count: int) -> None:
        """Refuse writes with fewer than *count* replicas online."""
        await self._order("CONFIG", "SET", "min-replicas-to-write", count)

    async def admit(self, users: Users) -> None:
        """
        Let those sign in, and nobody else but by connections that are open; a replica too.

        Over one connection a server is told the same users only once.
        """
        if self._users == users:
            return
        for role in Role:
            await self._order("ACL", "SETUSER", role.value, *user_rules(role, users[role]))
        password = users[Role.REPLICA][0]
        await self._order(
            *("CONFIG", "SET", "masteruser", Role.REPLICA.value, "masterauth", password)
        )
        await self._order("ACL", "SETUSER", "default", "reset")
        self._users = users

    async def equip(self) -> Installed:
        """
        See to it that this primary has the function library, if it has room for a newer one.

        Raises:
            LibraryRefused: it cannot have it.
        """
        link = self.lead_link()
        return await install_library(_Typed(link))

    async def take_term(self, shard: ShardName, term: int) -> int:
        """Begin *term* of *shard*, or find it begun; gives the shard's newest offset."""
        reply = await self._order("FCALL", "roomful_v1_take_term", 0, shard, term)
        return int(reply[1])

    async def claim(self, term: int, buckets: Sequence[int], versions: Sequence[int]) -> None:
        """Own *buckets*, each at its version; those with a record of any kind are left alone."""
        by_version: dict[int, list[int]] = {}
        for bucket, version in zip(buckets, versions, strict=True):
            by_version.setdefault(version, []).append(bucket)
        for version, some in by_version.items():
            keys = [f"{{{bucket}}}b" for bucket in some]
            await self._order("FCALL", "roomful_v1_claim", len(keys), *keys, term, version)

    async def keep(self, topology: Topology) -> int:
        """Keep and announce *topology* if it is newer; gives the generation that is kept."""
        document = encode_topology(topology)
        return int(
            await self._order("FCALL", "roomful_v1_set_topology", 0, topology.generation, document)
        )

    async def wait(self, replicas: int, timeout_s: float) -> bool:
        """Whether *replicas* have all that was ordered here, after at most *timeout_s*."""
        if replicas == 0:
            return True
        link = self._link
        if link is None or link.is_closed:
            raise ServerUnreachable(self.address, "the connection that it was ordered on is lost")
        (reply,) = await link.pipeline(
            [("WAIT", replicas, int(timeout_s * 1000))], patience_s=timeout_s
        )
        if isinstance(reply, ResponseError):
            raise OrderRefused(self.address, "WAIT", str(reply))
        return int(reply) >= replicas

    async def hand_over(self, target: Address, timeout_s: float) -> None:
        """
        Begin to hand this primary's role to its replica *target*.

        It pauses writes, waits until the replica has everything, and changes places with it; after
        *timeout_s* it goes on as before. Observation.is_handing_over says when it is decided.
        """
        await self._order(
            "FAILOVER", "TO", target.host, target.port, "TIMEOUT", int(timeout_s * 1000)
        )

    async def forget_requests(self, names: Sequence[bytes]) -> None:
        """Take requests away that were taken up, or refused."""
        await self._order("HDEL", REQUESTS, *names)

    async def _order(self, *words: str | int | bytes) -> Any:
        # Never over another connection than the one that led when it was decided.
        return await self._send(self.lead_link(), *words)

    async def _ask(self, *words: str | int | bytes) -> Any:
        return await self._send(await self._connected(), *words)

    async def _send(self, link: Link, *words: str | int | bytes) -> Any:
        try:
            return await link.execute_command(*words)
        except ResponseError as exc:
            kind = NotNow if str(exc).startswith(_NOT_NOW) else OrderRefused
            raise kind(self.address, " ".join(map(str, words[:2])), str(exc)) from exc

    # The connection and the lead ------------------------------------------------------------

    async def _connected(self) -> Link:
        if self._link is not None and not self._link.is_closed:
            return self._link
        async with self._connecting:
            return await self._connect()

    async def _connect(self) -> Link:
        # Two that ask at once (a pass, and a move under way) would open two, and lose one.
        if self._link is not None and not self._link.is_closed:
            return self._link
        self.is_lead = False
        link = await Link.open(self.address, self.credentials, self._timeout_s)
        name, number = await link.pipeline([("CLIENT", "SETNAME", self._name), ("CLIENT", "ID")])
        for reply in (name, number):
            if isinstance(reply, ResponseError):
                link.close()
                raise ServerUnreachable(self.address, str(reply))
        self._link, self._number, self._users = link, number, None
        return link

    async def _settle_lead(self, link: Link, clients: str, *, insists: bool) -> None:
        user = self.credentials.username or "default"
        rivals = list(_rivals(clients, self._number, user, include_younger=insists))
        for number, idle_s in list(rivals) if self._name == NAME else ():
            if insists or idle_s >= LEAD_S:
                # An error here means that it has gone by itself.
                await link.pipeline([("CLIENT", "KILL", "ID", number)])
                rivals.remove((number, idle_s))
        self.is_lead = not rivals and self._name == NAME


class _Typed:
    """A link for what expects the replies of redis-py, in which INFO is a mapping."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def execute_command(self, *args: str | int) -> Any:
        """Send one command and give its reply."""
        reply = await self._link.execute_command(*args)
        return parse_info(reply.decode()) if args[0] == "INFO" else reply


def _rivals(
    clients: str, own: int, user: str, *, include_younger: bool
) -> Iterable[tuple[int, int]]:
    """
    Give number and idle time (seconds) of the other controllers' connections in CLIENT LIST.

    Anyone may give a connection this name; only controllers sign in as *user*.
    """
    for line in clients.splitlines():
        words = dict(part.partition("=")[::2] for part in line.split(" "))
        number = int(words["id"])
        is_rival = words["name"] == NAME and words["user"] == user and number != own
        if is_rival and (include_younger or number < own):
            yield number, int(words["idle"])
