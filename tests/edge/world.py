"""
Edges and shards in one process, where the test decides what happens next: real connections on
real edges, shards behind lines that delay, and a client whose reading, cuts and resumes are steps.

After every packet that the client reads it is checked what the cursor means: of all that is owed
to it, exactly what it has received is at or below its cursor. So whenever it is cut, the next
resume has to bring the rest, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from edge.lettered import LetteredShards, Map
from edge.transport import FakeTransport
from roomful.cluster.cursor import ShardName, decode_cursor
from roomful.cluster.lineage import find_owed
from roomful.edge.auth import AuthSettings
from roomful.edge.edge import Edge
from roomful.edge.encoding import Wire
from roomful.edge.resume import MOVE_S
from roomful.edge.room import Carrier
from roomful.edge.settings import Settings
from roomful.edge.socketio_connection import SocketIoConnection
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryShard
from roomful.shard.message import RoomId
from shard.clock import EPOCH_S, ClockLoop, settle
from shard.delaying import DelayingShard, Gates, Storage
from shard.recording import make_envelope
from support.tokens import SECRET, make_token

__all__ = ["Client", "ShardedEdge", "World", "make_settings"]

ROOMS = ("a1", "a2", "b1", "b2")
"""Rooms whose first letter says their shard."""


def make_settings() -> Settings:
    """Make the settings of an edge that knows the tests' tokens."""
    return Settings(auth=AuthSettings(secret=SECRET), state_dir="")


class ShardedEdge(Edge):
    """An edge whose rooms are on several shards: the first letter of a room says which."""

    def __init__(self, shards: dict[str, DelayingShard], rooms: Map) -> None:
        self.lines = list(shards.values())
        super().__init__(make_settings(), shards=LetteredShards(shards, rooms))


class World:
    """Two edges on one or two shards, and one client."""

    # Mutable state: the number of messages published; who holds what is in edges and storages.
    def __init__(
        self,
        *,
        shards: str = "ab",
        hears_all: bool = True,
        upgrades: bool = False,
        page_messages: int = 1_000,
        kept: int = 10_000,
        has_zombies: bool = False,
    ) -> None:
        """
        Make the edges and the client; nothing is connected.

        Args:
            shards: their names; a room is on the one that its name begins with, else on the first.
            hears_all: an edge hears of rooms that it does not hold too, as embedded.
            upgrades: the client begins on polling.
            page_messages: how many a replay reads at a time.
            kept: messages that a room's log keeps.
            has_zombies: an edge may not know that its connection is gone when the client is back.
        """
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockLoop)
        size = make_envelope("a1", "0").size
        log = LogLimits(messages_per_room=kept, age_s=1e9)
        self.storages: dict[str, Storage] = {}
        for letter in shards:
            memory = MemoryShard(log_limits=log, now=loop.wall_time)
            memory._name = ShardName(letter)
            self.storages[letter] = Storage(memory)
        self.gates = Gates()
        self.map = Map(self.storages)
        self.edges = [
            ShardedEdge(
                {
                    letter: DelayingShard(
                        storage,
                        gate=self.gates,
                        is_prompt=False,
                        hears_all=hears_all,
                        page_bytes=page_messages * size,
                    )
                    for letter, storage in self.storages.items()
                },
                self.map,
            )
            for _ in range(2)
        ]
        for edge in self.edges:
            edge.start()
        self.lines = [line for edge in self.edges for line in edge.lines]
        self.has_zombies = has_zombies
        self.client = Client(self, upgrades=upgrades)
        self._count = 0

    def letter_of(self, room: str) -> str:
        """Give the name of the shard that has *room*."""
        return self.map.letter_of(room)

    def move(self, room: str, *, is_broken: bool) -> None:
        """Let *room* be on the other shard; *is_broken*: edges do not hear it to its end."""
        self.map.move(RoomId(room), is_broken=is_broken)

    def publish(self, rooms: Sequence[str]) -> None:
        """Store a message in each of *rooms*, as one batch a shard."""
        for room in rooms:
            self._count += 1
            name = f"m{self._count}"
            body = b'{"id":"%b","roomId":"%b"' % (name.encode(), room.encode())
            envelope = make_envelope(room, name, body=body, at_s=EPOCH_S)
            self.storages[self.letter_of(room)].memory.publish(
                envelope, lambda _: None, is_named=False
            )

    async def finish(self) -> None:
        """Let everything come to rest: gates open, streams flow, the client reads and stays."""
        self.gates.is_open = True
        is_moving, rounds = True, 0
        while is_moving:
            rounds += 1
            assert rounds < 200, "this never comes to rest"
            is_moving = await self._flow()
            if not is_moving:
                # What tries again in a moment has a moment.
                await asyncio.sleep(2 * MOVE_S)
                is_moving = await self._flow()

    async def _flow(self) -> bool:
        """Let happen what can happen now; False: nothing did."""
        while self.gates.open_one(0):
            pass
        await settle()
        is_moving = [line.deliver(1 << 30) for line in self.lines].count(True) > 0
        await settle()
        is_moving |= self.client.read(1000) > 0
        if not self.client.is_connected:
            self.client.connect(0)
            is_moving = True
        await settle()
        return is_moving

    async def aclose(self) -> None:
        """Close the edges."""
        self.gates.is_open = True
        for edge in self.edges:
            await edge.aclose()
        for storage in self.storages.values():
            await storage.memory.aclose()


class Client:
    """
    A stock client as the wire sees it: keeps the last cursor and its pid, resumes with them.
    """

    # Mutable state: the connection; pid and cursor; the rooms it was told it is in with their
    # join offsets; and what it has received of this session, in order.
    def __init__(self, world: World, *, upgrades: bool) -> None:
        self._world = world
        self._upgrades = upgrades
        self._edge: Edge = world.edges[0]
        self._connection: SocketIoConnection | None = None
        self._transport = FakeTransport()
        self._dead: list[SocketIoConnection] = []
        self._is_signed_in = False
        self._asked: list[str] = []
        self._replayed: dict[RoomId, int] = {}
        self.pid: str | None = None
        self.cursor: str | None = None
        self.rooms: dict[str, int] = {}
        self.received: list[tuple[str, int, str]] = []
        self._newest: dict[str, int] = {}
        self.recoveries = 0
        self.failures = 0

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection that is not known to be gone."""
        return self._connection is not None

    def connect(self, edge: int) -> None:
        """Connect to the edge of that number, and resume if there is something to resume."""
        if self._connection is not None:
            return
        if not self._world.has_zombies:
            self.notice()
        self._edge = self._world.edges[edge]
        self._is_signed_in = False
        self._replayed = {}
        self._transport = FakeTransport(Carrier.POLL if self._upgrades else Carrier.SOCKET)
        self._connection = SocketIoConnection(self._edge, self._transport, Wire.CURSOR, "")
        self._transport.on_closed = self._connection.on_closed
        auth: dict[str, str] = {"token": make_token("alice")}
        if self.pid is not None and self.cursor is not None:
            auth |= {"pid": self.pid, "offset": self.cursor}
        self._connection.on_text(b"0" + msgspec.json.encode(auth))

    def upgrade(self) -> None:
        """Go over from polling to a WebSocket."""
        if self._connection is not None and self._transport.carrier is Carrier.POLL:
            self._transport.carrier = Carrier.SOCKET
            self._connection.on_upgraded()

    def join(self, room: str) -> None:
        """Ask to be let into *room*."""
        connection = self._connection
        if connection is not None and self._is_signed_in:
            self._asked.append(room)
            connection.on_text(b'2%d["join-room","%b"]' % (len(self._asked) - 1, room.encode()))

    def cut(self) -> None:
        """Lose the connection with all that is unread; the edge need not know yet."""
        if self._connection is not None:
            self._dead.append(self._connection)
            self._connection = None

    def notice(self) -> None:
        """Let the edges know which connections are gone."""
        dead, self._dead = self._dead, []
        for connection in dead:
            connection.on_closed()

    def read(self, count: int) -> int:
        """Read up to *count* packets, each checked; gives how many there were."""
        if self._connection is None:
            return 0
        packets = self._transport.take(count)
        for packet in packets:
            self._take(packet.decode())
            self.check()
        if self._transport.closed_with is not None and not self._transport.unread:
            self._connection = None
        return len(packets)

    def _take(self, packet: str) -> None:
        if packet.startswith("40"):
            self._connected(msgspec.json.decode(packet[2:])["pid"])
        elif packet.startswith("43"):
            number, _, body = packet[2:].partition("[")
            self._acknowledged(self._asked[int(number)], msgspec.json.decode("[" + body)[0])
        else:
            assert packet.startswith("42"), packet
            self._event(*msgspec.json.decode(packet[2:]))

    def _connected(self, pid: str) -> None:
        self._is_signed_in = True
        if pid == self.pid:
            self.recoveries += 1
            self._replayed = dict(self._recorded())
        else:
            # A session that begins is in no room, and owes nothing for what was before.
            self.failures += self.pid is not None
            self.pid, self.cursor = pid, None
            self.rooms, self.received, self._asked = {}, [], []
            self._newest = {}
        self._learn_rooms(self._recorded())

    def _recorded(self) -> dict[RoomId, int]:
        assert self._connection is not None
        return self._connection.rooms

    def _acknowledged(self, room: str, answer: dict[str, Any]) -> None:
        assert answer["success"], answer
        # The edge may have closed it since: then the rooms are told when it resumes.
        if (joined := self._recorded().get(RoomId(room))) is not None:
            self._learn_rooms({RoomId(room): joined})

    def _learn_rooms(self, rooms: dict[RoomId, int]) -> None:
        self.rooms |= {room: joined for room, joined in rooms.items() if room in ROOMS}

    def _event(self, name: str, *arguments: Any) -> None:
        if name == "message":
            body = arguments[0]
            room, offset = body["roomId"], body["offset"]
            assert room in self.rooms or room in self._asked, f"{room} was not joined"
            assert offset > self._replayed.get(room, 0), f"{room}: {offset} is from before the join"
            shard = self._world.map.origin_of(room, offset)
            newest = max((one for at, one, _ in self.received if at == shard), default=0)
            assert offset > newest, f"{shard}.{offset} came after {shard}.{newest}"
            assert offset > self._newest.get(room, 0), f"{room}: {offset} came late"
            self._newest[room] = offset
            self.received.append((shard, offset, body["id"]))
        if isinstance(arguments[-1], str):
            self.cursor = arguments[-1]

    # Checks ---------------------------------------------------------------------------------

    def owed(self, room: str | None = None) -> list[tuple[str, int, str]]:
        """Give all messages, ever, of the rooms it is in (or one) since it joined them."""
        return [
            (letter, entry.offset, entry.envelope.id)
            for letter, storage in self._world.storages.items()
            for entry in storage.entries()
            if entry.offset > self.rooms.get(entry.envelope.room, 1 << 60)
            and room in (None, entry.envelope.room)
        ]

    def check(self) -> None:
        """Check that the cursor tells what was received from what was not."""
        if self.cursor is None:
            return
        received = set(self.received)
        for room, joined in self.rooms.items():
            _, home, segments = self._world.map.at(room)
            stretches = find_owed(segments, ShardName(home), decode_cursor(self.cursor), joined)
            assert stretches is not None, f"cursor {self.cursor} says nothing of {room}"
            for one in self.owed(room):
                is_told = not any(
                    stretch.origin == one[0]
                    and max(stretch.after, stretch.low) < one[1]
                    and (stretch.upto is None or one[1] <= stretch.upto)
                    for stretch in stretches
                )
                assert is_told == (one in received), (
                    f"{one} is {'' if one in received else 'not '}received, cursor {self.cursor}"
                )
