"""Edges as the tests of presence play them."""

from __future__ import annotations

from typing import Any

from functions.calls import TERM, Calls, bucket_of
from functions.server import RunningServer

__all__ = [
    "GRACE_MS",
    "LIMIT",
    "PEOPLE",
    "ROOM",
    "Edge",
    "counted",
    "idle",
    "joined",
    "left",
]

ROOM = "a"
PEOPLE = f"{bucket_of(ROOM)}p:{ROOM}"
GRACE_MS = 10_000
LEASE_MS = 5_000
LIMIT = 3


class Edge:
    """An edge with a lease, on one connection."""

    def __init__(self, calls: Calls, name: str = "edge1") -> None:
        self.calls = calls
        self.name = name
        self.lease(is_new=True)

    def lease(self, *, is_new: bool = False) -> None:
        """Take the lease, or renew it."""
        self.calls("lease", [], TERM, self.name, int(is_new), LEASE_MS, "10.0.0.1")

    def join(
        self,
        user: str,
        connection: str = "c",
        status: str = "online",
        *,
        people: str = PEOPLE,
        shown: int = LIMIT,
    ) -> tuple[int, list[tuple[str, str]], int]:
        """Let *user* in; gives the shard's offset, the members named, and their count."""
        args = self.name, connection, user, status, LIMIT, shown
        offset, count, *named = self.calls("join", [people], TERM, 1, *args)
        return offset, _pairs(named), count

    def leave(
        self, user: str, connection: str = "c", grace_ms: int = 0, *, people: str = PEOPLE
    ) -> int:
        """Let *user* out; says whether the connection was there."""
        args = self.name, connection, user, grace_ms, LIMIT
        was_there: int = self.calls("leave", [people], TERM, 1, *args)
        return was_there

    def members(self) -> list[tuple[str, str]]:
        """Give who is in the room."""
        count, *named = self.calls("members", [PEOPLE], TERM, LIMIT)
        assert count == len(named) // 2
        return _pairs(named)

    def users(self) -> list[str]:
        """Give their names."""
        return [user for user, _ in self.members()]

    def sweep(self, budget: int = 100) -> int:
        """Do the shard's housekeeping; says whether more is to be done."""
        is_more: int = self.calls("sweep", [], TERM, budget, GRACE_MS, LIMIT)
        return is_more


def _pairs(named: list[bytes]) -> list[tuple[str, str]]:
    words = [word.decode() for word in named]
    return list(zip(words[::2], words[1::2], strict=True))


def joined(user: str, status: str = "online") -> tuple[str, dict[str, Any]]:
    """Give what the others hear of a join."""
    return "user-joined", {"userId": user, "roomId": ROOM, "status": status}


def left(user: str) -> tuple[str, dict[str, Any]]:
    """Give what the others hear of a leave."""
    return "user-left", {"userId": user, "roomId": ROOM}


def counted(count: int) -> tuple[str, dict[str, Any]]:
    """Give what a large room hears."""
    return "presence-count", {"roomId": ROOM, "count": count}


def idle(server: RunningServer, *edges: Edge, seconds: int) -> None:
    """Let time pass in which *edges* are alive."""
    for step in range(0, seconds, 2):
        server.pass_time(min(2, seconds - step))
        for one in edges:
            one.lease()
