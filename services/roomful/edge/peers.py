"""
The other edges: what they are called, where they can be reached, and whose a session is.

The sid of a session on polling begins with the name of its edge, so any edge that gets one of its
requests knows where it belongs and passes it on (forward.py, splice.py): a load balancer needs
no sticky sessions. An edge's name is new with each process, so an address in the directory may be
gone but is never another edge's.

A request that was passed on says so (FORWARDED) and is never passed on again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from roomful.protocol.errors import Refused
from roomful.telemetry.lasting import keep_going

__all__ = [
    "FORWARDED",
    "About",
    "Address",
    "Directory",
    "Peers",
    "advertised_address",
    "new_edge_name",
    "new_sid",
    "parse_address",
    "read_about",
]

logger = logging.getLogger("roomful.edge")

FORWARDED: Final = b"roomful-forwarded"
"""The header of a request that an edge passed on; its value is that edge's name."""

REFRESH_S = 10.0
"""How often the directory is read anyway."""
MISS_PAUSE_S = 1.0
"""How long after a reading an unknown name waits for the next one: names can be made up."""
READ_TIMEOUT_S = 2.0

_NAME = re.compile(r"[a-z0-9]{4,16}")


class Address(NamedTuple):
    """Where an edge listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class About(msgspec.Struct, frozen=True):
    """What an edge says of itself to the others; JSON, kept with its lease."""

    name: str
    address: str
    """`host:port`, as parse_address takes it."""


_about = msgspec.json.Decoder(About).decode


def read_about(text: str) -> About | None:
    """Read what an edge says of itself; None, and a line in the log, if it cannot be used."""
    try:
        about = _about(text)
        parse_address(about.address)
    except (msgspec.MsgspecError, ValueError) as exc:
        logger.warning("edge not listed", extra={"about": text[:200], "why": str(exc)})
        return None
    return about


class Directory(Protocol):
    """Who knows all edges."""

    async def edges(self) -> Iterable[About]:
        """
        Give the edges that are there now.

        Raises:
            Refused: SHARD_UNAVAILABLE, nobody can be asked now.
        """


def new_edge_name() -> str:
    """Make the name of an edge: 32 random bits, so that two of a cluster differ."""
    return secrets.token_hex(4)


def new_sid(edge_name: str) -> str:
    """Make a sid of this edge's, with 120 bits that nobody can guess."""
    return f"{edge_name}.{secrets.token_urlsafe(15)}"


def parse_address(text: str) -> Address:
    """
    Read `host:port` or `[v6]:port`.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not host:port")
    return Address(host, int(port))


# Addresses for documentation, RFC 5737 and RFC 3849.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def advertised_address(advertise: str, listening: Address) -> Address:
    """Give where others reach this edge: *advertise* if set, else a guess from *listening*."""
    if advertise:
        return parse_address(advertise)
    if listening.host not in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return listening
    for family, somewhere in _ELSEWHERE:
        # No packet is sent: this only asks which of our addresses the default route would use.
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((somewhere, 9))
                return Address(str(probe.getsockname()[0]), listening.port)
        except OSError:
            continue
    return Address("127.0.0.1", listening.port)


class Peers:
    """The other edges of this one's cluster; without a directory there are none."""

    # Mutable state: the directory as last read, when that was, the reading under way, and the
    # task that reads it again and again.
    def __init__(self, name: str) -> None:
        self.name = name
        self.directory: Directory | None = None
        self._addresses: dict[str, Address] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self.failures = 0
        """Readings of the directory that failed."""

    def __repr__(self) -> str:
        return f"<Peers {len(self._addresses)} known to {self.name}>"

    @property
    def addresses(self) -> Mapping[str, Address]:
        """The edges known, by name; this one may be among them."""
        return self._addresses

    def start(self) -> None:
        """Read the directory now and from time to time, in the running loop."""
        if self.directory is not None and self._ticking is None:
            ticking = keep_going("peers", self._tick)
            self._ticking = asyncio.get_running_loop().create_task(ticking)

    async def aclose(self) -> None:
        """Stop reading the directory."""
        tasks = [task for task in (self._ticking, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def owner_of(self, sid: str) -> str | None:
        """Give the name of the other edge that *sid* says it is of; None if of no other."""
        if self.directory is None:
            return None
        name, dot, _ = sid.partition(".")
        if not dot or name == self.name or not _NAME.fullmatch(name):
            return None
        return name

    def is_peer(self, host: str) -> bool:
        """Whether an edge of the cluster has the address *host*."""
        return any(address.host == host for address in self._addresses.values())

    async def find(self, name: str) -> Address | None:
        """Give where the edge *name* is, after asking the directory if it is unknown."""
        if name not in self._addresses:
            loop = asyncio.get_running_loop()
            asked_at = loop.time()
            pause_s = self._read_at + MISS_PAUSE_S - asked_at
            if self._reading is None and pause_s > 0:
                # It may have come since: a client of it is not refused for being quick.
                await asyncio.sleep(pause_s)
            if name not in self._addresses and self._read_at <= asked_at:
                await self._refresh()
        return self._addresses.get(name)

    def forget(self, name: str) -> None:
        """Nobody is at the address of *name*: ask the directory when it is wanted again."""
        self._addresses.pop(name, None)

    async def _tick(self) -> None:
        while True:
            await self._refresh()
            await asyncio.sleep(REFRESH_S)

    async def _refresh(self) -> None:
        """Read the directory; all who want that at the same time share one reading."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        assert self.directory is not None
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                found = await self.directory.edges()
            self._addresses = {about.name: parse_address(about.address) for about in found}
        except (Refused, TimeoutError, ValueError) as exc:
            # What is known stays: an edge is reachable whether its shard is or not.
            self.failures += 1
            logger.warning("edges could not be listed", extra={"why": str(exc)})
        finally:
            self._read_at = asyncio.get_running_loop().time()
            self._reading = None
