"""
A shard stream against a server that is simulated as Redis works: one thing after another.

The server does requests and publishes when hypothesis says so; what it sends waits on the wire
until it is read, or is lost with the connection. The sink checks at each call what a client could
find out later: order, doubles, and that no cursor hides an entry that was not delivered.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from roomful.cluster.cursor import ShardName
from roomful.shard.held import StreamLimits
from roomful.shard.message import Cast, Entry, RoomId
from roomful.shard.stream import ShardStream
from roomful.shard.terms import Terms
from shard.stream_server import ROOMS, Hearing, Server

__all__ = ["StreamModel"]

rooms = st.sampled_from(ROOMS)


class StreamModel(RuleBasedStateMachine):
    """Implements Sink, too: what is delivered is what was stored, once, and in order."""

    # Mutable state: the server, the stream under test, and what each holding heard.
    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        limits = StreamLimits(waiting_bytes=3000, fill_bytes=3000, page_bytes=1000, share_rooms=2)
        self.stream = ShardStream(ShardName("s1"), self, limits)
        self.hearings: dict[RoomId, Hearing] = {}
        self.is_connected = False
        self.newest = 0
        self.cursor = 0
        self.ghosts: set[int] = set()
        self.arrivals: dict[RoomId, int] = {}
        """Rooms that have come from another shard and are not held here yet, with their since."""
        self.barred: set[RoomId] = set()

    # Sink -----------------------------------------------------------------------------------

    def deliver(self, shard: ShardName, room: RoomId, entries: Sequence[Entry]) -> None:
        """Check the order, and that the cursor that goes out with each hides nothing."""
        hearing = self.hearings[room]
        for entry in entries:
            assert entry.envelope.room == room
            if not self.server.dropped:
                assert entry.offset > self.newest
            self.newest = entry.offset
            assert not hearing.heard or entry.offset > hearing.heard[-1]
            hearing.heard.append(entry.offset)
            self._check_cursor(entry.offset)

    def cast(self, cast: Cast) -> None:
        """It may come or not."""
        assert cast.room in self.hearings

    def flush(self) -> None:
        """Nothing is held back."""

    def reach(self, shard: ShardName, offset: int) -> None:
        """Check that it hides nothing."""
        assert offset > self.cursor
        self._check_cursor(offset)

    def lose(self, shard: ShardName, rooms: Sequence[RoomId], *, can_resume: bool) -> None:
        """Note it; there must be a reason."""
        for room in rooms:
            hearing = self.hearings[room]
            if can_resume:
                assert self.server.floors[room] > 0
            else:
                assert set(hearing.heard) & self.ghosts
            hearing.lost = True

    def _check_cursor(self, offset: int) -> None:
        self.cursor = max(self.cursor, offset)
        for room, since in self.arrivals.items():
            assert self.cursor < since, f"{room} is not heard yet"
        for room, hearing in self.hearings.items():
            if not hearing.lost and room not in self.server.dropped:
                assert self._owed(hearing, room, self.cursor) <= set(hearing.heard)

    def _owed(self, hearing: Hearing, room: RoomId, up_to: int) -> set[int]:
        if hearing.since is None:
            return set()
        return {
            entry.offset
            for entry in self.server.logs[room]
            if hearing.since < entry.offset <= up_to
        }

    # Rules ----------------------------------------------------------------------------------

    def _send(self) -> None:
        self.server.inbox.extend(self.stream.take_requests())

    @rule(room=rooms, moves_in=st.booleans())
    def hold(self, room: RoomId, moves_in: bool) -> None:
        """Somebody enters a room, from now on, or from where another reader left it."""
        if room in self.hearings or room in self.arrivals:
            return
        after = max(self.server.tail(room), self.cursor) if moves_in else None
        hearing = Hearing(self.stream.hold(room, after), after)
        self.hearings[room] = hearing

        def ready() -> None:
            if hearing.since is None:
                hearing.since = self.server.seq

        if hearing.held.is_ready:
            ready()
        hearing.held.on_ready = ready

    @rule(room=rooms)
    def arrive(self, room: RoomId) -> None:
        """A room that members are in comes from another shard, and takes messages at once."""
        if room in self.hearings or room in self.arrivals:
            return
        self.server.seq += 1
        self.arrivals[room] = since = self.server.seq
        if self.is_connected:
            self.server.wire.append(lambda stream: self._bar(room, since))

    def _bar(self, room: RoomId, since: int) -> None:
        self.stream.bar(room, since)
        self.barred.add(room)

    @rule(number=st.integers(0, 4))
    def bring(self, number: int) -> None:
        """The other shard was heard to its end: the room is held from its arrival on."""
        if not self.barred:
            return
        room = sorted(self.barred)[number % len(self.barred)]
        self.barred.discard(room)
        since = self.arrivals.pop(room)
        hearing = self.hearings[room] = Hearing(self.stream.hold(room, since), since)
        hearing.is_brought = True
        self.stream.unbar(room)
        self._send()

    @rule(room=rooms, is_back=st.booleans(), is_said=st.booleans())
    def release(self, room: RoomId, is_back: bool, is_said: bool) -> None:
        """The last one leaves, and perhaps comes back at once."""
        if (hearing := self.hearings.pop(room, None)) is None:
            return
        heard = self.stream.release(room)
        if hearing.heard and not hearing.lost:
            assert heard is not None
            if hearing.since is not None:
                owed = self._owed(hearing, room, heard)
                assert room in self.server.dropped or owed <= set(hearing.heard)
        if is_said:
            self._send()
        if is_back:
            self.hold(room, moves_in=False)

    @rule(
        batch=st.lists(st.tuples(rooms, st.integers(1, 3)), min_size=1, max_size=4),
        is_big=st.booleans(),
    )
    def publish(self, batch: list[tuple[RoomId, int]], is_big: bool) -> None:
        """Batches, between which the server does what it was asked."""
        self._send()
        for room, count in batch:
            if self._is_active(room):
                self.server.publish(room, count, is_big=is_big)
            if self.server.inbox:
                self.server.step()

    def _is_active(self, room: RoomId) -> bool:
        """Whether the bucket takes messages: one that moves here does once the room is heard."""
        hearing = self.hearings.get(room)
        if hearing is None or hearing.since is None or hearing.is_brought:
            return True
        return hearing.held.is_ready

    @rule(room=rooms)
    def cast_something(self, room: RoomId) -> None:
        """Somebody types."""
        self.server.cast(room)

    @rule(room=rooms, count=st.integers(1, 3))
    def trim(self, room: RoomId, count: int) -> None:
        """The log does not reach back as far any more."""
        self.server.trim(room, count)

    @precondition(lambda self: self.is_connected)
    @rule(room=rooms, is_followed=st.booleans())
    def lose_publication(self, room: RoomId, is_followed: bool) -> None:
        """A publication goes missing although the connection stands."""
        if not self._is_active(room):
            return
        self.server.drops_next = True
        self.server.publish(room, 2, is_big=False)
        self.server.drops_next = False
        if is_followed:
            self.server.publish(room, 1, is_big=False)

    @rule(count=st.integers(1, 20))
    def work(self, count: int) -> None:
        """The server does some of what it was asked."""
        self._send()
        for _ in range(min(count, len(self.server.inbox))):
            self.server.step()

    @rule(count=st.integers(1, 30))
    def read(self, count: int) -> None:
        """Some of what is on the wire arrives."""
        for _ in range(min(count, len(self.server.wire))):
            self.server.wire.popleft()(self.stream)
        self.stream.end_burst()
        self._send()

    @precondition(lambda self: self.is_connected)
    @rule()
    def canary(self) -> None:
        """Time passes."""
        self.server.canary()
        self.stream.audit(2)

    @precondition(lambda self: not self.is_connected)
    @rule()
    def connect(self) -> None:
        """A new connection stands."""
        self.is_connected = True
        self.stream.connect(Terms(self.server.seq, self.server.failovers))
        for room, since in self.arrivals.items():
            if room not in self.barred:
                self._bar(room, since)

    @precondition(lambda self: self.is_connected)
    @rule()
    def cut(self) -> None:
        """What is on the wire is lost with the connection."""
        self.is_connected = False
        self.server.wire.clear()
        self.server.inbox.clear()
        self.server.subscribed.clear()
        self.stream.disconnect()

    @rule(back=st.integers(0, 4))
    def fail_over(self, back: int) -> None:
        """The primary is gone, with what it did not replicate."""
        if self.is_connected:
            self.cut()
        stored = self._stored()
        self.server.fail_over(back)
        self.ghosts |= stored - self._stored()

    def _stored(self) -> set[int]:
        return {entry.offset for log in self.server.logs.values() for entry in log}

    @rule()
    def settle(self) -> None:
        """When nothing is on its way any more, everyone has heard everything."""
        if not self.is_connected:
            self.connect()
        self._pump()
        while self.barred:
            self.bring(0)
        self._pump()
        # Two times around: what was lost without a trace is found by asking.
        for _ in range(2 * len(ROOMS)):
            self.canary()
            self._pump()
        assert self.stream.is_live
        assert self.stream.position == self.server.seq
        for room, hearing in self.hearings.items():
            assert hearing.since is not None
            if not hearing.lost:
                assert self._owed(hearing, room, self.server.seq) <= set(hearing.heard)
                assert not set(hearing.heard) & self.ghosts
        self.server.dropped.clear()

    def _pump(self) -> None:
        for _ in range(10_000):
            self.work(100)
            self.read(100)
            if not self.server.inbox and not self.server.wire:
                return
        raise AssertionError("it never comes to rest")

    def teardown(self) -> None:
        """However it was, it ends well."""
        self.settle()
