"""The outbox: what the archiver has to fetch, and what happens when it does not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from functions.calls import FIRST, Calls, Limits, Post, Real
from functions.server import EPOCH_S, RunningServer

OUTBOX = "roomful:outbox"
GROUP = "archive"


def fetch(shard: Calls, consumer: str = "c", count: int = 1000) -> list[tuple[bytes, int]]:
    """Take new entries as an archiver does; gives their ids and bytes."""
    shard.command("XGROUP", "CREATE", OUTBOX, GROUP, "0", "MKSTREAM")
    words = "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", OUTBOX, ">"
    ((_, entries),) = shard.command("XREADGROUP", *words)
    return [(number, sum(map(len, fields.values()))) for number, fields in entries]


def status(shard: Calls) -> list[int]:
    """Give newest offset, oldest entry's offset and age, entries, bytes, newest not archived."""
    numbers: list[int] = shard("outbox", [])
    return numbers


def test_the_outbox_gets_what_is_published(shard: Calls) -> None:
    """Each publication with its room, by its newest offset and time; nothing when it is off."""
    ear = shard.listen("r:a", "r:b")
    shard.store(Post("c"))
    shard.store(Post("a", "1"), Post("b", "2"), Post("a", "3"), limits=Limits(outbox=100))
    sent = [payload for _, payload in ear.raw()]
    entries = shard.command("XRANGE", OUTBOX, "-", "+")
    ((first, one), (second, other)) = entries
    assert (one, other) == ({b"r": b"a", b"p": sent[0]}, {b"r": b"b", b"p": sent[1]})
    assert [int(number.split(b"-")[0]) for number in (first, second)] == [FIRST + 2, FIRST + 3]
    assert int(first.split(b"-")[1]) // 1000 >= EPOCH_S


def test_each_room_has_its_class(shard: Calls) -> None:
    """In one batch: required, best effort, off."""
    shard.store(Post("a"), Post("b"), Post("c"), limits=Limits(outbox=100, classes="10-"))
    rooms = [fields[b"r"] for _, fields in shard.command("XRANGE", OUTBOX, "-", "+")]
    assert rooms == [b"a", b"b"]


def test_a_required_room_waits_for_the_archiver(shard: Calls) -> None:
    """LAGGING, with nothing lost; repetitions are answered; when there is space, it goes on."""
    limits = Limits(outbox=2, classes="1")
    (first,) = shard.store(Post("a", name="x"), limits=limits)
    shard.store(Post("b"), limits=limits)
    refused = shard.publish(Post("a", name="x"), Post("a", name="y"), Post("b"), limits=limits)
    assert refused == [f"{first} 1000", "LAGGING", "LAGGING"]
    taken = fetch(shard)
    shard("archived", [], taken[0][1], taken[0][0])
    assert isinstance(shard.publish(Post("a", name="y"), limits=limits)[0], int)


def test_a_batch_goes_in_whole(shard: Calls) -> None:
    """One that begins below the limit."""
    shard.store(*(Post(f"room {n}") for n in range(500)), limits=Limits(outbox=1, classes="1"))
    assert shard.command("XLEN", OUTBOX) == 500


def test_best_effort_never_costs_a_required_room_anything(shard: Calls) -> None:
    """
    When the outbox is full, what is best effort is stored but not archived, and that is known.

    Nothing that waits is ever dropped for it, and it does not make required rooms wait longer.
    """
    shard.store(Post("a"), limits=Limits(outbox=1, classes="1"))
    before = shard.command("XRANGE", OUTBOX, "-", "+")
    both = shard.publish(Post("a"), Post("b"), Post("c"), limits=Limits(outbox=1, classes="10-"))
    assert both[0] == "LAGGING"
    assert all(isinstance(one, int) for one in both[1:])
    assert shard.command("XRANGE", OUTBOX, "-", "+") == before
    assert status(shard)[5] == both[1]
    assert shard.bodies("b") == [""]


def test_the_bound_is_in_bytes_too(shard: Calls) -> None:
    """Few large messages fill it as many small ones do."""
    limits = Limits(outbox=1000, outbox_bytes=10_000, classes="1")
    shard.store(Post("a", "x" * 12_000), limits=limits)
    assert shard.publish(Post("a"), limits=limits) == ["LAGGING"]
    taken = fetch(shard)
    shard("archived", [], taken[0][1], taken[0][0])
    shard.store(Post("a"), limits=limits)


def test_what_is_archived_leaves_the_outbox(shard: Calls) -> None:
    """Acknowledged and deleted, once; the oldest that is left says up to where all is archived."""
    stored = shard.store(*(Post(room) for room in "abc"), limits=Limits(outbox=9))
    assert status(shard)[:2] == [stored[2], stored[0]]
    one, two, three = fetch(shard)
    assert shard("archived", [], two[1], two[0]) == 1
    assert status(shard)[1] == stored[0]
    assert shard("archived", [], one[1] + two[1], one[0], two[0]) == 1
    assert status(shard)[1] == stored[2]
    assert shard("archived", [], three[1], three[0]) == 1
    assert status(shard)[1:5] == [0, 0, 0, 0]
    assert shard.command("XPENDING", OUTBOX, GROUP)["pending"] == 0


def test_its_age_is_that_of_the_oldest(server: RunningServer, shard: Calls) -> None:
    """In milliseconds, by the server's clock."""
    shard.store(Post("a"), limits=Limits(outbox=9))
    server.pass_time(60)
    assert 59_000 <= status(shard)[2] <= 61_000


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_its_bytes_are_counted(shard: Calls, data: st.DataObject) -> None:
    """Whatever comes and goes: exactly what the entries in it have."""
    shard.command("DEL", OUTBOX)
    shard.command("HDEL", "roomful:shard", "outbox")
    shard.command("XGROUP", "CREATE", OUTBOX, GROUP, "0", "MKSTREAM")
    for _ in range(data.draw(st.integers(1, 6))):
        rooms = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
        shard.store(
            *(Post(room, "x" * n) for n, room in enumerate(rooms)), limits=Limits(outbox=99)
        )
        entries = shard.command("XRANGE", OUTBOX, "-", "+")
        chosen = data.draw(st.lists(st.sampled_from(entries), unique_by=lambda one: one[0]))
        if chosen:
            size = sum(len(fields[b"r"]) + len(fields[b"p"]) for _, fields in chosen)
            assert shard("archived", [], size, *(one[0] for one in chosen)) == len(chosen)
    left = shard.command("XRANGE", OUTBOX, "-", "+")
    assert status(shard)[4] == sum(len(f[b"r"]) + len(f[b"p"]) for _, f in left)


# Erasing -----------------------------------------------------------------------------------------


def test_erased_messages_are_gone_from_the_log(shard: Calls) -> None:
    """One by its offset, a user's, or all; nothing that is newer, and nothing of other rooms."""
    offsets = shard.store(*(Real("a", name=str(n), user="ab"[n % 2], time=n) for n in range(8)))
    shard.store(Real("e", name="other"))

    def left() -> list[int]:
        found = shard.command("XRANGE", "{1}l:a", "-", "+")
        return [int(number.split(b"-")[0]) for number, _ in found]

    def erase(at_ms: int, offset: int | str = "", user: str = "") -> int:
        gone: int = shard("erase", ["{1}l:a"], 1, 1, at_ms, offset, user)
        return gone

    assert erase(9, offsets[3]) == 1
    assert erase(9, offsets[3]) == 0
    assert erase(5, user="a") == 3
    assert left() == [offsets[n] for n in (1, 5, 6, 7)]
    assert erase(99) == 4
    assert shard.command("XLEN", "{1}l:e") == 1


def test_a_bucket_that_is_elsewhere_erases_nothing(shard: Calls) -> None:
    """Who asks is told where it is, and asks there."""
    with pytest.raises(ResponseError, match="VERSION 1"):
        shard("erase", ["{1}l:a"], 1, 7, 99, "", "")
