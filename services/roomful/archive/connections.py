"""
Connections to PostgreSQL: a few, kept open, made anew when one breaks.

Nothing here needs state of a session (no LISTEN, no prepared statements, no search path), so a
PgBouncer in transaction mode may stand between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from roomful.archive.base import ArchiveUnavailable

try:
    import psycopg
    from psycopg import AsyncConnection
except ImportError as exc:
    raise ArchiveUnavailable(
        "PostgreSQL needs the package psycopg: pip install 'roomful[postgres]'", temporary=False
    ) from exc

__all__ = ["Connections"]

logger = logging.getLogger("roomful.archive")

CONNECT_S: Final = 5
"""Seconds for a connection to be made; psycopg takes whole ones."""

Rows = AsyncConnection[tuple[Any, ...]]


class Connections:
    """At most *count* connections to one database."""

    # Mutable state: connections nobody uses, and how many may still be used.
    def __init__(self, url: str, count: int, timeout_s: float) -> None:
        """
        Connect when there is something to do.

        Args:
            timeout_s: seconds for any one use, after which the connection is closed.
        """
        self._url = url
        self._timeout_s = timeout_s
        self._free: list[Rows] = []
        self._places = asyncio.Semaphore(count)

    @asynccontextmanager
    async def use(self, timeout_s: float | None = None) -> AsyncIterator[Rows]:
        """
        Give a connection in autocommit mode for the length of the block.

        Args:
            timeout_s: when not what is usual.

        Raises:
            ArchiveUnavailable: from anywhere in the block, for what is the server's doing or
                takes too long; psycopg.DataError and IntegrityError pass.
        """
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s), self._places:
                connection = await self._open()
                try:
                    yield connection
                except (psycopg.DataError, psycopg.IntegrityError):
                    self._keep(connection)
                    raise
                except BaseException:
                    # In the middle of something: nobody else can use it.
                    await _abandon(connection)
                    raise
                self._keep(connection)
        except TimeoutError as exc:
            raise ArchiveUnavailable("PostgreSQL does not answer in time") from exc
        except psycopg.errors.UndefinedTable as exc:
            sentence = "the database has no (or an old) schema: run `roomful archive migrate`"
            raise ArchiveUnavailable(sentence, temporary=False) from exc
        except (psycopg.DataError, psycopg.IntegrityError):
            raise
        except (psycopg.Error, OSError) as exc:
            raise ArchiveUnavailable(f"PostgreSQL: {_first_line(exc)}") from exc

    async def _open(self) -> Rows:
        while self._free:
            connection = self._free.pop()
            if not connection.closed:
                return connection
        return await AsyncConnection.connect(
            self._url,
            autocommit=True,
            # A prepared statement would be on one of the pooler's connections only.
            prepare_threshold=None,
            connect_timeout=CONNECT_S,
            application_name="roomful",
        )

    def _keep(self, connection: Rows) -> None:
        self._free.append(connection)

    async def aclose(self) -> None:
        """Close what nobody uses."""
        while self._free:
            await self._free.pop().close()


async def _abandon(connection: Rows) -> None:
    try:
        await connection.close()
    except (psycopg.Error, OSError) as exc:
        logger.info("connection not closed", extra={"why": _first_line(exc)})


def _first_line(exc: Exception) -> str:
    return str(exc).strip().split("\n", 1)[0]
