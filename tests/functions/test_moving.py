"""A bucket that moves: everything of it arrives, once, and nobody else can have it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

import pytest
from redis.exceptions import ResponseError

from functions.calls import FIRST, TERM, Calls, Limits, Post, Real
from functions.edges import LIMIT, PEOPLE
from functions.moving import (
    SESSION,
    A,
    B,
    Journey,
    back,
    bucket_keys,
    contents,
    fill,
    lineage,
)
from functions.server import RunningServer

# What arrives ----------------------------------------------------------------------------------


def test_everything_arrives_as_it_was(journey: Journey) -> None:
    """Logs, tails, ids, people with statuses and links, sessions, with the times that they end."""
    fill(journey.source)
    before = contents(journey.source, A)
    kinds = {name.removeprefix(A)[0] for name in before}
    assert kinds == set("ltdpsco")
    journey.travel()
    assert contents(journey.target, A) == before
    assert bucket_keys(journey.source, A) == []
    assert journey.source.record(A) == "GONE 3 m1 s2"
    assert journey.target.record(A) == "OWNED 3"
    assert journey.target.read({"a": 0, "e": 0}, 0).bodies == ["x", "3", "2"]
    assert journey.target("members", [PEOPLE], TERM, 500)[0] == 3
    assert journey.target("load_session", [SESSION], TERM) == b"record"


def test_times_to_live_go_on(journey: Journey, server: RunningServer) -> None:
    """What had 60 s when the source was asked has them at the target, whatever its clock says."""
    journey.source("save_session", [SESSION], TERM, 1, 1, b"record", 60_000, 0)
    server.pass_time(20)
    journey.travel()
    assert 39_000 < journey.target.command("PTTL", SESSION) <= 40_000


def test_other_buckets_stay(journey: Journey) -> None:
    """They are open all the time, and none of their keys is touched."""
    fill(journey.source)
    mine = contents(journey.source, B)
    journey.freeze_and_copy()
    assert journey.source.publish(Post("b")) == [FIRST + 4]
    journey.complete()
    journey.release()
    journey.activate()
    journey.clear(journey.source)
    assert contents(journey.source, B).keys() == mine.keys()
    assert bucket_keys(journey.target, B) == []


def test_a_batch_is_bounded_in_bytes(journey: Journey) -> None:
    """A dump ends with the key that passes the limit, so the reply is at most one key larger."""
    for number in range(10):
        record = urandom(500)  # else a dump compresses it
        journey.source("save_session", [f"{A}o:{number}"], TERM, 1, 1, record, 60_000, 0)
    journey.begin()
    names = bucket_keys(journey.source, A)
    assert journey.copy(names, limit=1200) == 4
    assert contents(journey.target, A) == contents(journey.source, A)


def test_a_long_log_is_sent_in_parts(journey: Journey) -> None:
    """Once from its start, and then what is new."""
    journey.log_bytes = 0
    journey.source.store(*(Post("a", str(number)) for number in range(300)))
    journey.begin()
    journey.copy(bucket_keys(journey.source, A), limit=10_000)
    assert journey.target.command("XLEN", f"{A}l:a") == 300
    journey.source.store(Post("a", "new"))
    before = journey.target.command("INFO", "commandstats")["cmdstat_xadd"]["calls"]
    journey.round()
    assert journey.target.command("INFO", "commandstats")["cmdstat_xadd"]["calls"] == before + 1
    assert contents(journey.target, A) == contents(journey.source, A)


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_a_long_log_that_lost_entries_is_sent_anew(journey: Journey, *, is_trimmed: bool) -> None:
    """What is not in it any more at the source is not at the target either."""
    journey.log_bytes = 0
    journey.source.store(*(Real("a", name=str(number)) for number in range(300)))
    journey.begin()
    journey.copy_all()
    if is_trimmed:
        journey.source.store(*(Real("a") for _ in range(600)), limits=Limits(keep=20))
    else:
        assert journey.source("erase", [f"{A}l:a"], TERM, 1, 2000, FIRST + 7, "") == 1
    journey.round()
    journey.source.store(Real("a", name="last"))
    journey.round()
    assert contents(journey.target, A) == contents(journey.source, A)
    assert journey.source.command("XLEN", f"{A}l:a") < 301


def test_a_log_is_extended_at_its_end_only(journey: Journey) -> None:
    """Parts that do not follow on what is there are refused."""
    journey.begin()
    log = f"{A}l:a"
    journey.target("extend", [log], TERM, "m1", "", 1000, "5-0", b"one", "7-5", b"two")
    for after in ("5-0", "8-7"):
        with pytest.raises(ResponseError, match="^ROOMFUL LOG 7-5$"):
            journey.target("extend", [log], TERM, "m1", after, 1000, "9-8", b"three")
    assert journey.target("extend", [log], TERM, "m1", "7-5", 1000, "9-7", b"three") == 1
    assert journey.target("extend", [log], TERM, "m1", "", 1000, "9-7", b"three") == 1
    assert journey.target.command("XLEN", log) == 1


def test_a_retried_message_keeps_its_offset(journey: Journey) -> None:
    """The target knows the ids that the source has stored."""
    stored = journey.source.publish(Post("a", name="x"), Post("a", name="y"))
    journey.travel()
    reply = journey.target.publish(Post("a", name="y"), Post("a", name="z"), versions={A: 3})
    assert reply[0] == f"{stored[1]} 1000"
    assert isinstance(reply[1], int)
    assert reply[1] > int(stored[1])


# While it moves --------------------------------------------------------------------------------

WRITES: dict[str, tuple[Callable[[Calls], object], set[str]]] = {
    "publish": (
        lambda shard: shard.publish(Post("a", name="new"), Post("e"), Post("a", user="eve")),
        {"l:a", "t:a", "l:e", "t:e", "d:1:a5:alicenew"},
    ),
    "join": (lambda shard: join(shard, "dave"), {"p:a", "s:a", "c:a"}),
    "leave": (lambda shard: leave(shard, "carol"), {"p:a", "s:a", "c:a"}),
    "set_status": (
        lambda shard: shard("set_status", [PEOPLE], TERM, 1, "alice", "busy"),
        {"p:a", "s:a", "c:a"},
    ),
    "save_session": (
        lambda shard: shard("save_session", [SESSION], TERM, 1, 2, b"new", 60_000, 0),
        {"o:pid"},
    ),
    "drop_session": (lambda shard: shard("drop_session", [SESSION], TERM, 1, 2), {"o:pid"}),
    "erase": (lambda shard: shard("erase", [f"{A}l:a"], TERM, 1, 2000, "", ""), {"e:a"}),
    "sweep of an edge": (lambda shard: sweep_dead(shard), {"p:a", "s:a", "c:a"}),
}


def join(shard: Calls, user: str) -> object:
    """Let a user in."""
    return shard("join", [PEOPLE], TERM, 1, "edge1", "c", user, "online", LIMIT, LIMIT)


def leave(shard: Calls, user: str) -> object:
    """Let a user out."""
    return shard("leave", [PEOPLE], TERM, 1, "edge1", "c", user, 0, LIMIT)


def sweep_dead(shard: Calls) -> None:
    """Let the edge die, and its people leave."""
    shard("end_lease", [], TERM, "edge1")
    shard("sweep", [], TERM, 100, 0, LIMIT)


@pytest.mark.parametrize("name", WRITES)
def test_what_changes_while_it_moves_is_copied_again(journey: Journey, name: str) -> None:
    """Each function that writes says what it changes; afterwards both have the same."""
    write, changed = WRITES[name]
    fill(journey.source)
    journey.source.store(Real("a", name="real"))
    journey.begin()
    journey.copy_all()
    before = contents(journey.source, A)
    write(journey.source)
    now = contents(journey.source, A)
    assert now != before
    assert set(journey.round()) == {A + key for key in changed}
    assert contents(journey.target, A) == now
    assert journey.round() == []


def test_the_end_of_a_grace_is_copied_too(journey: Journey, server: RunningServer) -> None:
    """Who leaves by the sweep while the bucket moves has left at the target as well."""
    fill(journey.source)
    journey.begin()
    journey.copy_all()
    server.pass_time(11)
    journey.source("lease", [], TERM, "edge1", 0, 60_000, "")
    journey.source("sweep", [], TERM, 100, 0, LIMIT)
    assert f"{A}p:a" in journey.round()
    assert b"bob" not in journey.target.command("ZRANGE", PEOPLE, 0, -1)


def test_a_bucket_that_does_not_move_notes_nothing(journey: Journey) -> None:
    """Not before, and not after it was let be."""
    fill(journey.source)
    assert journey.source.command("EXISTS", f"{A}m") == 0
    journey.begin()
    journey.source.publish(Post("a"))
    assert journey.source.command("EXISTS", f"{A}m") == 1
    journey.abort()
    journey.source.publish(Post("a"))
    assert journey.source.command("EXISTS", f"{A}m") == 0


def test_what_changed_is_bounded(journey: Journey) -> None:
    """With nobody who copies it, or not fast enough, the bucket stays; nothing else is refused."""
    journey.begin()
    source = journey.source
    names = [str(number) for number in range(250_000 - 2)]
    source.command("SADD", f"{A}m", *names)
    source.publish(Post("a"))
    assert source.record(A) == "MOVING 1 m1 s2"
    assert source.publish(Post("e"), Post("a")) == [FIRST + 1, FIRST + 2]
    assert source.record(A) == "OWNED 1"
    source.publish(Post("a"))
    with pytest.raises(ResponseError, match="^ROOMFUL BUCKET OWNED 1$"):
        journey.round()
    source("move", [f"{A}b"], TERM, "m2", 1, "s2")
    assert source.command("EXISTS", f"{A}m") == 0


def test_a_moving_bucket_is_as_open_as_ever(journey: Journey) -> None:
    """In the same version, for reads and writes: nobody notices."""
    journey.begin()
    assert journey.source.record(A) == "MOVING 1 m1 s2"
    assert journey.source.publish(Post("a")) == [FIRST]
    assert journey.source.read({"a": 0}, 0).bodies == [""]
    assert journey.source.publish(Post("a"), versions={A: 2}) == ["VERSION 1"]


# Who has it ------------------------------------------------------------------------------------


def test_nobody_has_it_twice(journey: Journey) -> None:
    """At each step at most one of them takes messages, and it is never the one without the data."""

    def takers() -> list[str]:
        replies = [
            (name, calls.publish(Post("a"), versions={A: version}))
            for name, calls in (("s1", journey.source), ("s2", journey.target))
            for version in (1, 2, 3)
        ]
        return [name for name, reply in replies if isinstance(reply[0], int)]

    fill(journey.source)
    seen = [takers()]
    for step in journey.steps:
        step()
        seen.append(takers())
    assert seen == [["s1"]] * 3 + [[]] * 4 + [["s2"]]


def test_a_freeze_that_lapsed_is_not_released(journey: Journey, server: RunningServer) -> None:
    """The source decides, by its own clock: it has taken messages that the target has not."""
    journey.freeze_and_copy()
    journey.complete()
    server.pass_time(2)
    with pytest.raises(ResponseError, match="^ROOMFUL BUCKET OWNED 3$"):
        journey.release()
    assert journey.source.publish(Post("a"), versions={A: 3}) == [FIRST]
    with pytest.raises(ResponseError, match="^ROOMFUL BUCKET OWNED 3$"):
        journey.round()


def test_of_another_migration_nothing_is_taken(journey: Journey) -> None:
    """Neither copies nor steps: it may have been given up, and what it copied is old."""
    fill(journey.source)
    journey.freeze_and_copy()
    late = Journey(journey.source, journey.target, A, "m0", parting=journey.parting)
    before = contents(journey.target, A), journey.source.record(A), journey.target.record(A)
    for step in (
        late.freeze,
        late.round,
        late.copy_all,
        late.complete,
        late.release,
        late.activate,
        late.begin,
        lambda: late.clear(late.target),
        lambda: late.clear(late.source),
        lambda: late.target("import", [f"{A}l:a"], TERM, "m0", b"", -2),
        lambda: late.target("begin_import", [f"{A}b"], TERM, "m0", 1, "s1"),
    ):
        with pytest.raises(ResponseError, match="^ROOMFUL BUCKET "):
            step()
    late.abort()
    assert before == (
        contents(journey.target, A),
        journey.source.record(A),
        journey.target.record(A),
    )


def test_a_whole_copy_takes_no_more(journey: Journey) -> None:
    """What came later could be older."""
    journey.freeze_and_copy()
    assert journey.complete() == "IMPORTING 1 m1 s1 whole"
    with pytest.raises(ResponseError, match="^ROOMFUL BUCKET IMPORTING 1 m1 s1 whole$"):
        journey.target("import", [f"{A}l:a"], TERM, "m1", b"", -2)
    with pytest.raises(ResponseError, match="^ROOMFUL BUCKET IMPORTING 1 m1 s1 whole$"):
        journey.target("clear", [f"{A}l:a"], TERM, "m1")


def test_what_is_not_whole_is_not_opened(journey: Journey) -> None:
    """Whatever the source says."""
    journey.freeze_and_copy()
    journey.release()
    with pytest.raises(ResponseError, match="^ROOMFUL BUCKET IMPORTING 1 m1 s1$"):
        journey.activate()


def test_steps_may_be_repeated(journey: Journey) -> None:
    """A reply may be lost: again it says the same, and writes, so that WAIT waits for it."""
    fill(journey.source)
    journey.source("move", [f"{A}b"], TERM, "m1", 1, "s2")
    journey.source.publish(Post("a"))
    journey.begin()
    assert journey.round() != []
    journey.copy_all()
    journey.freeze()
    for calls, step in (
        (journey.target, journey.complete),
        (journey.source, journey.release),
        (journey.target, journey.activate),
    ):
        first = step()
        reached = calls.command("INFO", "replication")["master_repl_offset"]
        ear = journey.target.listen("roomful:arrivals")
        assert step() == first
        assert calls.command("INFO", "replication")["master_repl_offset"] >= reached
        assert ear.raw() == []
    assert [segment.shard for segment in lineage(journey.target, A)[1]] == ["s1"]


def test_opening_it_late_does_not_take_it_back(journey: Journey) -> None:
    """The order of a controller of before, when the bucket has gone on to somewhere else."""
    journey.travel()
    homeward = back(journey, "m2", 3)
    homeward.travel()
    assert journey.target("activate", [f"{A}b"], TERM, "m1", 3) == b"GONE 5 m2 s1"
    assert journey.source.record(A) == "OWNED 5"
