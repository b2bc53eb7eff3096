"""Publishing: one order, one publication a room and batch, and each message once."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from redis.exceptions import ResponseError

from functions.calls import FIRST, Calls, Entry, Limits, Post, Publication, bucket_of
from functions.server import RunningServer

# Order -----------------------------------------------------------------------------------------


def test_offsets_begin_at_the_term_and_grow(shard: Calls) -> None:
    """offset = term * 2^40 + n, over all rooms, with no holes between stored messages."""
    assert shard.publish(Post("a"), Post("b")) == [FIRST, FIRST + 1]
    assert shard.publish(Post("a")) == [FIRST + 2]


def test_a_batch_is_grouped_by_room_before_it_gets_offsets(shard: Calls) -> None:
    """A room's messages leave in one piece and in offset order, however they came (rule a)."""
    ear = shard.listen("r:a", "r:b", "r:c")
    rooms = "abcabacb"
    replies = shard.publish(*(Post(room, str(n)) for n, room in enumerate(rooms)))
    heard = ear.heard()
    assert [channel for channel, _ in heard] == ["r:a", "r:b", "r:c"]
    offsets, bodies = [], []
    for _, publication in heard:
        assert isinstance(publication, Publication)
        offsets += [entry.offset for entry in publication.entries]
        bodies += [entry.envelope[0] for entry in publication.entries]
    assert offsets == list(range(FIRST, FIRST + 8))
    assert bodies == list("03514726")  # a: 0 3 5, b: 1 4 7, c: 2 6
    assert [offsets[bodies.index(str(n))] for n in range(8)] == replies


def test_a_publication_is_the_envelopes_as_they_came(shard: Calls) -> None:
    """The bytes of the edge are in it unchanged, ready to be decoded in one go."""
    ear = shard.listen("r:a")
    (offset,) = shard.store(Post("a", "hello"))
    assert ear.heard() == [("r:a", Publication(0, [Entry(offset, ("hello", b"\xff\x00"))]))]


@pytest.mark.parametrize("count", [1, 15, 16, 300])
def test_a_publication_holds_any_number(shard: Calls, count: int) -> None:
    """The array's head is right for every size."""
    ear = shard.listen("r:a")
    offsets = shard.store(*(Post("a", str(n)) for n in range(count)))
    ((_, publication),) = ear.heard()
    assert isinstance(publication, Publication)
    assert [entry.offset for entry in publication.entries] == offsets


def test_publications_of_a_room_are_a_chain(shard: Calls) -> None:
    """Each names the room's offset before it, so that a lost one shows."""
    ear = shard.listen("r:a")
    shard.store(Post("a"), Post("a"))
    shard.store(Post("b"))
    shard.store(Post("a"))
    first, second = (one for _, one in ear.heard())
    assert isinstance(first, Publication)
    assert isinstance(second, Publication)
    assert (first.before, second.before) == (0, FIRST + 1)


def test_many_connections_make_one_order(server: RunningServer, shard: Calls) -> None:
    """Edges that publish at once: no offset twice, and all hear them growing."""
    rooms = ["a", "b", "c", "d", "e"]
    ear = shard.listen(*(f"r:{room}" for room in rooms))
    offsets: list[list[int]] = [[] for _ in range(4)]

    def work(index: int, calls: Calls) -> None:
        for n in range(40):
            batch = [Post(rooms[(index + n + m) % 5], f"{index}.{n}.{m}") for m in range(5)]
            offsets[index] += calls.store(*batch)

    threads = [threading.Thread(target=work, args=(n, server.connect())) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sum(offsets, [])) == list(range(FIRST, FIRST + 800))
    heard = [entry.offset for _, one in ear.heard() for entry in _entries(one)]
    assert heard == list(range(FIRST, FIRST + 800))


def _entries(one: object) -> list[Entry]:
    assert isinstance(one, Publication)
    return one.entries


# Once ------------------------------------------------------------------------------------------


def test_an_id_is_stored_once_within_a_batch(shard: Calls) -> None:
    """Those that come together are compared too, in one run of the room or in two."""
    posts = Post("a", name="x"), Post("a", name="x"), Post("b"), Post("a", name="x")
    first, again, _, later = shard.publish(*posts)
    assert (again, later) == (f"{first} 1000", f"{first} 1000")
    assert shard.bodies("a") == ["x"]


def test_a_batch_goes_on_after_a_repetition(shard: Calls) -> None:
    """What is new beside it is stored, sent and chained."""
    ear = shard.listen("r:a")
    (first,) = shard.store(Post("a", name="x"))
    reply = shard.publish(Post("a", "1"), Post("a", name="x"), Post("a", "2"))
    assert reply == [first + 1, f"{first} 1000", first + 2]
    _, (_, second) = ear.heard()
    assert isinstance(second, Publication)
    assert second.before == first
    assert [entry.offset for entry in second.entries] == [first + 1, first + 2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(Post("a", name="bx", user="a"), Post("a", name="x", user="ab"), id="user"),
        pytest.param(
            Post("a", name="3:bobx", user="12347"),
            Post("a5:12347", name="x", user="bob"),
            id="room",
        ),
    ],
)
def test_ids_are_not_confused_with_what_is_beside_them(
    shard: Calls, one: Post, other: Post
) -> None:
    """Where one name ends and the next begins is part of what is compared."""
    assert bucket_of(one.room) == bucket_of(other.room)
    shard.store(one)
    assert isinstance(shard.publish(other)[0], int)


def test_messages_without_an_id_are_not_compared(shard: Calls) -> None:
    """Each is a message of its own."""
    assert shard.publish(Post("a", "x"), Post("a", "x")) == [FIRST, FIRST + 1]


# Bounds and faults -----------------------------------------------------------------------------


def test_the_newest_of_a_room_are_kept(shard: Calls) -> None:
    """`keep` of each room, and less than a node of the stream (100) more."""
    limits = Limits(keep=200)
    for n in range(10):
        shard.store(*(Post("a", f"{n}.{m}") for m in range(100)), Post("b"), limits=limits)
    bodies = shard.bodies("a")
    assert 200 <= len(bodies) < 300
    assert bodies[-1] == "9.99"
    assert len(shard.bodies("b")) == 10


def test_offsets_end_before_they_lose_precision(shard: Calls) -> None:
    """At 2^53 the shard takes nothing more, and up to it every offset is exact."""
    shard.command("HSET", "roomful:shard", "seq", 2**53 - 4)
    assert shard.publish(Post("a", "1"), Post("b", "2")) == [2**53 - 3, 2**53 - 2]
    with pytest.raises(ResponseError, match="ROOMFUL EXHAUSTED"):
        shard.publish(Post("a"), Post("a"))
    assert shard.publish(Post("a", "3")) == [2**53 - 1]
    assert shard.read({"a": 0, "b": 0}, 2**53 - 3).entries == [
        (2**53 - 2, "b", "2"),
        (2**53 - 1, "a", "3"),
    ]


def test_a_message_that_cannot_be_stored_is_said_to_be(shard: Calls) -> None:
    """The others are stored, and its id is free: a retry must not be told that it was."""
    shard.command("SET", f"{bucket_of('a')}l:a", "not a log")
    error, stored = shard.publish(Post("a", name="x"), Post("b"))
    assert isinstance(error, str)
    assert error.startswith("ERROR WRONGTYPE")
    assert isinstance(stored, int)
    shard.command("DEL", f"{bucket_of('a')}l:a")
    assert isinstance(shard.publish(Post("a", name="x"))[0], int)


@pytest.mark.parametrize(
    "args",
    [
        pytest.param([1, 1, "", 1], id="too few"),
        pytest.param([1, 1, "", 1, b"\xc0", 7], id="too many"),
        pytest.param([1, 2, "", 1, b"\xc0"], id="another count"),
        pytest.param([1, "x", "", 1, b"\xc0"], id="no count"),
    ],
)
def test_what_is_no_batch_changes_nothing(shard: Calls, args: list[str | int | bytes]) -> None:
    """A caller's mistake is an error before anything is written."""
    before = shard.keys()
    with pytest.raises(ResponseError):
        shard("publish", ["{1}l:a"], 1, 5000, 3_600_000, 300_000, 0, 0, *args)
    assert shard.keys() == before
    assert shard.publish(Post("a")) == [FIRST]


def test_a_batch_is_bounded(shard: Calls) -> None:
    """More than 4096 messages are not taken: nobody else is served meanwhile."""
    assert len(shard.store(*[Post("a")] * 4096)) == 4096
    with pytest.raises(ResponseError, match="not a batch"):
        shard.publish(*[Post("a")] * 4097)


def test_a_batch_of_many_rooms(shard: Calls) -> None:
    """As many rooms as messages: what is asked of the server at once is cut in pieces."""
    offsets = shard.store(*(Post(f"room {n}") for n in range(3000)))
    assert all(low + 1 == high for low, high in pairwise(offsets))
    assert shard.read({f"room {n}": 0 for n in range(3000)}, offsets[-2]).reached == offsets[-1]
