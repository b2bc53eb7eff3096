"""Fan-out: each member hears each event of its rooms once, in order, whatever happens meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.hall import ROOM, SHARD, Hall, Member, heard_offsets, turns
from roomful.edge.encoding import Wire
from roomful.edge.fanout import TURN_WRITES
from roomful.edge.room import Carrier, Waiting
from roomful.protocol.errors import RefusalCode, Refused
from roomful.shard.message import Cast, Entry, RoomId, UserId
from shard.clock import run, settle
from shard.recording import make_envelope


@pytest.fixture
def hall() -> Hall:
    """A fan-out."""
    return Hall()


ALL_KINDS = [(wire, carrier) for wire in Wire for carrier in Carrier]


async def test_every_member_hears_on_its_wire(hall: Hall) -> None:
    """The cursor for those who want it, and plain JSON as one object."""
    members = {kind: await hall.add(Member(wire=kind[0], carrier=kind[1])) for kind in ALL_KINDS}
    hall.deliver("r")
    for (wire, _), member in members.items():
        (packet,) = member.heard
        expected = {
            Wire.CURSOR: b'42["message",{"n":1,"offset":1},"m.1"]',
            Wire.PLAIN: b'42["message",{"n":1,"offset":1}]',
            Wire.JSON: b'{"type":"message","n":1,"offset":1,"cursor":"m.1"}',
        }[wire]
        assert packet == expected


async def test_members_of_one_kind_hear_the_same_object(hall: Hall) -> None:
    """Encoded once: nothing is made for each member."""
    members = [await hall.add(Member()) for _ in range(3)]
    envelope = make_envelope("r", "1")
    hall.fanout.deliver(SHARD, ROOM, [Entry(1, envelope)])
    assert len({id(member.out) for member in members}) == 1
    hall.fanout.flush()


async def test_a_large_room_is_written_to_in_turns_of_the_loop(hall: Hall) -> None:
    """Whatever else is due runs in between, and everyone hears it."""
    members = [await hall.add(Member()) for _ in range(3 * TURN_WRITES)]
    seen: list[int] = []

    def look() -> None:
        seen.append(sum(member.writes for member in members))
        if len(seen) < 4:
            asyncio.get_running_loop().call_soon(look)

    asyncio.get_running_loop().call_soon(look)
    hall.deliver("r")
    await turns(4)
    assert seen == [TURN_WRITES, 2 * TURN_WRITES, 3 * TURN_WRITES, 3 * TURN_WRITES]


async def test_what_comes_for_a_member_that_waits_for_its_turn_goes_out_in_one_write(
    hall: Hall,
) -> None:
    """In order; who had its turn already is written to again."""
    members = [await hall.add(Member()) for _ in range(TURN_WRITES + 1)]
    hall.deliver("r")
    hall.deliver("r")
    await turns(4)
    assert [member.writes for member in members] == [2] * TURN_WRITES + [1]
    assert all(heard_offsets(member) == [1, 2] for member in members)


async def test_what_waits_for_its_turn_is_bounded_in_bytes(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound everyone is written to at once."""
    monkeypatch.setattr("roomful.edge.fanout.STAGED_BYTES", 10_000)
    members = [await hall.add(Member()) for _ in range(2 * TURN_WRITES)]
    hall.deliver("r")
    assert sum(member.writes for member in members) == TURN_WRITES
    hall.deliver(*["r"] * 2)
    assert all(member.out is None for member in members)
    assert all(heard_offsets(member) == [1, 2, 3] for member in members)


async def test_only_the_room_hears(hall: Hall) -> None:
    """Neither other rooms nor who left."""
    inside, outside, gone = Member(), Member(), Member()
    await hall.add(inside)
    await hall.add(outside, "other")
    await hall.add(gone)
    hall.fanout.leave(gone, ROOM)
    hall.deliver("r")
    assert [len(member.heard) for member in (inside, outside, gone)] == [1, 0, 0]


async def test_the_cursor_passes_rooms_without_members(hall: Hall) -> None:
    """What nobody here hears is read nevertheless."""
    member = await hall.add(Member())
    hall.deliver("empty", "empty", "r")
    assert member.heard[0].endswith(b'"m.3"]')
    assert hall.fanout.vector.positions == {SHARD: 3}


async def test_a_member_hears_a_batch_in_one_write(hall: Hall) -> None:
    """All rooms' entries together, in offset order."""
    member = await hall.add(Member())
    await hall.add(member, "s")
    hall.deliver("r", "s", "r", "s")
    assert heard_offsets(member) == [1, 2, 3, 4]


# Closing in the middle -------------------------------------------------------------------------


@pytest.mark.parametrize("is_cast", [False, True], ids=["entry", "cast"])
async def test_a_member_that_is_closed_takes_nothing_from_others(hall: Hall, is_cast: bool) -> None:
    """A slow polling client is closed as it is sent to, and leaves the room: the others hear."""
    slow = Member(wire=Wire.PLAIN, carrier=Carrier.POLL)
    slow.on_queue = lambda: hall.fanout.leave(slow, ROOM)
    await hall.add(slow)
    kinds = [kind for kind in ALL_KINDS if kind != (slow.wire, slow.carrier)]
    others = [await hall.add(Member(wire=wire, carrier=carrier)) for wire, carrier in kinds]
    if is_cast:
        hall.fanout.cast(Cast(ROOM, "typing", b"{}"))
    else:
        hall.deliver("r")
    assert [len(member.heard) for member in others] == [1] * len(others)


async def test_members_of_the_same_kind_hear_when_one_is_closed(hall: Hall) -> None:
    """The same within one kind."""
    members = [await hall.add(Member(carrier=Carrier.POLL)) for _ in range(3)]
    members[0].on_queue = lambda: hall.fanout.leave(members[0], ROOM)
    hall.deliver("r")
    assert [len(member.heard) for member in members] == [1, 1, 1]
    assert hall.fanout.listeners(ROOM) == members[1:]


# Casts -----------------------------------------------------------------------------------------


async def test_casts_leave_out_their_user(hall: Hall) -> None:
    """On all of that user's connections."""
    alice, phone, bob = Member(), Member(wire=Wire.JSON), Member(user=UserId("bob"))
    for member in (alice, phone, bob):
        await hall.add(member)
    hall.fanout.cast(Cast(ROOM, "user-joined", b'{"a":1}', except_user=UserId("alice")))
    hall.fanout.cast(Cast(ROOM, "user-update", b"{}"))
    assert alice.heard == [b'42["user-update",{}]']
    assert phone.heard == [b'{"type":"user-update"}']
    assert bob.heard == [b'42["user-joined",{"a":1}]', b'42["user-update",{}]']


async def test_volatile_casts_are_dropped_for_the_slow(hall: Hall) -> None:
    """Others are not, and what is dropped is counted."""
    slow, quick = Member(is_congested=True), Member()
    for member in (slow, quick):
        await hall.add(member)
    hall.fanout.cast(Cast(ROOM, "typing", b"{}", is_volatile=True))
    assert (len(slow.heard), len(quick.heard)) == (0, 1)
    hall.fanout.cast(Cast(ROOM, "presence", b"{}"))
    assert (len(slow.heard), len(quick.heard)) == (1, 2)
    assert (hall.fanout.statistics.dropped_casts, hall.fanout.statistics.casts) == (1, 2)


# Waiting ---------------------------------------------------------------------------------------


async def test_who_waits_hears_nothing_and_everything_is_kept(hall: Hall) -> None:
    """What comes meanwhile is collected for it alone; then it hears what comes from now on."""
    resuming, member = Member(), await hall.add(Member())
    waiting = await hall.fanout.wait(resuming, ROOM)
    hall.deliver("r", "r")
    hall.fanout.cast(Cast(ROOM, "typing", b"{}"))
    assert resuming.heard == []
    assert [entry.offset for _, entry in waiting.entries] == [1, 2]
    hall.fanout.go_live(resuming, ROOM)
    hall.deliver("r")
    assert heard_offsets(resuming) == [3]
    assert len(waiting.entries) == 2
    assert len(member.heard) == 4


async def test_who_waits_is_no_listener(hall: Hall) -> None:
    """It is not counted or closed as one of the room's."""
    waiting = Member()
    await hall.fanout.wait(waiting, ROOM)
    assert hall.fanout.listeners(ROOM) == []
    hall.fanout.leave(waiting, ROOM)
    assert hall.fanout.rooms == {}


def test_what_waits_is_bounded() -> None:
    """Above the bound nothing is kept, until it is cleared: then it can be read again."""
    waiting = Waiting()
    large = Entry(1, make_envelope("r", "1", body=b"x" * 700_000))
    waiting.add(SHARD, [large])
    assert (len(waiting.entries), waiting.has_overflowed) == (1, False)
    waiting.add(SHARD, [large])
    waiting.add(SHARD, [Entry(2, make_envelope("r", "2"))])
    assert (waiting.entries, waiting.has_overflowed) == ([], True)
    waiting.clear()
    waiting.add(SHARD, [large])
    assert (len(waiting.entries), waiting.has_overflowed) == (1, False)


# Holding ---------------------------------------------------------------------------------------


async def test_a_room_is_held_while_someone_is_in_it(hall: Hall) -> None:
    """From the first who comes, or waits, to the last who leaves."""
    first, second = Member(), Member()
    await hall.add(first)
    await hall.fanout.wait(second, ROOM)
    hall.fanout.leave(first, ROOM)
    assert hall.shard.held == [ROOM]
    hall.fanout.go_live(second, ROOM)
    hall.fanout.leave(second, ROOM)
    assert hall.shard.held == []
    assert hall.fanout.rooms == {}
    hall.fanout.leave(second, ROOM)


def test_everyone_who_enters_waits_until_the_room_is_held() -> None:
    """Also the second, who finds the room on its way in."""

    async def check() -> None:
        hall = Hall()
        hall.shard.gate = asyncio.Event()
        members = [Member(), Member()]
        entering = [asyncio.ensure_future(hall.add(member)) for member in members]
        await settle()
        assert not any(one.done() for one in entering)
        hall.shard.gate.set()
        await asyncio.gather(*entering)
        hall.deliver("r")
        assert [len(member.heard) for member in members] == [1, 1]
        assert hall.shard.held == [ROOM]

    run(check())


def test_a_room_that_empties_while_someone_enters_is_held() -> None:
    """The one who leaves does not take the room from the one who comes."""

    async def check() -> None:
        hall = Hall()
        first, second = await hall.add(Member()), Member()
        hall.fanout.leave(first, ROOM)
        hall.shard.gate = asyncio.Event()
        entering = [asyncio.ensure_future(hall.add(member)) for member in (first, second)]
        await settle()
        entering[0].cancel()
        await settle()
        hall.shard.gate.set()
        await settle()
        hall.deliver("r")
        assert (len(first.heard), len(second.heard)) == (0, 1)
        assert hall.shard.held == [ROOM]

    run(check())


async def test_a_room_that_cannot_be_held_is_not_kept(hall: Hall) -> None:
    """The refusal goes to who wanted in, and nothing is left of it."""
    hall.shard.fault = Refused(RefusalCode.SHARD_UNAVAILABLE, "no")
    with pytest.raises(Refused):
        await hall.add(Member())
    assert hall.fanout.rooms == {}
    hall.shard.fault = None
    member = await hall.add(Member())
    hall.deliver("r")
    assert len(member.heard) == 1


async def test_who_heard_what_a_shard_no_longer_has_is_closed(hall: Hall) -> None:
    """Only members of the rooms named, and only those who heard it live."""
    member = await hall.add(Member(), "r")
    other = await hall.add(Member(), "s")
    hall.fanout.lose(SHARD, [RoomId("r"), RoomId("never")], can_resume=True)
    assert (member.interrupted, other.interrupted) == ([True], [])
    assert hall.fanout.statistics.interrupted == 1


async def test_who_resumes_meanwhile_reads_again(hall: Hall) -> None:
    """What it collected is thrown away, and what comes until it has read is not collected."""
    member = Member()
    waiting = await hall.fanout.wait(member, RoomId("r"))
    hall.deliver("r")
    hall.fanout.lose(SHARD, [RoomId("r")], can_resume=True)
    hall.deliver("r")
    assert (waiting.entries, waiting.has_overflowed, member.interrupted) == ([], True, [])


async def test_cursors_follow_a_quiet_shard(hall: Hall) -> None:
    """Nothing was said, but it is known that nothing was said; they never go back."""
    hall.fanout.reach(SHARD, 41)
    hall.fanout.reach(SHARD, 7)
    assert hall.fanout.vector.positions == {SHARD: 41}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "deliver", "deliver", "wait", "go live"]),
        st.integers(0, 5),
        st.sampled_from(["r", "s"]),
    ),
    max_size=60,
)


@given(STEPS)
def test_each_member_hears_what_came_while_it_was_in(steps: list[tuple[str, int, str]]) -> None:
    """Against a model: for each member and room, since when it hears or collects."""

    async def check() -> None:
        hall = Hall()
        members = [Member(wire=wire, carrier=carrier) for wire, carrier in ALL_KINDS]
        live: set[tuple[int, str]] = set()
        waiting: dict[tuple[int, str], tuple[Waiting, list[int]]] = {}
        expected: list[list[int]] = [[] for _ in members]
        for step, number, room in steps:
            member, key = members[number], (number, room)
            if step == "enter" and key not in live and key not in waiting:
                await hall.add(member, room)
                live.add(key)
            elif step == "wait" and key not in live and key not in waiting:
                waiting[key] = (await hall.fanout.wait(member, RoomId(room)), [])
            elif step == "go live" and key in waiting:
                collected, wanted = waiting.pop(key)
                assert [entry.offset for _, entry in collected.entries] == wanted
                hall.fanout.go_live(member, RoomId(room))
                live.add(key)
            elif step == "leave":
                hall.fanout.leave(member, RoomId(room))
                live.discard(key)
                waiting.pop(key, None)
            elif step == "deliver":
                offsets = hall.deliver(room, room)
                for index in {index for index, one in live if one == room}:
                    expected[index] += offsets
                for (_, one), (_, wanted) in waiting.items():
                    if one == room:
                        wanted += offsets
        assert [heard_offsets(member) for member in members] == expected
        assert set(hall.shard.held) == {room for _, room in [*live, *waiting]}
        assert set(hall.fanout.rooms) == set(hall.shard.held)

    run(check())
