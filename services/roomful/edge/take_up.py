"""
A plain JSON client takes up where it was: `resume` names the rooms, on a connection that is
signed in and may be in rooms already. What a replay is, is in resume.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomful.edge.resume import Hole, Resumption
from roomful.protocol.errors import Refused
from roomful.protocol.operations import Resume
from roomful.shard.message import RoomId, user_room

if TYPE_CHECKING:
    from roomful.edge.connection import Connection
    from roomful.edge.edge import Edge

__all__ = ["BrokenOff", "take_up"]


class BrokenOff(Exception):
    """A replay ended in the middle because of *refused*."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused)
        self.refused = refused


async def take_up(edge: Edge, connection: Connection, op: Resume) -> tuple[bool, list[str]]:
    """
    Join the rooms of *op* and replay; what was heard live since the sign-in is not sent again.

    Returns:
        Whether nothing is missing, and the rooms that have holes.

    Raises:
        Refused: a room cannot be joined; nothing was.
        BrokenOff: after some of it may have been sent.
    """
    fanout, own = edge.fanout, user_room(connection.user)
    new = {RoomId(name) for name in op.rooms} - connection.rooms.keys()
    await _join_all(edge, connection, new)
    heard: dict[RoomId, range] = {}
    # All rooms wait: one that stayed live would carry a cursor past what is still to come.
    for room in connection.rooms.keys() - new:
        heard[room] = range(connection.rooms[room] + 1, edge.shards.heard(room) + 1)
        fanout.leave(connection, room)
    # A joined room that is not named is owed only what is newer than its join.
    named = {RoomId(name) for name in op.rooms} | {own}
    rooms = {room: 0 if room in named else at for room, at in connection.rooms.items()}
    try:
        resumption = Resumption(edge, connection, op.cursor, heard)
        await resumption.run(rooms, lambda: None)
    except Hole as hole:
        for room in rooms:
            await fanout.enter(connection, room)
        return False, [room for room in hole.rooms if room != own]
    except Refused as refused:
        raise BrokenOff(refused) from refused
    return True, []


async def _join_all(edge: Edge, connection: Connection, rooms: set[RoomId]) -> None:
    """Join *rooms*, not live yet, or none of them."""
    joined: list[RoomId] = []
    try:
        for room in rooms:
            await edge.router.join(connection, room, is_live=False)
            joined.append(room)
    except Refused as refused:
        for other in joined:
            await edge.router.leave(connection, other)
        raise Refused(refused.code, f"{room}: {refused.sentence}") from refused
