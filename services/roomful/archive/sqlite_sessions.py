"""
SQLite: the records of clients that may resume, one row each.

They are for the next process only. A power cut may take the last seconds of messages, and of these
rows: what the system before it left is not believed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import msgspec

from roomful.shard.base import SessionRecord
from roomful.shard.sessions import SessionChange, pack_record, unpack_record

__all__ = ["forget_lapsed", "keep", "load", "replace", "running_since"]

logger = logging.getLogger("roomful.archive")

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def running_since() -> str:
    """Give what tells this run of the system from all others; empty where nothing does."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def keep(connection: sqlite3.Connection, changes: Collection[SessionChange]) -> None:
    """Make *changes*, at most one of a session; within a transaction that may write."""
    connection.executemany(
        "INSERT OR REPLACE INTO session VALUES (?, ?, ?)",
        [msgspec.structs.astuple(one) for one in changes if one.packed],
    )
    connection.executemany(
        "DELETE FROM session WHERE pid = ?", [(one.pid,) for one in changes if not one.packed]
    )


def replace(
    connection: sqlite3.Connection, sessions: Iterable[tuple[float, SessionRecord]]
) -> None:
    """Keep *sessions* and no others; within a transaction that may write."""
    connection.execute("DELETE FROM session")
    connection.executemany(
        "INSERT INTO session VALUES (?, ?, ?)",
        ((one.pid, lapses_at, pack_record(one)) for lapses_at, one in sessions),
    )


def load(connection: sqlite3.Connection, now: float) -> list[tuple[float, SessionRecord]]:
    """Give all that have not lapsed at *now*, what lapses last at the end."""
    rows = connection.execute(
        "SELECT lapses_at, record FROM session WHERE lapses_at > ? ORDER BY lapses_at", (now,)
    )
    found = []
    for lapses_at, packed in rows:
        try:
            found.append((lapses_at, unpack_record(packed)))
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            logger.warning("session not readable", extra={"why": str(exc)})
    return found


def forget_lapsed(connection: sqlite3.Connection, now: float) -> None:
    """Let go of what has lapsed at *now*."""
    connection.execute("DELETE FROM session WHERE lapses_at <= ?", (now,))
