"""`roomful archive` on real shards and a real PostgreSQL: everything arrives, and once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from archive.database import Cluster, running_cluster
from archive.shards import (
    Archivers,
    Message,
    Publisher,
    ShardServer,
    eventually,
    running_shard,
    tell_topology,
)
from functions.calls import Calls, Limits
from functions.server import PRODUCTS
from roomful.archive.connections import Connections
from roomful.archive.migrate import migrate
from support.deadline import DEADLINE_S
from support.ports import claim_port

LONG_S = float(os.environ.get("ROOMFUL_TEST_ARCHIVE_S", "0"))
"""Seconds of load before each fault, and of an outage; the short form does the least."""


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[dict[str, ShardServer]]:
    """Two shards that know each other."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(running_shard(PRODUCTS[0], tmp_path / name, name))
            for name in ("s1", "s2")
        }
        tell_topology(found)
        yield found


@pytest.fixture
def archivers(
    tmp_path: Path, cluster: Cluster, database: str, shards: dict[str, ShardServer]
) -> Iterator[Archivers]:
    """Archivers of the two shards; they know the address of one server."""
    yield from _archivers(tmp_path, cluster.url(database), shards["s1"])


def _archivers(tmp_path: Path, url: str, server: ShardServer) -> Iterator[Archivers]:
    settings = {"url": url, "shards": f"redis://{server.address}", "claim_after_s": "1"}
    made = Archivers(tmp_path, settings)
    yield made
    statuses = made.end()
    # One that was stopped before it had begun dies of the signal.
    assert set(statuses) <= {0, -signal.SIGTERM}, made.log()
    assert "Traceback" not in made.log()


def archived(url: str) -> dict[tuple[str, str], list[int]]:
    """Give the offsets that are in the archive by shard and id."""
    with psycopg.connect(url) as connection:
        rows = connection.execute('SELECT shard, id, "offset" FROM roomful.message').fetchall()
    found: dict[tuple[str, str], list[int]] = {}
    for shard, name, offset in rows:
        found.setdefault((shard, name), []).append(offset)
    return found


def migrate_now(url: str) -> None:
    """Bring a database's schema to this version's."""

    async def work() -> None:
        connections = Connections(url, 1, 60)
        await migrate(connections)
        await connections.aclose()

    asyncio.run(work())


def has_acked(publisher: Publisher, count: int) -> bool:
    """Whether *publisher* has been told so often that a message is stored."""
    return len(publisher.acked) >= count


def is_empty(server: ShardServer) -> bool:
    """Whether nothing waits in the outbox."""
    calls = Calls(server.port)
    try:
        entries: int = calls("outbox", [])[3]
    finally:
        calls.close()
    return entries == 0


def check_all(url: str, *publishers: Publisher) -> None:
    """Every acknowledged message is there once, where it was acknowledged."""
    found = archived(url)
    for publisher in publishers:
        assert publisher.acked
        for name, offset in publisher.acked.items():
            assert found[publisher.name, name] == [offset]


def test_everything_arrives_and_leaves_the_outbox(
    cluster: Cluster, database: str, shards: dict[str, ShardServer], archivers: Archivers
) -> None:
    """Of all shards of the topology, by two archivers; the age and size of what waits go to 0."""
    with Publisher("s1", shards["s1"]) as one, Publisher("s2", shards["s2"]) as two:
        archivers.start()
        archivers.start()
        for publisher in (one, two):
            eventually(partial(has_acked, publisher, 200), "load")
            publisher.finish()
    for server in shards.values():
        eventually(partial(is_empty, server), "the outbox is empty")
    check_all(cluster.url(database), one, two)


def test_nobody_works_for_a_shard_that_has_left_and_ended(
    shards: dict[str, ShardServer], archivers: Archivers
) -> None:
    """However little was heard of it: a shard leaves only when its outbox is empty."""
    shards["s2"].kill()
    archivers.start()
    eventually(lambda: "archiving interrupted" in archivers.log(), archivers.log)
    tell_topology({"s1": shards["s1"]}, generation=2)
    eventually(lambda: "shard is gone" in archivers.log(), archivers.log)


def test_a_wrong_password_ends_it_at_once(
    tmp_path: Path, cluster: Cluster, database: str, shards: dict[str, ShardServer]
) -> None:
    """With the server and the user, and without the password."""
    url = cluster.url(database)
    migrate_now(url)
    settings = {"url": url, "shards": f"redis://{shards['s1'].address}"}
    archivers = Archivers(tmp_path, settings, password="guessed")
    assert archivers.start().wait(3 * DEADLINE_S) == 2
    said = archivers.log().splitlines()[-1]
    assert said.startswith("roomful: no server lets this program in: ")
    assert f"{shards['s1'].address}: refuses the user archiver (WRONGPASS" in said
    assert "guessed" not in archivers.log()


def test_it_is_alive_while_it_waits_for_the_database(archivers: Archivers) -> None:
    """Who asks /livez does not end it: it will go on by itself."""
    port, nobody = claim_port(), claim_port()
    archivers.start(port=str(port), url=f"postgresql://127.0.0.1:{nobody}/roomful")

    def is_alive() -> bool:
        if "waiting for the database" not in archivers.log():
            return False
        try:
            return httpx.get(f"http://127.0.0.1:{port}/livez", timeout=1.0).status_code == 200
        except httpx.TransportError:
            return False

    eventually(is_alive, archivers.log)


def test_kills_and_outages_lose_and_double_nothing(
    tmp_path: Path, shards: dict[str, ShardServer]
) -> None:
    """kill -9 of archivers, a crash and an outage of PostgreSQL, a shard's restart, under load."""
    with running_cluster() as cluster:
        url = cluster.url("postgres")
        migrate_now(url)
        settings = {"url": url, "shards": f"redis://{shards['s2'].address}", "claim_after_s": "1"}
        archivers = Archivers(tmp_path, settings)
        with Publisher("s1", shards["s1"]) as one, Publisher("s2", shards["s2"]) as two:
            archivers.start()
            archivers.start()
            for fault in (archivers.kill, cluster.kill, archivers.kill, shards["s1"].kill):
                for publisher in (one, two):
                    eventually(partial(has_acked, publisher, len(publisher.acked) + 100), "load")
                time.sleep(LONG_S)
                fault()
                if fault == archivers.kill:
                    archivers.start()
                elif fault == cluster.kill:
                    time.sleep(max(1.0, LONG_S))
                    cluster.start()
                else:
                    shards["s1"].start()
            one.finish()
            two.finish()
        for server in shards.values():
            eventually(partial(is_empty, server), archivers.log)
        check_all(url, one, two)
        assert all(len(offsets) == 1 for offsets in archived(url).values())
        assert set(archivers.end()) <= {0, -signal.SIGTERM}


def test_a_failover_is_followed(tmp_path: Path, cluster: Cluster, database: str) -> None:
    """
    The primary dies, its replica takes over at the same shard's name.

    What was acknowledged (one replica has it) is archived once, and nothing is archived that the
    new primary does not know: a message that was lost unacknowledged comes again at another
    offset.
    """
    product = PRODUCTS[0]
    with ExitStack() as stack:
        first = stack.enter_context(running_shard(product, tmp_path / "first", "s1"))
        options = "--replicaof", "127.0.0.1", str(first.port)
        second = stack.enter_context(running_shard(product, tmp_path / "second", None, *options))
        tell_topology({"s1": first}, acks=1)
        settings = {
            "url": cluster.url(database),
            "shards": f"redis://{first.address},redis://{second.address}",
        }
        archivers = Archivers(tmp_path, settings)
        archivers.start()
        archivers.start()
        with Publisher("s1", first, replicas=1) as publisher:
            eventually(lambda: len(publisher.acked) > 200, "load")
            first.kill()
            calls = Calls(second.port)
            calls.command("REPLICAOF", "NO", "ONE")
            calls("take_term", [], "s1", 2)
            calls.close()
            third = stack.enter_context(
                running_shard(
                    product, tmp_path / "third", None, "--replicaof", "127.0.0.1", str(second.port)
                )
            )
            assert third.port
            tell_topology({"s1": second}, generation=2, term=2, acks=1)
            publisher.term, publisher.server = 2, second
            seen = len(publisher.acked)
            eventually(lambda: len(publisher.acked) > seen + 200, "load after the failover")
            publisher.finish()
        eventually(partial(is_empty, second), archivers.log)
        check_all(cluster.url(database), publisher)
        assert all(len(offsets) == 1 for offsets in archived(cluster.url(database)).values())
        assert set(archivers.end()) <= {0, -signal.SIGTERM}


def test_what_cannot_be_read_blocks_nothing(
    cluster: Cluster, database: str, shards: dict[str, ShardServer], archivers: Archivers
) -> None:
    """It is a dead letter with its bytes; what came with it and after it is archived."""
    calls = Calls(shards["s1"].port)
    calls.store(Message("a", name="before"), limits=Limits(outbox=9))
    calls.command("XADD", "roomful:outbox", f"{(1 << 40) + 1}-{2**62}", "r", "a", "p", b"\xff junk")
    calls("publish", ["{1}l:a"], 1, 9, 9000, 9000, 9, 0, 1, 1, "", 5, b"\xc1")
    calls.store(Message("a", name="after"), limits=Limits(outbox=9))
    calls.close()
    archivers.start()
    eventually(lambda: is_empty(shards["s1"]), "the outbox is empty")
    url = cluster.url(database)
    assert {name for _, name in archived(url)} == {"before", "after"}
    with psycopg.connect(url) as connection:
        letters = connection.execute("SELECT reason, raw FROM roomful.dead_letter").fetchall()
    assert len(letters) == 2
    assert any(b"\xff junk" in raw for _, raw in letters)


def test_the_metrics_say_that_it_lags_before_anyone_is_refused(
    cluster: Cluster, shards: dict[str, ShardServer], archivers: Archivers
) -> None:
    """An archiver that cannot write says how much waits, and for how long."""
    port = claim_port()
    calls = Calls(shards["s2"].port)
    calls.store(*(Message(f"room {n}", name="x") for n in range(5)), limits=Limits(outbox=9))
    calls.close()
    with psycopg.connect(cluster.url(archivers.settings["url"].rsplit("/", 1)[1])) as blocking:
        blocking.execute("LOCK TABLE roomful.message IN ACCESS EXCLUSIVE MODE")
        archivers.start(port=str(port), timeout_s="1")

        def lags() -> bool:
            try:
                text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            except httpx.TransportError:
                return False
            lines = dict(
                line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")
            )
            failures = float(lines["roomful_archive_failures_total"])
            entries = lines.get('roomful_archive_lag_entries{shard="s2"}', "0.0")
            return failures > 0 and float(entries) == 5

        eventually(lags, archivers.log)
        blocking.rollback()
    eventually(partial(is_empty, shards["s2"]), archivers.log)
