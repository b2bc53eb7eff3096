"""
The keys of a shard on Redis that an edge names. The tag in braces is the bucket: all keys of one
bucket have it, and only those.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from roomful.cluster.placement import bucket_of
from roomful.shard.message import RoomId

__all__ = [
    "LOGS",
    "bucket_key",
    "log_key",
    "log_place",
    "presence_key",
    "room_of",
    "session_key",
]

LOGS: Final = "{*}l:*"
"""What SCAN finds the logs of all rooms by."""


def bucket_key(bucket: int) -> bytes:
    """Give the key of a bucket's record."""
    return b"{%d}b" % bucket


def log_key(room: RoomId) -> bytes:
    """Give the key of a room's log."""
    return b"{%d}l:%b" % (bucket_of(room), room.encode())


@lru_cache(maxsize=16_384)
def log_place(room: RoomId) -> tuple[int, bytes]:
    """Give a room's bucket and the key of its log; remembered for those that are published to."""
    bucket = bucket_of(room)
    return bucket, b"{%d}l:%b" % (bucket, room.encode())


def room_of(log: bytes) -> RoomId:
    """Give the room whose log has this key."""
    return RoomId(log.split(b"}l:", 1)[1].decode())


def presence_key(room: RoomId) -> bytes:
    """Give the key of who is in a room."""
    return b"{%d}p:%b" % (bucket_of(room), room.encode())


def session_key(pid: str) -> bytes:
    """Give the key of a session's record."""
    return b"{%d}o:%b" % (bucket_of(pid), pid.encode())
