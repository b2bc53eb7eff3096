"""One suite for all archives: a test that takes `archive` runs against each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from archive.database import Cluster, PgBouncer, bouncing, running_cluster
from roomful.archive.base import Archive
from roomful.archive.connections import Connections
from roomful.archive.migrate import migrate
from roomful.archive.partitions import make_partitions
from roomful.archive.postgres import PostgresArchive
from roomful.archive.sqlite import SqliteArchive

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server."""
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def bouncer(cluster: Cluster) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode before it."""
    with bouncing(cluster) as running:
        yield running


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """A database with the schema, and partitions around NOW_MS."""
    name = cluster.create()

    async def fill() -> None:
        connections = Connections(cluster.url(name), 1, 60)
        await migrate(connections)
        await make_partitions(connections, NOW_MS, DAY_MS)
        await connections.aclose()

    asyncio.run(fill())
    return name


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """A database of one test, without a schema."""
    name = cluster.create()
    yield name
    cluster.drop(name)


@pytest.fixture
def database(cluster: Cluster, template: str) -> Iterator[str]:
    """A database with the schema and nothing in it."""
    yield template
    tables = "message, dead_letter, erasure, retained"
    with psycopg.connect(cluster.url(template)) as connection:
        connection.execute("SET search_path = roomful")
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())


@pytest.fixture(params=["sqlite", "postgres", "pgbouncer"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an empty archive is: a file, or an address."""
    if request.param == "sqlite":
        return tmp_path / "messages.sqlite3"
    cluster: Cluster = request.getfixturevalue("cluster")
    name: str = request.getfixturevalue("database")
    if request.param == "postgres":
        return cluster.url(name)
    bouncer: PgBouncer = request.getfixturevalue("bouncer")
    return cluster.url(name, bouncer.port)


@pytest.fixture
async def archive(place: Path | str) -> AsyncIterator[Archive]:
    """An empty archive."""
    made: Archive
    if isinstance(place, Path):
        made = SqliteArchive(place)
    else:
        made = PostgresArchive(place, timeout_s=60)
    yield made
    await made.aclose()
