"""
The partitions of the archive by time: made ahead, and let go of by retention.

A partition is dropped whole when every rule is past it. What shorter rules end before that is
deleted in pieces; so is everything, if some rooms are kept for good.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from roomful.archive.base import Rule
from roomful.archive.connections import Connections
from roomful.archive.retention import cutoffs

__all__ = ["make_partitions", "retain"]

logger = logging.getLogger("roomful.archive")

AHEAD: Final = 3
"""Partitions that there are for the time to come."""
PIECE: Final = 5_000
LONG_S: Final = 3600.0
"""Seconds for a statement that looks at a whole partition."""
LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '5s'"

_FLOORS: Final = (
    'sums AS (SELECT shard, max("offset") AS newest, count(*) AS count FROM {} GROUP BY shard), '
    "floors AS (INSERT INTO roomful.retained SELECT %s, shard, newest FROM sums "
    "ON CONFLICT (pattern, shard) DO UPDATE "
    "SET newest = greatest(retained.newest, excluded.newest)) "
    "SELECT coalesce(sum(count), 0) FROM sums"
)


async def make_partitions(connections: Connections, now_ms: int, size_ms: int) -> int:
    """
    Make the partitions of now and of the time to come, and those for messages that came without
    one; gives how many were made.
    """
    wanted = [now_ms + number * size_ms for number in range(AHEAD)]
    made = 0
    async with connections.use() as connection:
        # Clocks that are years off stay where they are.
        found = await connection.execute(
            "SELECT DISTINCT timestamp_ms / %s * %s FROM roomful.message_other "
            "WHERE timestamp_ms BETWEEN %s AND %s LIMIT 100",
            (size_ms, size_ms, now_ms - 400 * 86_400_000, wanted[-1]),
        )
        wanted += [int(row[0]) for row in await found.fetchall()]
        for moment in wanted:
            async with connection.transaction():
                await connection.execute(LOCK_TIMEOUT)
                added = await connection.execute(
                    "SELECT roomful.add_partition(%s, %s)", (moment, size_ms)
                )
                row = await added.fetchone()
                made += bool(row and row[0])
    return made


async def retain(connections: Connections, rules: Sequence[Rule], now_ms: int) -> int:
    """Let go of what is older than its rule says; gives how many messages were."""
    gone, dropped_ms = 0, None
    if any(rule.pattern == "*" for rule in rules) and all(rule.keep_ms for rule in rules):
        dropped_ms = min(cutoff for _, cutoff in cutoffs(rules, now_ms))
        gone += await _drop(connections, dropped_ms)
    for rule, cutoff in cutoffs(rules, now_ms):
        # Of the longest rule only what is in no partition is left.
        table = "roomful.message_other" if cutoff == dropped_ms else "roomful.message"
        gone += await _delete(connections, table, _conditions(rules, rule, cutoff))
    return gone


async def _drop(connections: Connections, cutoff: int) -> int:
    """Drop the partitions that end before *cutoff*."""
    async with connections.use() as connection:
        found = await connection.execute(
            "SELECT name FROM roomful.partition WHERE end_ms <= %s ORDER BY end_ms", (cutoff,)
        )
        names = [str(row[0]) for row in await found.fetchall()]
    gone = 0
    for name in names:
        async with connections.use(LONG_S) as connection, connection.transaction():
            await connection.execute(LOCK_TIMEOUT)
            table = f'roomful."{name}"'
            counted = await connection.execute(f"WITH {_FLOORS.format(table)}".encode(), ("*",))
            row = await counted.fetchone()
            await connection.execute(f"DROP TABLE {table}".encode())
            await connection.execute("DELETE FROM roomful.partition WHERE name = %s", (name,))
        gone += int(row[0]) if row else 0
        logger.info("partition dropped", extra={"partition": name})
    return gone


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What a rule ends: rules before it come first."""

    pattern: str
    where: str
    values: tuple[int | str, ...]


def _conditions(rules: Sequence[Rule], rule: Rule, cutoff: int) -> _Conditions:
    earlier = rules[: rules.index(rule)]
    where = "timestamp_ms < %s AND room LIKE %s" + " AND room NOT LIKE %s" * len(earlier)
    patterns = [_like(one.pattern) for one in (rule, *earlier)]
    return _Conditions(rule.pattern, where, (cutoff, *patterns))


async def _delete(connections: Connections, table: str, conditions: _Conditions) -> int:
    """Delete from *table*, in pieces."""
    query = (
        f'WITH gone AS (DELETE FROM {table} WHERE (room, "offset", shard, timestamp_ms) IN '  # noqa: S608
        f'(SELECT room, "offset", shard, timestamp_ms FROM {table} WHERE {conditions.where} '
        f'LIMIT {PIECE}) RETURNING shard, "offset"), {_FLOORS.format("gone")}'
    )
    total, gone = 0, PIECE
    while gone == PIECE:
        async with connections.use(LONG_S) as connection:
            found = await connection.execute(
                query.encode(), (*conditions.values, conditions.pattern)
            )
            row = await found.fetchone()
        gone = int(row[0]) if row else 0
        total += gone
    return total


def _like(pattern: str) -> str:
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")
