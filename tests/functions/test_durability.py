"""The library and all it keeps are data: they survive a power cut, and replicas have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from functions.calls import FIRST, TERM, Calls, Limits, Post, bucket_of
from functions.server import PRODUCTS, RunningServer, serving
from roomful.shard.library import library_source

PEOPLE = f"{bucket_of('a')}p:a"
SESSION = f"{bucket_of('p')}o:p"
LIMITS = Limits(outbox=100)


@pytest.fixture(params=PRODUCTS)
def primary(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    """A server that writes everything to its disk, with a shard that has something of each kind."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0")
    with serving(request.param, tmp_path / "primary", *options) as running:
        calls = running.connect()
        calls.command("FUNCTION", "LOAD", library_source())
        calls("take_term", [], "s1", TERM)
        calls("claim", [f"{{{number}}}b" for number in range(4)], TERM, 1)
        yield running


def use(calls: Calls) -> None:
    """Leave something of each kind."""
    calls.store(Post("a", name="x"), Post("b", "2"), limits=LIMITS)
    calls("lease", [], TERM, "edge1", 1, 60_000, "here")
    calls("join", [PEOPLE], TERM, 1, "edge1", "c", "alice", "away", 500, 500)
    calls("join", [PEOPLE], TERM, 1, "edge1", "c", "bob", "online", 500, 500)
    calls("leave", [PEOPLE], TERM, 1, "edge1", "c", "bob", 10_000, 500)
    calls("save_session", [SESSION], TERM, 1, 1, b"record", 60_000, 0)
    calls("set_topology", [], 3, "document")
    calls("move", [f"{bucket_of('c')}b"], TERM, "m1", 1, "s2")
    calls("freeze", [f"{bucket_of('c')}b"], TERM, "m1", 2000)


def check(calls: Calls) -> None:
    """Find all of it again."""
    assert calls.publish(Post("a", name="x")) == [f"{FIRST} 1000"]
    assert calls.read({"a": 0, "b": 0}, 0).bodies == ["x", "2"]
    assert calls("members", [PEOPLE], TERM, 500) == [2, b"alice", b"away", b"bob", b"online"]
    assert calls("edges") == [b"edge1", b"here"]
    assert calls("load_session", [SESSION], TERM) == b"record"
    assert calls("topology") == [b"3", b"document"]
    assert calls.command("XLEN", "roomful:outbox") == 2
    assert calls.command("ZCARD", "roomful:gone") == 1
    assert calls.record(bucket_of("c")).startswith(("FROZEN 2 m1 s2 ", "OWNED 3"))


def dump(calls: Calls) -> dict[bytes, tuple[bytes, int]]:
    """Give all keys with their values and when they lapse."""
    return {
        key: (calls.command("DUMP", key), calls.command("PEXPIRETIME", key)) for key in calls.keys()
    }


def test_a_power_cut_loses_nothing(primary: RunningServer) -> None:
    """A server that is started again has the functions and everything they wrote."""
    use(primary.connect())
    before = dump(primary.connect())
    primary.kill()
    primary.start()
    calls = primary.connect()
    assert dump(calls) == before
    check(calls)
    assert calls.store(Post("a"))[0] > FIRST + 1


def test_a_rewritten_file_has_everything_too(primary: RunningServer) -> None:
    """What the log of commands is compacted to is the same."""
    calls = primary.connect()
    use(calls)
    before = dump(calls)
    calls.command("BGREWRITEAOF")
    while calls.command("INFO", "persistence")["aof_rewrite_in_progress"]:
        pass
    primary.kill()
    primary.start()
    assert dump(primary.connect()) == before
    check(primary.connect())


@pytest.mark.parametrize("is_before", [True, False], ids=["stream", "copy"])
def test_a_replica_has_everything(
    primary: RunningServer, tmp_path: Path, *, is_before: bool
) -> None:
    """After WAIT it is the same, to the time when each key lapses; promoted, it goes on."""
    calls = primary.connect()
    options = ("--replicaof", "127.0.0.1", str(primary.port))
    if not is_before:
        use(calls)
    with serving(primary.product, tmp_path / "replica", *options) as replica:
        while calls.command("WAIT", 1, 1000) == 0:
            pass
        if is_before:
            use(calls)
        # Beyond what is there already: repetitions, refusals, room by room.
        calls.publish(Post("a", name="x"), Post("b", "3"), Post("c"), limits=LIMITS)
        calls("sweep", [], TERM, 100, 10_000, 500)
        assert calls.command("WAIT", 1, 30_000) == 1
        promoted = replica.connect()
        assert dump(promoted) == dump(calls)
        assert promoted.read({"a": 0, "b": 0}, 0).bodies == ["x", "2", "3"]
        primary.kill()
        promoted.command("REPLICAOF", "NO", "ONE")
        assert promoted("take_term", [], "s1", 2) == [2, 2 << 40]
        again, new = promoted.publish(Post("a", name="x"), Post("b", "4"), term=2)
        assert (again, new) == (f"{FIRST} 1000", (2 << 40) + 1)
        replay = promoted.read({"a": 0, "b": 0}, 0, term=2)
        assert replay.bodies == ["x", "2", "3", "4"]


def test_a_replica_is_not_sent_what_edges_are_told(primary: RunningServer, tmp_path: Path) -> None:
    """A publication is for who hears the primary: a replica gets what is stored, and that once."""
    calls = primary.connect()
    body = "b" * 10_000
    options = ("--replicaof", "127.0.0.1", str(primary.port))
    with serving(primary.product, tmp_path / "replica", *options) as replica:
        while calls.command("WAIT", 1, 1000) == 0:
            pass
        sent = calls.command("INFO", "replication")["master_repl_offset"]
        calls.store(Post("a", body))
        assert calls.command("WAIT", 1, 30_000) == 1
        sent = calls.command("INFO", "replication")["master_repl_offset"] - sent
        assert len(body) < sent < len(body) * 1.5
        assert replica.connect().command("INFO", "commandstats").get("cmdstat_publish") is None


def test_a_primary_without_enough_replicas_refuses(primary: RunningServer) -> None:
    """min-replicas-to-write counts for functions that write, and nothing of them is left."""
    calls = primary.connect()
    calls.command("CONFIG", "SET", "min-replicas-to-write", 1)
    before = dump(calls)
    with pytest.raises(ResponseError, match="^NOREPLICAS"):
        calls.publish(Post("a"))
    assert dump(calls) == before
    assert calls.read({"a": 0}, 0).is_complete


def test_a_full_server_refuses_and_can_be_emptied(primary: RunningServer) -> None:
    """Above maxmemory nothing is stored; what only reads or frees still works."""
    calls = primary.connect()
    use(calls)
    calls.command("CONFIG", "SET", "maxmemory", 1)
    before = dump(calls)
    with pytest.raises(OutOfMemoryError):
        calls.publish(Post("a"))
    assert dump(calls) == before
    assert calls.read({"a": 0}, 0).bodies == ["x"]
    calls("lease", [], TERM, "edge1", 0, 60_000, "here")
    calls("leave", [PEOPLE], TERM, 1, "edge1", "c", "alice", 0, 500)
    calls("sweep", [], TERM, 100, 10_000, 500)
    calls("canary", [], TERM, "edge1", "token")
    calls("revoke", [], TERM, "user:eve", 60_000, "words")
    calls("take_term", [], "s1", TERM)
    calls("claim", ["{1}b"], TERM, 1)
    assert calls("drop_session", [SESSION], TERM, 1, 1) == 1
