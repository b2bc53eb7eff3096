"""Room logs and the embedded shard against models too simple to be wrong."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from roomful.protocol.errors import Refused
from roomful.shard.base import Stored
from roomful.shard.log import LogLimits, RoomLogs
from roomful.shard.memory import MemoryLimits, MemoryShard, MemoryState
from roomful.shard.message import Entry, RoomId
from shard.clock import EPOCH_S, ClockLoop
from shard.recording import RecordingSink, make_envelope, publish

ROOMS = st.sampled_from([RoomId(name) for name in "abc"])
ROOM_SETS = st.sets(ROOMS, min_size=1)
SIZE = make_envelope("a", "0").size


class LogModel(RuleBasedStateMachine):
    """
    RoomLogs against a list of all entries there ever were.

    The model keeps everything and works out each answer from the limits: an entry is gone when
    messages_per_room newer ones are in its room, or when trim() had to let go of it.
    """

    # Mutable state: all entries ever, and which of them are kept.
    @initialize(
        per_room=st.integers(1, 5),
        total=st.integers(3, 12),
        age_s=st.sampled_from([5.0, 50.0, 1e6]),
    )
    def begin(self, per_room: int, total: int, age_s: float) -> None:
        """Choose the limits."""
        self.limits = LogLimits(per_room, age_s, total * SIZE)
        self.logs = RoomLogs(self.limits)
        self.entries: list[Entry] = []
        self.kept: list[Entry] = []
        self.offset = 0
        self.now_s = EPOCH_S

    @rule(room=ROOMS, extra=st.integers(0, 2 * SIZE), gap=st.integers(1, 3))
    def append(self, room: RoomId, extra: int, gap: int) -> None:
        """A message comes; offsets may leave some out."""
        self.offset += gap
        body = b"x" * extra
        envelope = make_envelope(room, str(self.offset), body=body, at_s=self.now_s)
        entry = Entry(self.offset, envelope)
        self.logs.append(entry)
        self.entries.append(entry)
        self.kept.append(entry)
        mine = [one for one in self.kept if one.envelope.room == room]
        for gone in mine[: -self.limits.messages_per_room]:
            self.kept.remove(gone)

    @rule(seconds=st.integers(0, 30))
    def trim(self, seconds: int) -> None:
        """Time passes, and the shard tidies up."""
        self.now_s += seconds
        self.logs.trim(int(self.now_s * 1000))
        oldest_ms = (self.now_s - self.limits.age_s) * 1000
        while self.kept and (
            self.kept[0].envelope.timestamp < oldest_ms
            or sum(one.envelope.size for one in self.kept) > self.limits.total_bytes
        ):
            del self.kept[0]

    @rule()
    def restart(self) -> None:
        """Another process takes over."""
        logs = RoomLogs(self.limits)
        logs.restore(list(self.logs.entries()), self.logs.floors(), self.logs.forgotten)
        self.logs = logs

    @rule(rooms=ROOM_SETS, back=st.integers(0, 20), joined=st.integers(0, 20), limit=st.data())
    def read(self, rooms: set[RoomId], back: int, joined: int, limit: st.DataObject) -> None:
        """A client resumes: all that is owed, or a hole; never a gap that nobody names."""
        after = max(0, self.offset - back)
        join = max(0, self.offset - joined)
        limit_bytes = limit.draw(st.integers(1, 8 * SIZE))
        replay = self.logs.read(dict.fromkeys(rooms, join), after, self.offset, limit_bytes)
        owed = [
            one
            for one in self.entries
            if one.envelope.room in rooms and one.offset > max(after, join)
        ]
        lost = {one.envelope.room for one in owed if one not in self.kept}
        assert lost <= set(replay.holes)
        # A room that is forgotten altogether may be said to have a hole when it has none, so
        # long as it did lose something above the cursor or has nothing left to tell from.
        assert all(self.logs.forgotten > max(after, join) for _ in set(replay.holes) - lost)
        if replay.holes:
            assert not replay.entries
            return
        page = list(replay.entries)
        assert page == owed[: len(page)]
        if len(page) < len(owed):
            assert page
            assert (replay.reached, replay.is_complete) == (page[-1].offset, False)
            assert sum(one.envelope.size for one in owed[: len(page) + 1]) > limit_bytes
        else:
            assert (replay.reached, replay.is_complete) == (self.offset, True)

    @rule(
        room=ROOMS,
        before=st.none() | st.integers(0, 40),
        after=st.none() | st.integers(0, 40),
        limit=st.integers(1, 4),
    )
    def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> None:
        """History: exactly what is kept, from the asked end."""
        wanted = [
            one
            for one in self.kept
            if one.envelope.room == room
            and (before is None or one.offset < before)
            and (after is None or one.offset > after)
        ]
        expected = wanted[-limit:] if after is None else wanted[:limit]
        page = self.logs.page(room, before=before, after=after, limit=limit)
        assert list(page.entries) == expected
        if len(expected) == len(wanted):
            assert page.next is None
        else:
            assert page.next == expected[0 if after is None else -1].offset

    @invariant()
    def keeps_what_it_should(self) -> None:
        """The entries over all rooms, in order, and their bytes."""
        if hasattr(self, "logs"):
            assert list(self.logs.entries()) == self.kept
            assert len(self.logs) == len(self.kept)
            assert self.logs.bytes == sum(one.envelope.size for one in self.kept)


BATCH = st.lists(st.tuples(ROOMS, st.sampled_from("uv"), st.sampled_from("xyz"), st.booleans()))


class ShardModel(RuleBasedStateMachine):
    """MemoryShard's publishing against dictionaries: offsets, order, ids and what is heard."""

    # Mutable state: how many offsets were given; ids with when they lapse and their answer.
    def __init__(self) -> None:
        super().__init__()
        self.loop = ClockLoop()
        self.limits = MemoryLimits(id_window_s=50, ids=4, pending_bytes=6 * SIZE)
        self.given = 0
        self.ids: dict[tuple[str, str, str], tuple[float, Stored]] = {}
        self.begin_process(None)

    def begin_process(self, state: MemoryState | None) -> None:
        """Make the shard, from what another left."""
        self.sink = RecordingSink()
        self.shard = MemoryShard(limits=self.limits, now=self.loop.wall_time)
        self.shard.attach(self.sink)
        if state is not None:
            self.shard.restore(state)

    def teardown(self) -> None:
        """Close."""
        self.loop.run_until_complete(self.shard.aclose())
        self.loop.close()

    @rule(seconds=st.integers(1, 60))
    def pass_time(self, seconds: int) -> None:
        """Nothing happens for a while."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule()
    def restart(self) -> None:
        """Another process takes over."""
        state = self.shard.dump()
        data = msgspec.msgpack.encode(state)
        self.begin_process(msgspec.msgpack.decode(data, type=MemoryState))

    @rule(batch=BATCH)
    def publish(self, batch: list[tuple[RoomId, str, str, bool]]) -> None:
        """Some messages in one turn of the loop: one batch."""
        outcomes = self.loop.run_until_complete(self._publish(batch))
        refused = [one for one in outcomes[6:] if isinstance(one, Refused)]
        assert len(refused) == len(outcomes[6:])
        now = self.loop.wall_time()
        self._forget(now)
        expected: dict[int, Stored] = {}
        heard: list[tuple[RoomId, list[int]]] = []
        for room in dict.fromkeys(room for room, *_ in batch[:6]):
            mine = []
            for index, (one, user, name, is_named) in enumerate(batch[:6]):
                if one != room:
                    continue
                first = self.ids.get((room, user, name)) if is_named else None
                if first is None:
                    self.given += 1
                    mine.append(self.given)
                    first = (now + 50, Stored(self.given, int(now * 1000)))
                    if is_named:
                        self.ids[room, user, name] = first
                expected[index] = first[1]
            if mine:
                heard.append((room, mine))
        assert outcomes[:6] == [expected[index] for index in range(len(batch[:6]))]
        delivered = [
            (one.room, [entry.offset for entry in one.entries]) for one in self.sink.delivered
        ]
        assert delivered == heard
        assert self.shard.position() == self.given
        self.sink.delivered.clear()

    async def _publish(self, batch: list[tuple[RoomId, str, str, bool]]) -> list[Stored | Refused]:
        at_s = self.loop.wall_time()
        return await asyncio.gather(
            *[
                publish(
                    self.shard,
                    make_envelope(room, name, user=user, at_s=at_s),
                    is_named=is_named,
                )
                for room, user, name, is_named in batch
            ]
        )

    def _forget(self, now: float) -> None:
        self.ids = {key: one for key, one in self.ids.items() if one[0] > now}
        while len(self.ids) > self.limits.ids:
            del self.ids[next(iter(self.ids))]
