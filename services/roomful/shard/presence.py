"""
Who is in which room, embedded: one join and one leave per user and room, however many
connections, and none at all when the user is back within the grace.

Above `list_limit` users a room's members are counted, not named: a join tells nobody but changes
the count, and the count is cast at most once a sweep.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from roomful.shard.base import Member, Members
from roomful.shard.message import Cast, RoomId, UserId

__all__ = ["PresenceLimits", "RoomPresence"]


@dataclass(frozen=True, slots=True)
class PresenceLimits:
    """How presence is told."""

    grace_s: float = 10.0
    """Seconds a user whose last connection was lost still counts as there."""
    list_limit: int = 500
    """Users up to which members are named and joins are told one by one."""

    def __post_init__(self) -> None:
        names = ("grace_s", "list_limit")
        if bad := [name for name in names if not 0 <= getattr(self, name) < math.inf]:
            raise ValueError(f"presence: {' and '.join(bad)} must be 0 or more")


@dataclass(slots=True)
class _Here:
    status: str
    connections: set[str] = field(default_factory=set)
    gone_at: float | None = None
    """When the last connection was lost; None while there is one."""


class RoomPresence:
    """The members of all rooms of one embedded shard."""

    # Mutable state: room -> user -> who; those lost, oldest first, as (time, room, user); and
    # the large rooms whose count changed since the last sweep.
    __slots__ = ("_cast", "_changed", "_limits", "_lost", "_rooms")

    def __init__(self, limits: PresenceLimits, cast: Callable[[Cast], None]) -> None:
        self._limits = limits
        self._cast = cast
        self._rooms: dict[RoomId, dict[UserId, _Here]] = {}
        self._lost: deque[tuple[float, RoomId, UserId]] = deque()
        self._changed: set[RoomId] = set()

    @property
    def has_work(self) -> bool:
        """Whether a sweep has, or will have, something to do."""
        return bool(self._lost or self._changed)

    def join(self, room: RoomId, user: UserId, connection: str, status: str, now: float) -> Members:
        """Put *connection* in; the others hear `user-joined` if the user was not there."""
        users = self._rooms.setdefault(room, {})
        here = users.get(user)
        if here is None:
            here = users[user] = _Here(status)
            self._tell(room, users, "user-joined", user, now, status=status)
        here.gone_at = None
        here.connections.add(connection)
        return self.members(room)

    def leave(
        self, room: RoomId, user: UserId, connection: str, now: float, *, with_grace: bool
    ) -> None:
        """Take *connection* out; the others hear `user-left` now, after the grace, or never."""
        here = self._rooms.get(room, {}).get(user)
        if here is None or connection not in here.connections:
            return
        here.connections.discard(connection)
        if here.connections:
            return
        if with_grace and self._limits.grace_s > 0:
            here.gone_at = now
            self._lost.append((now, room, user))
        else:
            self._remove(room, user, now)

    def set_status(self, room: RoomId, user: UserId, status: str) -> None:
        """Change the status of *user* if there; telling it is the caller's."""
        if here := self._rooms.get(room, {}).get(user):
            here.status = status

    def members(self, room: RoomId) -> Members:
        """Give who is in *room*, in the order they came."""
        users = self._rooms.get(room, {})
        if len(users) > self._limits.list_limit:
            return Members((), len(users))
        named = [Member(user, here.status) for user, here in users.items()]
        return Members(named, len(named))

    def sweep(self, now: float) -> None:
        """Let those leave whose grace is over, and cast the counts that changed."""
        while self._lost and self._lost[0][0] + self._limits.grace_s <= now:
            lost_at, room, user = self._lost.popleft()
            here = self._rooms.get(room, {}).get(user)
            if here is not None and here.gone_at == lost_at:
                self._remove(room, user, now)
        for room in self._changed:
            body = {"roomId": room, "count": len(self._rooms.get(room, {}))}
            self._cast(Cast(room, "presence-count", msgspec.json.encode(body)))
        self._changed.clear()

    def _remove(self, room: RoomId, user: UserId, now: float) -> None:
        users = self._rooms[room]
        del users[user]
        self._tell(room, users, "user-left", user, now)
        if not users:
            del self._rooms[room]

    def _tell(
        self,
        room: RoomId,
        users: dict[UserId, _Here],
        event: str,
        user: UserId,
        now: float,
        **more: str,
    ) -> None:
        if len(users) > self._limits.list_limit:
            self._changed.add(room)
            return
        body = {"userId": user, "roomId": room, **more, "timestamp": int(now * 1000)}
        self._cast(Cast(room, event, msgspec.json.encode(body), except_user=user))
