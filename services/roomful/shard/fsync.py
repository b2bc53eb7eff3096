"""
Whether the servers of a topology can say what is on disk: WAITAOF came with Redis 7.2.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from roomful.cluster.topology import Address, Topology
from roomful.protocol.errors import RoomfulError
from roomful.shard.library import identify
from roomful.shard.resp import Login, LostConnection, ReplyError, RespConnection, connect

__all__ = ["CannotFsync", "check_fsync"]

TIMEOUT_S: Final = 2.0
_OLDEST: Final = {"redis": (7, 2), "valkey": (8, 0)}


class CannotFsync(RoomfulError):
    """Messages shall be on disk when they are acknowledged, and a server cannot say so."""


class _Client:
    """What identify() asks, over a connection of ours."""

    def __init__(self, connection: RespConnection) -> None:
        self._connection = connection

    async def execute_command(self, *args: str | int) -> Any:
        """Give the reply to INFO by its fields."""
        text: Any = await self._connection.call(*args)
        lines = bytes(text).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


async def check_fsync(topology: Topology, login: Login) -> None:
    """
    See that each primary that answers can do what *topology* says of disks.

    Raises:
        CannotFsync: naming those that cannot.
    """
    if not topology.is_fsynced:
        return
    primaries = [shard.primary for shard in topology.shards.values()]
    faults = await asyncio.gather(*(_fault(primary, login) for primary in primaries))
    if found := [fault for fault in faults if fault is not None]:
        raise CannotFsync(
            "the durability is fsynced, which needs Redis 7.2 or Valkey 8 with appendonly: "
            + "; ".join(found)
        )


async def _fault(address: Address, login: Login) -> str | None:
    try:
        connection = await connect(address, timeout_s=TIMEOUT_S, login=login)
    except LostConnection:
        return None  # the shard is away, which is said elsewhere
    try:
        client = _Client(connection)
        server = await identify(client)
        found = await client.execute_command("INFO", "persistence")
    except (LostConnection, ReplyError):
        return None  # who may not ask finds out by the first WAITAOF
    finally:
        connection.abort()
    if server.version < _OLDEST[server.product]:
        return f"{address} is {server}"
    return f"{address} has appendonly off" if found.get("aof_enabled") == "0" else None
