"""Session records, and what is said to all edges."""

from __future__ import annotations

from functions.calls import FIRST, TERM, Calls, Canary, Post, bucket_of
from functions.server import RunningServer

KEY = f"{bucket_of('p')}o:p"


def test_a_session_record_comes_back_as_it_was(shard: Calls) -> None:
    """Whatever bytes it is, until it is replaced or dropped."""
    assert shard("load_session", [KEY], TERM) is None
    for record in (b"\xff\x00one", b"two"):
        shard("save_session", [KEY], TERM, 1, 1, record, 60_000, 0)
        assert shard("load_session", [KEY], TERM) == record
    assert shard("drop_session", [KEY], TERM, 1, 1) == 1
    assert shard("drop_session", [KEY], TERM, 1, 1) == 0
    assert shard("load_session", [KEY], TERM) is None


def test_only_who_took_a_session_up_last_writes_it(shard: Calls) -> None:
    """An older generation changes nothing, and of two that take it up at once one is first."""
    assert shard("save_session", [KEY], TERM, 1, 1, "first", 60_000, 0) == 1
    assert shard("save_session", [KEY], TERM, 1, 2, "second", 60_000, 1) == 1
    assert shard("save_session", [KEY], TERM, 1, 2, "late", 60_000, 1) == 0
    assert shard("save_session", [KEY], TERM, 1, 1, "stale", 60_000, 0) == 0
    assert shard("drop_session", [KEY], TERM, 1, 1) == 0
    assert shard("load_session", [KEY], TERM) == b"second"
    assert shard("save_session", [KEY], TERM, 1, 2, "renewed", 60_000, 0) == 1
    assert shard("load_session", [KEY], TERM) == b"renewed"
    assert shard("drop_session", [KEY], TERM, 1, 2) == 1


def test_a_session_record_lapses(server: RunningServer, shard: Calls) -> None:
    """After its time it is gone, and each save begins that anew."""
    for _ in range(2):
        shard("save_session", [KEY], TERM, 1, 1, "record", 60_000, 0)
        server.pass_time(50)
    assert shard("load_session", [KEY], TERM) == b"record"
    server.pass_time(11)
    assert shard("load_session", [KEY], TERM) is None


def test_a_canary_comes_behind_all_that_was_published(shard: Calls) -> None:
    """Who hears it has heard the shard up to its offset; another edge does not hear it."""
    ear = shard.listen("r:a", "roomful:canary:edge1")
    other = shard.listen("roomful:canary:edge2")
    shard.store(Post("a"), Post("b"))
    assert shard("canary", [], TERM, "edge1", "token") == FIRST + 1
    (_, _), (channel, canary) = ear.heard()
    assert (channel, canary) == ("roomful:canary:edge1", Canary(FIRST + 1, "token"))
    assert other.heard() == []


def test_control_reaches_who_listens(shard: Calls) -> None:
    """The payload as it is, and to how many."""
    ears = [shard.listen("roomful:control") for _ in range(2)]
    assert shard("control", [], TERM, b"\xff\x00") == 2
    assert [ear.raw() for ear in ears] == [[("roomful:control", b"\xff\x00")]] * 2


def test_the_newest_topology_is_kept_and_announced(bare: Calls) -> None:
    """Also by a shard that has no term yet; an older or equal one changes nothing."""
    ear = bare.listen("roomful:topology")
    assert bare("topology") == [None, None]
    for generation, document, kept in (
        (3, "three", 3),
        (2, "two", 3),
        (3, "x", 3),
        (10, "ten", 10),
    ):
        assert bare("set_topology", [], generation, document) == kept
    assert bare("topology") == [b"10", b"ten"]
    assert ear.raw() == [("roomful:topology", b"three"), ("roomful:topology", b"ten")]
