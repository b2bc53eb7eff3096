"""
SQLite: what one process refuses, kept over its end, as shards keep it for a cluster.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["keep", "load"]

MOST: Final = 100_000
"""Above it the soonest to lapse goes, as an edge's own memory has it."""


def keep(
    connection: sqlite3.Connection, subject: str, lapses_at: float, words: bytes, now: float
) -> None:
    """Keep *words* until *lapses_at*; an earlier end does not shorten it. Within a transaction."""
    connection.execute("DELETE FROM revocation WHERE lapses_at <= ?", (now,))
    connection.execute(
        "INSERT INTO revocation VALUES (?, ?, ?) ON CONFLICT (subject) DO UPDATE "
        "SET lapses_at = max(lapses_at, excluded.lapses_at), words = excluded.words",
        (subject, lapses_at, words),
    )
    connection.execute(
        "DELETE FROM revocation WHERE subject IN "
        "(SELECT subject FROM revocation ORDER BY lapses_at DESC LIMIT -1 OFFSET ?)",
        (MOST,),
    )


def load(connection: sqlite3.Connection, now: float) -> list[tuple[bytes, float]]:
    """Give all that have not lapsed at *now*: the words, and when they will."""
    query = "SELECT words, lapses_at FROM revocation WHERE lapses_at > ?"
    return connection.execute(query, (now,)).fetchall()
