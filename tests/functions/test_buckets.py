"""Terms and buckets: who may write where, and what changes that."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from functions.calls import FIRST, TERM, Calls, Limits, Post, bucket_of
from functions.server import RunningServer

A, B = bucket_of("a"), bucket_of("b")

# Terms -----------------------------------------------------------------------------------------


def test_a_shard_without_a_term_takes_nothing(bare: Calls) -> None:
    """A server is nobody until the controller says what it is."""
    with pytest.raises(ResponseError, match="^ROOMFUL STALE_TERM 0$"):
        bare.publish(Post("a"))
    with pytest.raises(ResponseError, match="^ROOMFUL STALE_TERM 0$"):
        bare("claim", ["{1}b"], TERM, 1)


@pytest.mark.parametrize("term", [TERM, TERM + 2])
def test_another_term_is_refused_whole(shard: Calls, term: int) -> None:
    """An edge with an old topology, and an old primary that meets a new one, both stop."""
    shard("take_term", [], "s1", TERM + 1)
    calls: list[tuple[str, list[str], list[str | int]]] = [
        ("publish", [f"{A}l:a"], [5000, 1000, 1000, 0, 0, 1, 1, "", 1, "x"]),
        ("read", [f"{A}l:a"], [0, 1000, 1000, 0]),
        ("page", [f"{A}l:a"], ["", "", 1, 1000, 1000]),
        ("tails", [f"{A}l:a"], []),
        ("join", [f"{A}p:a"], [1, "edge", "c", "alice", "online", 500, 500]),
        ("leave", [f"{A}p:a"], [1, "edge", "c", "alice", 0, 500]),
        ("set_status", [f"{A}p:a"], [1, "alice", "away"]),
        ("members", [f"{A}p:a"], [500]),
        ("save_session", [f"{A}o:p"], [1, 1, "record", 1000, 0]),
        ("load_session", [f"{A}o:p"], []),
        ("drop_session", [f"{A}o:p"], [1, 1]),
        ("lease", [], ["edge", 1, 1000, ""]),
        ("end_lease", [], ["edge"]),
        ("sweep", [], [100, 0, 500]),
        ("canary", [], ["edge", "token"]),
        ("control", [], ["payload"]),
        ("claim", [f"{A}b"], [1]),
        ("move", [f"{A}b"], ["m1", 1, "s2"]),
        ("freeze", [f"{A}b"], ["m1", 1000]),
        ("thaw", [f"{A}b"], ["m1"]),
    ]
    before = shard.keys()
    for function, keys, args in calls:
        with pytest.raises(ResponseError, match=f"^ROOMFUL STALE_TERM {TERM + 1}$"):
            shard(function, keys, term, *args)
    assert shard.keys() == before


def test_a_term_begins_above_all_before_it(shard: Calls) -> None:
    """Also above what the primary before gave out and nobody replicated."""
    shard.store(Post("a"))
    assert shard("take_term", [], "s1", 3) == [3, 3 << 40]
    assert shard.publish(Post("a"), term=3) == [(3 << 40) + 1]


def test_taking_a_term_again_changes_nothing(shard: Calls) -> None:
    """The controller may repeat it."""
    shard.store(Post("a"))
    assert shard("take_term", [], "s1", TERM) == [TERM, FIRST]


def test_terms_only_grow(shard: Calls) -> None:
    """A leader of before cannot take the shard back."""
    shard("take_term", [], "s1", 5)
    with pytest.raises(ResponseError, match="^ROOMFUL STALE_TERM 5$"):
        shard("take_term", [], "s1", 4)


def test_a_term_that_was_full_takes_two(shard: Calls) -> None:
    """2^40 messages in one term: the next begins above them all the same."""
    shard.command("HSET", "roomful:shard", "seq", (2 << 40) + 7)
    assert shard("take_term", [], "s1", 2) == [2, 3 << 40]


def test_a_shard_keeps_its_name(shard: Calls) -> None:
    """Data of one shard cannot be taken for another's: cursors would mix."""
    with pytest.raises(ResponseError, match="^ROOMFUL WRONG_SHARD s1$"):
        shard("take_term", [], "s2", TERM + 1)
    assert shard.publish(Post("a")) == [FIRST]


@pytest.mark.parametrize("term", ["0", "-1", "8192", "x"])
def test_terms_are_those_that_offsets_have_room_for(bare: Calls, term: str) -> None:
    """1 to 8191."""
    with pytest.raises(ResponseError, match="^ROOMFUL BAD_TERM 8191$"):
        bare("take_term", [], "s1", term)
    assert bare("take_term", [], "s1", 8191) == [8191, 8191 << 40]


# What a bucket's record says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "refusal"),
    [
        pytest.param(None, "MOVED 0 -", id="none"),
        pytest.param("OWNED 2", "VERSION 2", id="a newer version"),
        pytest.param("GONE 5 m1 s2", "MOVED 5 s2", id="gone"),
        pytest.param("IMPORTING 1 m1", "FROZEN 20", id="importing"),
    ],
)
def test_a_bucket_that_is_not_ours_refuses_its_messages(
    shard: Calls, record: str | None, refusal: str
) -> None:
    """For each message, with what the edge needs to go on; other buckets take theirs."""
    if record is None:
        shard.command("DEL", f"{A}b")
    else:
        shard.command("SET", f"{A}b", record)
    reply = shard.publish(Post("a", name="1"), Post("b"), Post("a", name="2"))
    assert reply == [refusal, FIRST, refusal]
    shard.command("SET", f"{A}b", "OWNED 1")
    assert shard.bodies("a") == []
    assert shard.publish(Post("a", name="1")) == [FIRST + 1]


def test_an_edge_from_the_future_is_refused(shard: Calls) -> None:
    """A version that the shard does not have yet."""
    assert shard.publish(Post("a"), versions={A: 2}) == ["VERSION 1"]


@pytest.mark.parametrize("record", [None, "GONE 5 m1 s2", "IMPORTING 1 m1"])
def test_what_is_not_ours_is_not_read(shard: Calls, record: str | None) -> None:
    """What may be there is not what there is."""
    shard.store(Post("a"))
    if record is None:
        shard.command("DEL", f"{A}b")
    else:
        shard.command("SET", f"{A}b", record)
    for function, keys, args in (
        ("read", [f"{B}l:b", f"{A}l:a"], [0, 1000, 1000, 0, 0]),
        ("page", [f"{A}l:a"], ["", "", 1, 1000, 1000]),
        ("members", [f"{A}p:a"], [500]),
        ("load_session", [f"{A}o:p"], []),
    ):
        with pytest.raises(ResponseError, match=rf"^ROOMFUL (MOVED|FROZEN) .*\{A}$"):
            shard(function, keys, TERM, *args)


@pytest.mark.parametrize("record", [None, "GONE 5 m1 s2", "FROZEN 2 m1 s2 99999999999999"])
def test_presence_and_sessions_are_of_the_bucket_too(shard: Calls, record: str | None) -> None:
    """They move with it: what was written beside it would be lost."""
    if record is None:
        shard.command("DEL", f"{A}b")
    else:
        shard.command("SET", f"{A}b", record)
    shard("lease", [], TERM, "edge", 1, 60_000, "")
    before = shard.keys()
    calls: list[tuple[str, str, list[str | int]]] = [
        ("join", "p:a", ["edge", "c", "alice", "online", 500, 500]),
        ("leave", "p:a", ["edge", "c", "alice", 0, 500]),
        ("set_status", "p:a", ["alice", "away"]),
        ("save_session", "o:p", [1, "record", 1000, 0]),
        ("drop_session", "o:p", [1]),
    ]
    for function, key, args in calls:
        with pytest.raises(ResponseError, match=r"^ROOMFUL (MOVED|FROZEN) "):
            shard(function, [A + key], TERM, 1, *args)
    assert shard.keys() == before


# Claiming --------------------------------------------------------------------------------------


def test_claiming_takes_what_nobody_has(shard: Calls) -> None:
    """NONE becomes OWNED in the version asked for; all else stays, and repeating is nothing."""
    shard.command("SET", "{2}b", "GONE 5 m1 s2")
    shard.command("DEL", "{3}b")
    for _ in range(2):
        assert shard("claim", ["{1}b", "{2}b", "{3}b"], TERM, 7) == [
            b"OWNED 1",
            b"GONE 5 m1 s2",
            b"OWNED 7",
        ]


# Freezing --------------------------------------------------------------------------------------


def freeze(shard: Calls, hold_ms: int = 2000) -> str:
    """Freeze the bucket of room a, as one that moves to s2."""
    shard("move", [f"{A}b"], TERM, "m1", 1, "s2")
    record: bytes = shard("freeze", [f"{A}b"], TERM, "m1", hold_ms)[0]
    return record.decode()


def test_a_frozen_bucket_takes_nothing_and_says_for_how_long(shard: Calls) -> None:
    """Its messages are FROZEN with the rest of the time, and it can be read."""
    shard.store(Post("a", "kept"))
    assert freeze(shard).startswith("FROZEN 2 m1 s2 ")
    words, stored = shard.publish(Post("a"), Post("b"))
    assert isinstance(stored, int)
    assert words == "FROZEN 2000"
    assert shard.read({"a": 0}, 0).bodies == ["kept"]
    assert shard.bodies("a") == ["kept"]


def test_a_freeze_lapses_by_itself(server: RunningServer, shard: Calls) -> None:
    """Afterwards the bucket is open, in a newer version: nobody else could have it meanwhile."""
    freeze(shard)
    server.pass_time(2)
    assert shard.record(A) == "OWNED 3"
    assert shard.publish(Post("a"), versions={A: 2}) == ["VERSION 3"]
    assert shard.publish(Post("a"), versions={A: 3}) == [FIRST]
    assert shard.command("GET", f"{A}b") == b"OWNED 3"


def test_a_lapsed_freeze_stays_lapsed(server: RunningServer, shard: Calls) -> None:
    """Once a message saw it lapse, a clock that goes back does not freeze it again."""
    freeze(shard)
    server.pass_time(3)
    shard.publish(Post("a"))
    server.pass_time(-3)
    assert shard.record(A) == "OWNED 3"


def test_a_freeze_is_bounded(server: RunningServer, shard: Calls) -> None:
    """2 s, whatever was asked for."""
    freeze(shard, hold_ms=3_600_000)
    server.pass_time(2)
    assert shard.record(A) == "OWNED 3"


def test_freezing_is_for_a_bucket_that_moves(shard: Calls) -> None:
    """A repeated or late command of a controller does nothing."""
    for record in ("OWNED 1", "MOVING 1 m2 s2", freeze(shard), "GONE 3 m1 s2", "IMPORTING 1 m1 s2"):
        shard.command("SET", f"{A}b", record)
        with pytest.raises(ResponseError, match=f"^ROOMFUL BUCKET {record}$"):
            shard("freeze", [f"{A}b"], TERM, "m1", 2000)
        assert shard.record(A) == record


def test_thawing_ends_a_freeze_of_the_same_migration(shard: Calls) -> None:
    """With a new version; of another migration it does nothing, and again neither."""
    record = freeze(shard)
    assert shard("thaw", [f"{A}b"], TERM, "m2").decode() == record
    for _ in range(2):
        assert shard("thaw", [f"{A}b"], TERM, "m1") == b"OWNED 3"
    assert shard.publish(Post("a"), versions={A: 3}) == [FIRST]


def test_the_full_outbox_is_asked_after_the_bucket(shard: Calls) -> None:
    """A bucket that moved says so, however far behind the archive is."""
    limits = Limits(outbox=1, classes="1")
    shard.store(Post("b"), limits=limits)
    shard.command("SET", f"{A}b", "GONE 5 m1 s2")
    assert shard.publish(Post("a"), Post("b"), limits=limits) == ["MOVED 5 s2", "LAGGING"]


def test_a_term_says_what_was_kept_of_the_one_before(shard: Calls) -> None:
    """Where each later term began, and the newest offset before it; the first took over nothing."""
    assert shard("terms", [], TERM) == [TERM << 40, []]
    shard.store(Post("a"), Post("a"))
    shard("take_term", [], "s1", 3)
    shard("take_term", [], "s1", 3)
    assert shard("terms", [], 3) == [3 << 40, [b"%d" % (3 << 40), b"%d" % (FIRST + 1)]]


def test_a_shard_that_begins_anew_has_a_hole_for_all_that_it_gave_before(bare: Calls) -> None:
    """Its data is lost, and who was away has heard of offsets that nothing is known of."""
    base = bare("take_term", [], "s1", 5)[1]
    bare("claim", [f"{A}b"], 5, 1)
    bare.publish(Post("a", "new"), term=5)
    assert bare.read({"a": 0}, FIRST, term=5).holes == ["a"]
    assert bare.read({"a": 0}, base - 1, term=5).holes == ["a"]
    assert bare.read({"a": 0}, base, term=5).bodies == ["new"]


def test_a_cursor_of_what_was_not_kept_has_a_hole(shard: Calls) -> None:
    """Above what a new primary has, up to its term: nobody knows what was heard there."""
    kept = shard.store(Post("a"))[-1]
    shard("take_term", [], "s1", 3)
    shard.publish(Post("a", "new"), term=3)
    base = 3 << 40
    for after, is_whole in ((kept, True), (kept + 1, False), (base - 1, False), (base, True)):
        replay = shard.read({"a": 0}, after, term=3)
        assert (replay.holes, replay.bodies) == (([], ["new"]) if is_whole else (["a"], []))
