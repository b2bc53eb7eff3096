"""Who is in which room of a crowd, and which messages are owed to whom."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scale.loads import count_owed
from bench.scale.plan import Crowd, Seats, content_of, read_content

_CROWDS = st.builds(
    Crowd,
    connections=st.integers(1, 100),
    edges=st.integers(1, 7),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True).map(tuple),
    has_announcer=st.booleans(),
)


@settings(deadline=None)
@given(crowd=_CROWDS)
def test_load_processes_share_all_connections(crowd: Crowd) -> None:
    """Each connection is held by one process, and none by more than an edge is said to hold."""
    seats = Seats(crowd)

    shares = [seats.numbers_of(process) for process in range(crowd.edges)]

    held = sorted(number for share in shares for number in share)
    assert held == list(range(crowd.connections + crowd.has_announcer))
    assert max(map(len, shares)) <= crowd.per_edge


@settings(deadline=None)
@given(crowd=_CROWDS)
def test_a_room_has_one_sender_and_no_more_members_than_its_size(crowd: Crowd) -> None:
    """Each room is sent to by one connection, which is in it."""
    seats = Seats(crowd)
    numbers = range(crowd.connections + crowd.has_announcer)

    senders = Counter(room for number in numbers for room in seats.sends_to(number))
    members = Counter(
        room for number in range(crowd.connections) for room in seats.rooms_of(number)
    )

    assert senders == dict.fromkeys(members, 1)
    assert all(set(seats.sends_to(number)) <= set(seats.rooms_of(number)) for number in numbers)
    assert all(count <= crowd.sizes[int(room.split(b".")[0])] for room, count in members.items())


@settings(deadline=None)
@given(crowd=_CROWDS)
def test_what_is_owed_counts_every_member_of_every_room(crowd: Crowd) -> None:
    """A message to each room is owed to each connection once for each of its rooms."""
    seats = Seats(crowd)
    rooms = {room.decode(): 1 for kind in range(len(crowd.sizes)) for room in seats.rooms(kind)}

    assert count_owed(crowd, rooms) == crowd.connections * len(crowd.sizes)


@given(
    room=st.builds(lambda kind, room: b"%d.%d" % (kind, room), st.integers(0, 9), st.integers(0)),
    number=st.integers(1, 10**9),
    due_ns=st.integers(0, 2**62),
)
def test_content_is_read_as_it_was_written(room: bytes, number: int, due_ns: int) -> None:
    """Room, number and time of a message come back out of its packet."""
    content = content_of(room, number, due_ns)

    packet = b'42["message",{"id":"x","content":"%b","timestamp":1},"c"]' % content.encode()

    assert read_content(packet) == (room, number, due_ns)
