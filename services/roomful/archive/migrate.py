"""
The PostgreSQL schema, by numbered SQL files: each is run once, in order, in a transaction.

Two that migrate at once wait for each other: the lock is the transaction's, so it also works
through a PgBouncer in transaction mode.
"""

from __future__ import annotations

import logging
from importlib.resources import files
from typing import Final

from roomful.archive.base import ArchiveUnavailable
from roomful.archive.connections import Connections, Rows

__all__ = ["check_schema", "migrate"]

logger = logging.getLogger("roomful.archive")

_BEGIN: Final = """
CREATE SCHEMA IF NOT EXISTS roomful;
CREATE TABLE IF NOT EXISTS roomful.migration (
    number integer PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL DEFAULT now()
);
"""


def scripts() -> list[tuple[str, str]]:
    """Give the names and texts of all migrations, in order."""
    directory = files("roomful.archive") / "migrations" / "postgres"
    paths = sorted(directory.iterdir(), key=lambda path: path.name)
    return [(path.name, path.read_text()) for path in paths if path.name.endswith(".sql")]


async def migrate(connections: Connections) -> list[str]:
    """
    Bring the schema to this version's; gives what was run.

    Raises:
        ArchiveUnavailable: also when the schema is that of a newer Roomful.
    """
    ran: list[str] = []
    async with connections.use() as connection, connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('roomful.migration', 0))"
        )
        await connection.execute(_BEGIN)
        done = await _newest(connection)
        _check_not_newer(done)
        for number, (name, script) in enumerate(scripts()[done:], done + 1):
            await connection.execute(script.encode())
            await connection.execute(
                "INSERT INTO roomful.migration (number, name) VALUES (%s, %s)", (number, name)
            )
            logger.info("migrated", extra={"migration": name})
            ran.append(name)
    return ran


async def check_schema(connections: Connections) -> None:
    """
    Check that the schema is this version's.

    Raises:
        ArchiveUnavailable: it is not, or the database does not answer.
    """
    async with connections.use() as connection:
        done = await _newest(connection)
    _check_not_newer(done)
    if done < len(scripts()):
        raise ArchiveUnavailable(
            f"the schema is at migration {done} of {len(scripts())}: run `roomful archive migrate`",
            temporary=False,
        )


async def _newest(connection: Rows) -> int:
    found = await connection.execute("SELECT coalesce(max(number), 0) FROM roomful.migration")
    row = await found.fetchone()
    assert row is not None
    return int(row[0])


def _check_not_newer(done: int) -> None:
    if done > len(scripts()):
        raise ArchiveUnavailable(
            f"the schema is that of a newer Roomful (migration {done}, here {len(scripts())})",
            temporary=False,
        )
