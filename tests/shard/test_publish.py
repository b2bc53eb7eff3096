"""Publishing: one order, heard before it is acknowledged, stored once, refused when too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest

from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.base import Stored
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits
from roomful.shard.message import Entry, Envelope, RoomId, UserId
from shard.clock import EPOCH_S
from shard.recording import RecordingSink, make_envelope, publish, store
from shard.site import Capability, Site
from support.deadline import until


@pytest.fixture
def sink() -> RecordingSink:
    """The edge of the test."""
    return RecordingSink()


async def test_offsets_grow_in_the_order_of_publishing(site: Site, sink: RecordingSink) -> None:
    """Each stored message is above all before it, over all rooms of the shard."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    before = shard.position()
    stored = []
    for number in range(5):
        stored += await store(shard, make_envelope("ab"[number % 2], str(number)))
    offsets = [one.offset for one in stored]
    await site.catch_up()
    assert offsets == sorted(set(offsets))
    assert offsets[0] > before
    assert shard.position() >= offsets[-1]


async def test_stored_names_the_time_of_the_envelope(site: Site, sink: RecordingSink) -> None:
    """The ack carries the timestamp that the members see."""
    shard = await site.make(sink)
    (stored,) = await store(shard, make_envelope("a", "1", at_s=1234.5))
    assert stored.timestamp == 1_234_500


async def test_sink_hears_what_was_published(site: Site, sink: RecordingSink) -> None:
    """An entry is the envelope unchanged, with its offset, on the shard's name."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    envelope = make_envelope("a", "1", body=b'{"id":"1"', attachments=(b"\x00\xff", b""))
    (stored,) = await store(shard, envelope)
    await site.catch_up()
    (heard,) = sink.delivered
    assert (heard.shard, heard.room) == (shard.name, "a")
    assert heard.entries == (Entry(stored.offset, envelope),)


async def test_a_batch_is_grouped_by_room_before_it_gets_offsets(
    site: Site, sink: RecordingSink
) -> None:
    """A room's entries of one batch leave in one piece, and all still in offset order (rule a)."""
    shard = await site.make(sink)
    for room in ("a", "b", "c"):
        await shard.hold(RoomId(room))
    await store(shard, *(make_envelope(room, f"{room}{n}") for n, room in enumerate("abcabacb")))
    await site.catch_up()
    assert [(heard.room, heard.ids) for heard in sink.delivered] == [
        ("a", ["a0", "a3", "a5"]),
        ("b", ["b1", "b4", "b7"]),
        ("c", ["c2", "c6"]),
    ]
    offsets = [entry.offset for entry in sink.entries]
    assert offsets == sorted(set(offsets))


async def test_a_sender_that_fails_costs_no_other_its_answer(
    site: Site, sink: RecordingSink
) -> None:
    """Whoever is in the same batch hears that its message is stored."""
    shard = await site.make(sink)
    outcomes: list[Stored | Refused] = []

    def fail(_outcome: Stored | Refused) -> None:
        raise RuntimeError("its connection has a bug")

    for name, settle in (("1", outcomes.append), ("2", fail), ("3", outcomes.append)):
        shard.publish(make_envelope("a", name), settle, is_named=True)
    await until(lambda: len(outcomes) == 2)
    assert all(isinstance(one, Stored) for one in outcomes)
    (again,) = await store(shard, make_envelope("a", "2"), is_named=True)
    stored = [one.offset for one in outcomes if isinstance(one, Stored)]
    assert stored[0] < again.offset < stored[1], "it was stored, and only once"


@pytest.mark.needs(Capability.HEARD_BEFORE_SETTLED)
async def test_sink_hears_an_entry_before_its_publish_settles(
    site: Site, sink: RecordingSink
) -> None:
    """Whoever has an ack can be sure that the live stream has passed the entry."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    await shard.hold(RoomId("b"))
    heard_at_settle: dict[int, list[str]] = {}
    done = asyncio.get_running_loop().create_future()

    def settle(number: int) -> Callable[[Stored | Refused], None]:
        def note(_outcome: Stored | Refused) -> None:
            heard_at_settle[number] = [entry.envelope.id for entry in sink.entries]
            if len(heard_at_settle) == 4:
                done.set_result(None)

        return note

    for number in range(4):
        envelope = make_envelope("ab"[number % 2], str(number))
        shard.publish(envelope, settle(number), is_named=False)
    await done
    assert set(heard_at_settle) == {0, 1, 2, 3}
    assert all(str(number) in ids for number, ids in heard_at_settle.items())


async def test_publishes_of_a_settle_are_a_batch_of_their_own(
    site: Site, sink: RecordingSink
) -> None:
    """What is published while a batch settles is stored after it."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    second: list[asyncio.Future[Stored | Refused]] = []

    def then(_outcome: Stored | Refused) -> None:
        second.append(publish(shard, make_envelope("a", "second")))

    shard.publish(make_envelope("a", "first"), then, is_named=False)
    first = publish(shard, make_envelope("a", "third"))
    await first
    await second[0]
    await site.catch_up()
    assert [heard.ids for heard in sink.delivered] == [["first", "third"], ["second"]]


async def test_closing_settles_what_is_pending(site: Site, sink: RecordingSink) -> None:
    """Nobody waits for an answer that never comes; what comes later is DRAINING at once."""
    shard = await site.make(sink)
    outcomes: list[Stored | Refused] = []

    def then(outcome: Stored | Refused) -> None:
        outcomes.append(outcome)
        shard.publish(make_envelope("b", "second"), outcomes.append, is_named=False)

    shard.publish(make_envelope("a", "first"), then, is_named=False)
    await shard.aclose()
    shard.publish(make_envelope("b", "third"), outcomes.append, is_named=False)
    first, *later = outcomes
    assert isinstance(first, Stored)
    assert [one.code for one in later if isinstance(one, Refused)] == [RefusalCode.DRAINING] * 2


# Once ------------------------------------------------------------------------------------------


async def test_an_id_is_stored_once(site: Site, sink: RecordingSink) -> None:
    """A second publish of the same room, user and id gets the first one's answer."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    (first,) = await store(shard, make_envelope("a", "x", at_s=EPOCH_S), is_named=True)
    await store(shard, make_envelope("a", "other"), is_named=True)
    (again,) = await store(shard, make_envelope("a", "x", at_s=EPOCH_S + 2), is_named=True)
    await site.catch_up()
    assert again == first
    assert [entry.envelope.id for entry in sink.entries] == ["x", "other"]
    page = await shard.page(RoomId("a"), before=None, after=None, limit=10)
    assert [entry.envelope.id for entry in page.entries] == ["x", "other"]


async def test_an_id_is_stored_once_within_a_batch(site: Site, sink: RecordingSink) -> None:
    """The same holds for two that come together."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    envelope = make_envelope("a", "x")
    first, again = await store(shard, envelope, envelope, is_named=True)
    await site.catch_up()
    assert again == first
    assert len(sink.entries) == 1


@pytest.mark.parametrize(
    ("room", "user", "name"),
    [
        pytest.param("b", "alice", "x", id="another room"),
        pytest.param("a", "bob", "x", id="another user"),
        pytest.param("a", "alice", "y", id="another id"),
        pytest.param("a", "alic", "ex", id="letters of the other"),
        pytest.param("a", "5:alicex", "", id="another whose name has a length"),
    ],
)
async def test_ids_are_the_senders_own(
    site: Site, sink: RecordingSink, room: str, user: str, name: str
) -> None:
    """An id counts for one user in one room: others may choose the same."""
    shard = await site.make(sink)
    (first,) = await store(shard, make_envelope("a", "x", user="alice"), is_named=True)
    (other,) = await store(shard, make_envelope(room, name, user=user), is_named=True)
    assert other.offset > first.offset


async def test_an_id_is_the_senders_own_with_each_receiver(site: Site, sink: RecordingSink) -> None:
    """The sender's copies of direct messages are all in one room; a retry is of one of them."""
    shard = await site.make(sink)

    def make(to: str) -> Envelope:
        copy = make_envelope("user:ann", "1", user="ann", body=b'{"to":"%b"' % to.encode())
        return msgspec.structs.replace(copy, event="direct-message")

    first = [await publish(shard, make(to), is_named=True) for to in ("bob", "cyd", "ann")]
    again = [await publish(shard, make(to), is_named=True) for to in ("bob", "cyd", "ann")]
    assert len(set(map(_offset, first))) == 3
    assert again == first


async def test_no_id_is_taken_for_another_with_a_receiver(site: Site, sink: RecordingSink) -> None:
    """An id is any text, also what the copy of a message to somebody else is called."""
    shard = await site.make(sink)
    to_bob, to_ann = (
        msgspec.structs.replace(
            make_envelope("user:ann", name, user="ann", body=b'{"to":"%b"' % to),
            event="direct-message",
        )
        for to, name in ((b"bob", "1"), (b"ann", "\0bob\x001"))
    )
    event = make_envelope("user:ann", "\0bob\x001", user="ann")
    first = await publish(shard, to_bob, is_named=True)
    second = await publish(shard, to_ann, is_named=True)
    assert _offset(second) > _offset(first)
    assert await publish(shard, event, is_named=True) == second


def _offset(outcome: Stored | Refused) -> int:
    assert isinstance(outcome, Stored)
    return outcome.offset


async def test_ids_of_the_server_are_not_compared(site: Site, sink: RecordingSink) -> None:
    """Only ids that senders chose make a publish a repetition: an edge's may look like them."""
    shard = await site.make(sink)
    (first,) = await store(shard, make_envelope("a", "x"), is_named=True)
    (ours,) = await store(shard, make_envelope("a", "x"))
    (again,) = await store(shard, make_envelope("a", "x"), is_named=True)
    assert ours.offset > first.offset
    assert again == first


async def test_an_id_outlives_its_entry(site: Site, sink: RecordingSink) -> None:
    """A repetition is one also when the log has no room for the first any more."""
    shard = await site.make(sink, log=LogLimits(messages_per_room=2))
    (first,) = await store(shard, make_envelope("a", "x"), is_named=True)
    for number in range(4):
        await store(shard, make_envelope("a", str(number)))
    assert await store(shard, make_envelope("a", "x"), is_named=True) == [first]


async def test_many_and_large_ones_in_one_turn(site: Site, sink: RecordingSink) -> None:
    """All are stored in their order, in however many batches."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    envelopes = [make_envelope("a", str(n), body=b"x" * (n % 7 * 3_000)) for n in range(700)]
    stored = await store(shard, *envelopes)
    await site.catch_up()
    assert [entry.envelope for entry in sink.entries] == envelopes
    assert [entry.offset for entry in sink.entries] == [one.offset for one in stored]


async def test_an_envelope_is_kept_whole(site: Site, sink: RecordingSink) -> None:
    """Heard, read and paged as it was: events of apps, attachments, the trace."""
    shard = await site.make(sink)
    await shard.hold(RoomId("a"))
    envelope = Envelope(
        RoomId("a"), "e\u2028", "i", UserId("u"), 2**53, b"7", (b"", b"\xff"), bytes(24)
    )
    (stored,) = await store(shard, envelope)
    await site.catch_up()
    page = await shard.page(RoomId("a"), before=None, after=None, limit=1)
    replay = await shard.read({RoomId("a"): 0}, 0, 1 << 20)
    entry = Entry(stored.offset, envelope)
    assert [*sink.entries, *page.entries, *replay.entries] == [entry] * 3


async def test_an_id_is_remembered_for_its_window(site: Site, sink: RecordingSink) -> None:
    """Within id_window_s a repetition is not stored, after it the id is free again."""
    shard = await site.make(sink, limits=MemoryLimits(id_window_s=300))
    (first,) = await store(shard, make_envelope("a", "x"), is_named=True)
    await site.pass_time(299)
    (again,) = await store(shard, make_envelope("a", "x"), is_named=True)
    await site.pass_time(2)
    (later,) = await store(shard, make_envelope("a", "x"), is_named=True)
    assert again == first
    assert later.offset > first.offset


async def test_the_window_begins_with_the_first(site: Site, sink: RecordingSink) -> None:
    """Repetitions do not keep an id alive: its answer would outlive the log."""
    shard = await site.make(sink, limits=MemoryLimits(id_window_s=300))
    (first,) = await store(shard, make_envelope("a", "x"), is_named=True)
    for _ in range(2):
        await site.pass_time(149)
        assert await store(shard, make_envelope("a", "x"), is_named=True) == [first]
    await site.pass_time(3)
    (later,) = await store(shard, make_envelope("a", "x"), is_named=True)
    assert later.offset > first.offset


# Too much --------------------------------------------------------------------------------------


async def test_more_than_may_wait_is_refused(site: Site, sink: RecordingSink) -> None:
    """What does not fit into pending_bytes is OVERLOADED at once, and the rest is stored."""
    size = make_envelope("a", "0").size
    shard = await site.make(sink, limits=MemoryLimits(pending_bytes=3 * size))
    outcomes = [publish(shard, make_envelope("a", str(n))) for n in range(5)]
    settled = await asyncio.gather(*outcomes)
    refused = [one for one in settled if isinstance(one, Refused)]
    assert [isinstance(one, Stored) for one in settled] == [True] * 3 + [False] * 2
    assert {one.code for one in refused} == {RefusalCode.OVERLOADED}
    assert RefusalCode.OVERLOADED.is_retryable


async def test_a_refused_publish_may_be_sent_again(site: Site, sink: RecordingSink) -> None:
    """A refusal leaves nothing behind: neither an entry nor the id."""
    size = make_envelope("a", "0").size
    shard = await site.make(sink, limits=MemoryLimits(pending_bytes=size))
    await shard.hold(RoomId("a"))
    first, refused = (publish(shard, make_envelope("a", n), is_named=True) for n in "01")
    await asyncio.gather(first, refused)
    assert isinstance(refused.result(), Refused)
    (stored,) = await store(shard, make_envelope("a", "1"), is_named=True)
    await site.catch_up()
    offsets = [(entry.envelope.id, entry.offset) for entry in sink.entries]
    assert [name for name, _ in offsets] == ["0", "1"]
    assert offsets[1][1] == stored.offset
    assert all(low < high for (_, low), (_, high) in pairwise(offsets))


async def test_a_large_one_does_not_shut_out_smaller_ones(site: Site, sink: RecordingSink) -> None:
    """The refused one's bytes do not count against those that come after it."""
    small = make_envelope("a", "0")
    shard = await site.make(sink, limits=MemoryLimits(pending_bytes=2 * small.size))
    huge = publish(shard, make_envelope("a", "1", body=b"x" * 10_000))
    stored = await store(shard, small)
    assert isinstance(huge.result(), Refused)
    assert len(stored) == 1
