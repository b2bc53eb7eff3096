"""What a shard's stream becomes, whatever the connection does."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import settings

from roomful.cluster.cursor import ShardName
from roomful.shard.asking import Read, Request, Subscribe, Tails, Unsubscribe
from roomful.shard.held import Held
from roomful.shard.message import Entry, RoomId
from roomful.shard.publication import Found, Publication
from roomful.shard.stream import ShardStream
from roomful.shard.terms import Terms
from shard.recording import RecordingSink, make_envelope
from shard.stream_model import StreamModel

TestStream = StreamModel.TestCase
TestStream.settings = settings(max_examples=100, stateful_step_count=40)


class Line:
    """A stream and the one who answers it."""

    def __init__(self, *rooms: str) -> None:
        self.sink = RecordingSink()
        self.stream = ShardStream(ShardName("s1"), self.sink)
        self.held = {room: self.stream.hold(RoomId(room)) for room in rooms}
        self.reads: list[Read] = []

    def connect(self, seq: int, tails: dict[str, int], *, is_long: bool = False) -> None:
        """Connect to a shard whose newest offset is *seq*."""
        self.stream.connect(Terms(seq), is_long=is_long)
        self.answer(seq, tails)

    def answer(self, seq: int, tails: dict[str, int]) -> list[Request]:
        """Answer what is asked but reads, which are kept; gives all of it."""
        requests = self.stream.take_requests()
        for request in requests:
            match request:
                case Subscribe(channels):
                    self.stream.on_subscribed(channels)
                case Tails(rooms):
                    self.stream.on_tails(request, seq, [tails.get(one.room, 0) for one in rooms])
                case Read():
                    self.reads.append(request)
        self.reads += [one for one in self.stream.take_requests() if isinstance(one, Read)]
        return requests

    def publish(self, room: str, before: int, *offsets: int) -> None:
        """Let a publication come."""
        publication = Publication(before, entries(room, *offsets))
        self.stream.on_message(b"r:" + room.encode(), msgspec.msgpack.encode(publication))

    @property
    def heard(self) -> list[int]:
        """Offsets that were delivered."""
        return [entry.offset for entry in self.sink.entries]


def entries(room: str, *offsets: int) -> list[Entry]:
    """Make entries."""
    return [Entry(offset, make_envelope(room, str(offset))) for offset in offsets]


def found(request: Read, *offsets: int) -> Sequence[Found]:
    """Make a page of the first room asked for."""
    room = request.rooms[0].room
    return [Found(one.offset, 0, one.envelope) for one in entries(room, *offsets)]


def test_what_waits_behind_a_gap_comes_behind_what_fills_it() -> None:
    """Other rooms too: the shard's order is one."""
    line = Line("a", "b")
    line.connect(10, {"a": 10})
    line.publish("a", 12, 13)
    line.publish("b", 0, 14)
    assert line.heard == []
    line.answer(14, {"a": 13, "b": 14})
    (read,) = line.reads
    assert {held.room: after for held, after in zip(read.rooms, read.heard, strict=True)} == {
        "a": 10,
        "b": 10,
    }
    line.stream.on_read(read, 14, [*found(read, 12, 13)], is_complete=True)
    assert line.heard == [12, 13]
    line.publish("b", 14, 15)
    assert line.heard == [12, 13, 15]


def test_rooms_that_may_be_forgotten_are_asked() -> None:
    """After many hours a shard forgets a quiet room; only its log can say that nothing is gone."""
    for is_long, asked in ((False, 0), (True, 1)):
        line = Line("a")
        line.connect(10, {"a": 10})
        line.stream.disconnect()
        line.connect(99, {}, is_long=is_long)
        assert len(line.reads) == asked
        for read in line.reads:
            line.stream.on_missing(read, [0])
        assert line.sink.lost == [(RoomId("a"), True)] * asked
        assert line.stream.is_live


def test_a_shard_that_went_back_is_heard_from_there() -> None:
    """In one term that cannot be; if it is, it is said, and nothing new is taken for old."""
    line = Line("a", "b")
    line.connect(10, {})
    line.publish("a", 0, 11)
    line.stream.disconnect()
    line.connect(4, {"a": 3})
    assert line.sink.lost == [(RoomId("a"), False)]
    line.publish("a", 3, 5)
    assert line.heard == [11, 5]


def test_a_round_that_is_cut_reads_again_what_it_had_not_delivered() -> None:
    """A page that was read and not delivered is as if it had not been read."""
    line = Line("a", "b")
    line.connect(10, {})
    line.stream.disconnect()
    line.connect(20, {"a": 20, "b": 15})
    (read,) = line.reads
    line.stream.on_read(read, 12, found(read, 12), is_complete=False)
    assert line.heard == [12]
    line.stream.disconnect()
    line.reads.clear()
    line.connect(20, {"a": 20, "b": 15})
    (read,) = line.reads
    assert read.heard == (12, 10)
    assert read.after == 0


def test_a_stale_answer_is_nothing() -> None:
    """Of a round that is over."""
    line = Line("a")
    line.connect(10, {})
    line.stream.disconnect()
    line.connect(20, {"a": 20})
    (read,) = line.reads
    line.stream.disconnect()
    line.stream.on_read(read, 20, found(read, 20), is_complete=True)
    line.stream.on_missing(read, [0])
    assert (line.heard, line.sink.lost) == ([], [])


def test_what_was_never_said_is_not_taken_back() -> None:
    """A room that comes and goes in one turn of the loop costs nothing."""
    line = Line()
    line.connect(10, {})
    for _ in range(3):
        line.stream.hold(RoomId("a"))
        line.stream.release(RoomId("a"))
    assert line.stream.take_requests() == []
    held = line.stream.hold(RoomId("a"))
    line.answer(10, {})
    assert held.is_ready
    line.stream.release(RoomId("a"))
    assert line.stream.hold(RoomId("a")) is held
    assert line.stream.take_requests() == []
    line.stream.release(RoomId("a"))
    assert line.stream.take_requests() == [Unsubscribe([b"r:a"])]


@pytest.mark.parametrize("is_released", [False, True])
def test_ready_is_said_once_and_behind_the_confirmation(is_released: bool) -> None:
    """Also when the tails of a round that began meanwhile come first."""
    line = Line("a")
    line.connect(10, {})
    held: Held = line.stream.hold(RoomId("b"))
    said: list[bool] = []
    held.on_ready = lambda: said.append(held.is_subscribed)
    line.publish("a", 12, 13)
    requests = line.stream.take_requests()
    (first, *_) = requests
    assert isinstance(first, Tails)
    line.stream.on_tails(first, 13, [13] * len(first.rooms))
    assert said == []
    if is_released:
        line.stream.release(RoomId("b"))
    for request in requests[1:]:
        if isinstance(request, Subscribe):
            line.stream.on_subscribed(request.channels)
        elif isinstance(request, Tails):
            line.stream.on_tails(request, 13, [0] * len(request.rooms))
    assert said == ([] if is_released else [True])
