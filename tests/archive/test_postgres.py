"""What only PostgreSQL has: migrations, partitions, values it does not take, and being away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
import pytest

from archive.conftest import DAY_MS, NOW_MS
from archive.database import Cluster, PgBouncer, running_cluster
from archive.test_archive import S1, A, entry, exported, offsets
from roomful.archive.base import ArchiveUnavailable, Rule, Stored
from roomful.archive.connections import Connections
from roomful.archive.migrate import check_schema, migrate, scripts
from roomful.archive.partitions import make_partitions, retain
from roomful.archive.postgres import BY_USER, PostgresArchive
from roomful.shard.message import Entry
from shard.recording import make_envelope


@asynccontextmanager
async def connected(url: str, count: int = 2) -> AsyncIterator[Connections]:
    """Give connections to a database."""
    connections = Connections(url, count, 60)
    yield connections
    await connections.aclose()


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    """Give the answer of SQL."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


# Migrations --------------------------------------------------------------------------------------


async def test_many_migrate_at_once_and_again(
    cluster: Cluster, bouncer: PgBouncer, empty: str
) -> None:
    """A deployment of several: each migration is run once, also through PgBouncer."""
    async with (
        connected(cluster.url(empty)) as direct,
        connected(cluster.url(empty, bouncer.port)) as pooled,
    ):
        ran = await asyncio.gather(*(migrate(one) for one in (direct, pooled, direct, pooled)))
        assert sorted(map(len, ran)) == [0, 0, 0, len(scripts())]
        assert await migrate(direct) == []
        await check_schema(pooled)


async def test_a_database_without_a_schema_says_what_to_do(cluster: Cluster, empty: str) -> None:
    """Whoever starts first learns the command; waiting would not help."""
    async with connected(cluster.url(empty)) as connections:
        with pytest.raises(ArchiveUnavailable, match="roomful archive migrate") as unavailable:
            await check_schema(connections)
    assert not unavailable.value.temporary
    archive = PostgresArchive(cluster.url(empty))
    with pytest.raises(ArchiveUnavailable, match="roomful archive migrate"):
        await archive.store(S1, [entry(1)])
    await archive.aclose()


async def test_a_newer_schema_is_refused(cluster: Cluster, empty: str) -> None:
    """After a rollback of the program nothing is written to what it does not know."""
    async with connected(cluster.url(empty)) as connections:
        await migrate(connections)
        with psycopg.connect(cluster.url(empty)) as connection:
            connection.execute("INSERT INTO roomful.migration VALUES (999, 'later')")
        for work in (migrate, check_schema):
            with pytest.raises(ArchiveUnavailable, match="newer"):
                await work(connections)


# Partitions --------------------------------------------------------------------------------------


async def test_partitions_are_made_ahead_once(cluster: Cluster, empty: str) -> None:
    """However many archivers do it; partitions of a new size end where others begin."""
    url = cluster.url(empty)
    async with connected(url) as connections:
        await migrate(connections)
        made = await asyncio.gather(
            *(make_partitions(connections, NOW_MS, DAY_MS) for _ in range(4))
        )
        assert sum(made) == 3
        assert await make_partitions(connections, NOW_MS, 7 * DAY_MS) == 2
    rows = ask(url, "SELECT first_ms, end_ms FROM roomful.partition ORDER BY 1")
    assert all(one[1] <= other[0] for one, other in zip(rows, rows[1:], strict=False))


async def test_messages_that_waited_for_a_partition_move_to_it(
    cluster: Cluster, empty: str
) -> None:
    """They were stored before it was made: they are there once, before and after."""
    url = cluster.url(empty)
    archive = PostgresArchive(url)
    await migrate(archive.connections)
    entries = [entry(1), entry(2, age_days=-1), entry(3, age_days=100), entry(4, age_days=4000)]
    await archive.store(S1, entries)
    await make_partitions(archive.connections, NOW_MS, DAY_MS)
    assert ask(url, 'SELECT "offset" FROM roomful.message_other') == [(4,)]
    assert await offsets(archive) == [1, 2, 3, 4]
    assert await archive.store(S1, entries) == Stored(0)
    await archive.aclose()


async def test_old_partitions_are_dropped(cluster: Cluster, empty: str) -> None:
    """Whole, when every rule is past them; what went is known to be gone."""
    url = cluster.url(empty)
    archive = PostgresArchive(url)
    await migrate(archive.connections)
    for age in (30, 20, 2):
        await make_partitions(archive.connections, NOW_MS - age * DAY_MS, DAY_MS)
    await archive.store(S1, [entry(n, age_days=age) for n, age in enumerate((30, 20, 2), 1)])
    rules = (Rule("b*", DAY_MS), Rule("*", 25 * DAY_MS))
    assert await retain(archive.connections, rules, NOW_MS) == 1
    names = ask(url, "SELECT name FROM roomful.partition WHERE end_ms <= 1797840000000")
    assert names == []
    assert await offsets(archive) == [2, 3]
    assert (await archive.read(S1, {A: 0}, range(1, 4), 1000)).holes == [A]
    assert (await archive.read(S1, {A: 0}, range(2, 4), 5000)).holes == ()
    await archive.aclose()


async def test_a_users_messages_are_found_by_an_index(cluster: Cluster, empty: str) -> None:
    """In partitions of before the index, of after it, and in what has none."""
    url = cluster.url(empty)
    async with connected(url) as connections:
        await migrate(connections)
        await make_partitions(connections, NOW_MS, DAY_MS)
    with psycopg.connect(url) as connection:
        connection.execute("SET enable_seqscan = off")
        query = f"EXPLAIN DELETE FROM roomful.message WHERE {BY_USER} = 'alice'"  # noqa: S608
        plan = "\n".join(row[0] for row in connection.execute(query.encode()).fetchall())
    assert plan.count("user_id_idx") == 4, plan
    assert "Seq Scan" not in plan


# What it does not take ---------------------------------------------------------------------------


async def test_a_message_it_does_not_take_blocks_none(cluster: Cluster, database: str) -> None:
    """It is a dead letter with the reason; all others of its batch are stored, once."""
    url = cluster.url(database)
    archive = PostgresArchive(url)
    bad = Entry(5, make_envelope("a", "nul\0", at_s=NOW_MS / 1000))
    batch = [entry(n) for n in range(1, 5)] + [bad] + [entry(n) for n in range(6, 10)]
    assert await archive.store(S1, batch) == Stored(8, 1)
    assert await archive.store(S1, batch) == Stored(0, 1)
    assert await offsets(archive) == [1, 2, 3, 4, 6, 7, 8, 9]
    ((shard, offset, reason, raw),) = ask(
        url, 'SELECT shard, "offset", reason, raw FROM roomful.dead_letter'
    )
    assert (shard, offset) == ("s1", 5)
    assert "0x00" in reason
    assert msgspec.msgpack.decode(raw, type=Entry) == bad
    await archive.aclose()


async def test_people_can_read_messages_with_sql(cluster: Cluster, database: str) -> None:
    """The view has bodies as text, whole."""
    url = cluster.url(database)
    archive = PostgresArchive(url)
    await archive.store(S1, [entry(1, body='{"content":"hü"'.encode())])
    await archive.aclose()
    ((body, year),) = ask(
        url, "SELECT body::json->>'content', extract(year FROM at) FROM roomful.readable"
    )
    assert (body, year) == ("hü", 2027)


# Being away --------------------------------------------------------------------------------------


async def test_it_goes_on_when_the_server_is_back() -> None:
    """Crashed, stopped and started: unavailable meanwhile, then as before, with nothing lost."""
    with running_cluster() as cluster:
        archive = PostgresArchive(cluster.url("postgres"), timeout_s=30)
        await migrate(archive.connections)
        for round_number, end in enumerate((cluster.kill, cluster.stop)):
            await archive.store(S1, [entry(round_number)])
            end()
            with pytest.raises(ArchiveUnavailable) as unavailable:
                await archive.store(S1, [entry(100 + round_number)])
            assert unavailable.value.temporary
            cluster.start()
        await archive.store(S1, [entry(2)])
        assert [one.entry.offset for one in await exported(archive)] == [0, 1, 2]
        await archive.aclose()
