"""
Puts the Function library on a shard's primary, and says what server that is.

The library is one text for the server, kept in files so that each can be read on its own.
Redis persists and replicates it like data: it is loaded once, by the controller, and a promoted
replica has it. What its functions take and give is in docs/adr/0007-function-library.md.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Protocol

from redis.exceptions import RedisError, ResponseError

from roomful.protocol.errors import RoomfulError

__all__ = [
    "LIBRARY_NAME",
    "Client",
    "Installed",
    "LibraryRefused",
    "Server",
    "identify",
    "install_library",
    "library_source",
    "library_version",
    "parse_version",
]

logger = logging.getLogger("roomful.shard")

LIBRARY_NAME: Final = "roomful"

_PARTS: Final = (
    "functions.lua",
    "functions_ids.lua",
    "functions_publishing.lua",
    "functions_reading.lua",
    "functions_presence.lua",
    "functions_outbox.lua",
    "functions_control.lua",
    "functions_moving.lua",
)
_OLDEST: Final = {"redis": (7, 0), "valkey": (8, 0)}
_NO_ROOM: Final = ("OOM ", "command not allowed when used memory", "MISCONF ")
"""The server is full, or its disk is; redis-py leaves the word away."""
_VERSION: Final = re.compile(r"^local VERSION = ([1-9][0-9]*)$", re.MULTILINE)


class Client(Protocol):
    """What is needed of a redis.asyncio.Redis (whose own annotations say less)."""

    async def execute_command(self, *args: str | int) -> Any:
        """Send one command and give its reply, or raise a RedisError."""


class LibraryRefused(RoomfulError):
    """The library was not put on the server, which is as it was."""


@dataclass(frozen=True, slots=True)
class Server:
    """What answers at an address."""

    product: str
    """`redis` or `valkey`."""
    version: tuple[int, ...]
    is_standalone: bool
    """Neither cluster mode nor a sentinel."""

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.version))}"


@dataclass(frozen=True, slots=True)
class Installed:
    """The library is on the server."""

    server: Server
    version: int
    before: int | None
    """The version that was there; None: no library, and *version* again: nothing was done."""


@cache
def library_source() -> str:
    """Give the text of the whole library."""
    directory = files("roomful.shard")
    return "".join(directory.joinpath(part).read_text("utf-8") for part in _PARTS)


def parse_version(source: str) -> int:
    """
    Read the version out of a library's text.

    Raises:
        LibraryRefused: there is none, or not exactly one.
    """
    found = _VERSION.findall(source)
    if len(found) != 1:
        raise LibraryRefused(f"a library has one line with its version, not {len(found)}")
    return int(found[0])


def library_version() -> int:
    """Give the version of library_source()."""
    return parse_version(library_source())


async def identify(client: Client) -> Server:
    """
    Ask the server what it is.

    Raises:
        redis.exceptions.RedisError: it did not answer.
    """
    info: dict[str, Any] = await client.execute_command("INFO", "server")
    product = "valkey" if "valkey_version" in info else "redis"
    version = str(info[f"{product}_version"])
    mode = info.get("redis_mode", info.get("server_mode"))
    return Server(product, tuple(map(int, version.split("-")[0].split("."))), mode == "standalone")


async def install_library(client: Client, source: str | None = None) -> Installed:
    """
    See to it that the primary behind *client* has the library in this version.

    Repeating it changes nothing. It is for one caller at a time, the controller: the version is
    compared first and the library loaded after. A server that has no room for it keeps an older
    one, which does what it did; repeat it later.

    Args:
        source: the library's text; None: ours.

    Raises:
        LibraryRefused: the server is too old or in cluster mode, has a newer library or other
            code under the same version, is a replica, did not answer, or refused the code.
    """
    source = library_source() if source is None else source
    version = parse_version(source)
    before: int | None = None
    try:
        server = await identify(client)
        _check(server)
        before = await _version_on(client)
        if before is not None and before > version:
            raise LibraryRefused(f"the server's library is newer: {before}, not {version}")
        if before == version:
            if await _code_on(client) != source:
                raise LibraryRefused(f"the server has another library that is version {version}")
        else:
            await client.execute_command("FUNCTION", "LOAD", "REPLACE", source)
    except ResponseError as exc:
        if before is None or not str(exc).startswith(_NO_ROOM):
            raise LibraryRefused(f"the library could not be loaded: {exc}") from exc
        extra = {"server": str(server), "has": before, "wanted": version, "why": str(exc)}
        logger.warning("library not renewed", extra=extra)
        return Installed(server, before, before)
    except RedisError as exc:
        raise LibraryRefused(f"the library could not be loaded: {exc}") from exc
    return Installed(server, version, before)


def _check(server: Server) -> None:
    oldest = _OLDEST[server.product]
    if server.version < oldest:
        needed = ".".join(map(str, oldest))
        raise LibraryRefused(f"{server} is too old: {server.product} {needed} has what we need")
    if not server.is_standalone:
        raise LibraryRefused(f"{server} is not standalone: shards are servers of their own")


async def _version_on(client: Client) -> int | None:
    try:
        return int(await client.execute_command("FCALL_RO", f"{LIBRARY_NAME}_version", 0))
    except ResponseError as exc:
        # The words are the same from Redis 7.0 and Valkey 8 on.
        if "function not found" in str(exc).lower():
            return None
        raise


async def _code_on(client: Client) -> str | None:
    reply: Any = await client.execute_command(
        "FUNCTION", "LIST", "LIBRARYNAME", LIBRARY_NAME, "WITHCODE"
    )
    for library in reply:
        # RESP2 gives pairs as a list, RESP3 a mapping.
        pairs = (
            library.items()
            if isinstance(library, dict)
            else zip(library[::2], library[1::2], strict=True)
        )
        for key, value in pairs:
            if _text(key) == "library_code":
                return _text(value)
    return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
