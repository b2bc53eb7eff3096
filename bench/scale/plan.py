"""Who there is in a load of many connections: which rooms, which edge, which load process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

__all__ = ["Crowd", "RoomKey", "Seats", "content_of", "read_content"]

RoomKey = bytes
"""A room within a run, as it stands in messages: `0.17` is room 17 of the first size."""

CONTENT_BYTES = 64  # a chat line


@dataclass(frozen=True, slots=True)
class Crowd:
    """
    So many *connections* on *edges* edges, held by as many load processes.

    Each is in one room of each of *sizes*: all rooms of a size have so many members. With
    *has_announcer* there is one connection more, which is in all rooms and alone sends.
    """

    connections: int
    edges: int
    sizes: tuple[int, ...]
    has_announcer: bool = False

    @property
    def per_edge(self) -> int:
        """The most connections that an edge, or a load process, holds while all edges are up."""
        return -(-self.connections // self.edges) + self.has_announcer

    @property
    def rooms(self) -> list[int]:
        """How many rooms there are of each size."""
        return [-(-self.connections // size) for size in self.sizes]


class Seats:
    """
    Who is in which room: drawn by lot, and the same in every process.

    So a room's members are spread over all edges and load processes as chance has it.
    """

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        numbers = range(crowd.connections)
        # The same numbers in each process, not secrets.
        self._places = [
            Random(size).sample(numbers, crowd.connections)  # noqa: S311
            for size in crowd.sizes
        ]

    def rooms_of(self, number: int) -> list[RoomKey]:
        """Give the rooms of connection *number*."""
        crowd = self._crowd
        if number == crowd.connections:
            return [key for kind in range(len(crowd.sizes)) for key in self.rooms(kind)]
        return [
            b"%d.%d" % (kind, places[number] // size)
            for kind, (places, size) in enumerate(zip(self._places, crowd.sizes, strict=True))
        ]

    def rooms(self, kind: int) -> Iterator[RoomKey]:
        """Give all rooms of a size."""
        return (b"%d.%d" % (kind, room) for room in range(self._crowd.rooms[kind]))

    def sends_to(self, number: int) -> list[RoomKey]:
        """Give the rooms whose only sender connection *number* is."""
        crowd = self._crowd
        if crowd.has_announcer:
            return self.rooms_of(number) if number == crowd.connections else []
        rooms = zip(self.rooms_of(number), self._places, crowd.sizes, strict=True)
        return [room for room, places, size in rooms if places[number] % size == 0]

    def numbers_of(self, process: int) -> Sequence[int]:
        """Give the connections that a load process holds; the announcer is with the first."""
        numbers = list(range(process, self._crowd.connections, self._crowd.edges))
        if self._crowd.has_announcer and process == 0:
            numbers.append(self._crowd.connections)
        return numbers


def content_of(room: RoomKey, number: int, due_ns: int) -> str:
    """Give what message *number* of *room*, due at *due_ns*, says."""
    return f"{room.decode()}:{number}:{due_ns}:".ljust(CONTENT_BYTES, ".")


_CONTENT = b'"content":"'


def read_content(packet: bytes) -> tuple[RoomKey, int, int]:
    """Read room, number and nanoseconds due out of the packet of a message."""
    begin = packet.index(_CONTENT) + len(_CONTENT)
    room, number, due_ns, _ = packet[begin : begin + CONTENT_BYTES].split(b":", 3)
    return room, int(number), int(due_ns)
