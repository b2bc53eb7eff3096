"""
What is asked of a shard on Redis about one of its rooms, buckets or sessions.

Each call raises Elsewhere if the bucket is not here, frozen or of another version than the caller
believes, or if the shard has another term; LostConnection if no reply came; Refused (INTERNAL) if
it would fail again. After the first two the caller asks again (routes.py knows where), so every
call may be repeated, but for the taking up of a session: that is Refused where no reply came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.lineage import Segment
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import PAGE_BYTES, Joined, Member, Members, Page, SessionRecord
from roomful.shard.calls import Calls
from roomful.shard.erasure import Erasure
from roomful.shard.keys import bucket_key, log_key, presence_key, session_key
from roomful.shard.lease import Lease
from roomful.shard.message import Entry, RoomId, UserId, user_room
from roomful.shard.presence import PresenceLimits
from roomful.shard.refusals import Elsewhere
from roomful.shard.resp import LostConnection

__all__ = ["RoomCalls"]

_encode: Final = msgspec.msgpack.Encoder().encode
_entries: Final = msgspec.msgpack.Decoder(list[Entry]).decode
_lineage: Final = msgspec.msgpack.Decoder(
    list[tuple[ShardName, int, list[tuple[int, int]], int]]
).decode
_record: Final = msgspec.msgpack.Decoder(SessionRecord).decode


class RoomCalls:
    """The calls to one shard that are about something in one bucket."""

    def __init__(
        self, calls: Calls, lease: Lease, *, presence: PresenceLimits, age_ms: int
    ) -> None:
        """
        Ask over *calls*; connections join under *lease*.

        Args:
            age_ms: entries that are older are not on a page.
        """
        self._calls = calls
        self._lease = lease
        self._presence = presence
        self._age_ms = age_ms

    # Presence -------------------------------------------------------------------------------

    async def join(
        self, version: int, room: RoomId, user: UserId, connection: str, status: str
    ) -> Joined:
        """Record *connection* of *user* in the room's presence."""
        await self._lease.held()
        limit = self._presence.list_limit
        who = (self._lease.name, connection, user, status)
        try:
            newest, *listed = await self._calls.call(
                "join", [presence_key(room)], version, *who, limit, limit
            )
        except Elsewhere as exc:
            if exc.words == "NO_LEASE":
                self._lease.renew_soon()
            raise
        return Joined(newest, _members(listed))

    async def leave(
        self, version: int, room: RoomId, user: UserId, connection: str, *, with_grace: bool
    ) -> None:
        """Take *connection* out of the room's presence."""
        grace_ms = int(self._presence.grace_s * 1000) if with_grace else 0
        who = (self._lease.name, connection, user)
        limit = self._presence.list_limit
        await self._calls.call("leave", [presence_key(room)], version, *who, grace_ms, limit)

    async def set_status(self, version: int, room: RoomId, user: UserId, status: str) -> None:
        """Change the user's status in the room's presence."""
        await self._calls.call("set_status", [presence_key(room)], version, user, status)

    async def members(self, room: RoomId) -> Members:
        """Give who is in the room."""
        limit = self._presence.list_limit
        return _members(await self._calls.call("members", [presence_key(room)], limit))

    # The log --------------------------------------------------------------------------------

    async def page(
        self, room: RoomId, *, before: int | None, after: int | None, limit: int
    ) -> Page:
        """Give a page of the room's log."""
        bounds = ["" if bound is None else bound for bound in (before, after)]
        following, packed = await self._calls.call(
            "page", [log_key(room)], *bounds, limit, PAGE_BYTES, self._age_ms
        )
        return Page(_entries(packed), following or None)

    async def lineage(self, bucket: int) -> Sequence[Segment]:
        """Give where what is in a bucket that is here was stored, oldest first."""
        _, packed = await self._calls.call("lineage", [bucket_key(bucket)])
        return [
            Segment(shard, upto, [(kept, began) for began, kept in terms])
            for shard, upto, terms, _ in _lineage(packed)
        ]

    async def erase(self, version: int, room: RoomId, erasure: Erasure) -> int:
        """Let go of what *erasure* covers in the room's log; gives how many messages were."""
        offset = "" if erasure.offset is None else erasure.offset
        # All of a user's own room goes.
        user = "" if erasure.user is None or room == user_room(erasure.user) else erasure.user
        what = (erasure.at_ms, offset, user)
        return int(await self._calls.call("erase", [log_key(room)], version, *what))

    # Sessions -------------------------------------------------------------------------------

    async def save_session(
        self, version: int, record: SessionRecord, ttl_s: float, *, is_taken: bool
    ) -> bool:
        """Keep *record*; False: somebody else has taken the session up."""
        what = (record.generation, _encode(record), int(ttl_s * 1000), int(is_taken))
        key = session_key(record.pid)
        try:
            return bool(await self._calls.call("save_session", [key], version, *what))
        except LostConnection as exc:
            if not is_taken:
                raise
            # A second time it would meet its own generation, and take it for somebody else's.
            why = "it is not known whether the session was taken up"
            raise Refused(RefusalCode.SHARD_UNAVAILABLE, why) from exc

    async def load_session(self, pid: str) -> SessionRecord | None:
        """Give the record of *pid* if it is still kept."""
        packed = await self._calls.call("load_session", [session_key(pid)])
        return None if packed is None else _record(packed)

    async def drop_session(self, version: int, record: SessionRecord) -> None:
        """Forget the record, unless it was taken up elsewhere."""
        key = session_key(record.pid)
        await self._calls.call("drop_session", [key], version, record.generation)


def _members(listed: list[Any]) -> Members:
    count, *pairs = listed
    words = [word.decode() for word in pairs]
    members = [
        Member(UserId(user), status) for user, status in zip(words[::2], words[1::2], strict=True)
    ]
    return Members(members, count)
