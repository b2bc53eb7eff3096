"""What only SQLite has: one file, in which the embedded shard's journal thread writes too."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from archive.conftest import NOW_MS
from archive.test_archive import S1, entry, exported
from roomful.archive.base import Erasure
from roomful.archive.sqlite import SqliteArchive
from roomful.archive.sqlite_chunks import connect
from roomful.shard.message import UserId


async def test_erasing_holds_nobody_up_and_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What has nothing to erase is passed by in pieces, without the right to write, for which the
    journal's thread would have to wait; what that one writes anew meanwhile comes again.
    """
    path = tmp_path / "messages.sqlite3"
    archive = SqliteArchive(path)
    for number in range(40):
        user = "bob" if number == 39 else "alice"
        await archive.store(S1, [entry(number, f"room {number}", user=user)])
    monkeypatch.setattr("roomful.archive.sqlite.WALKED", 8)
    walks: list[str] = []
    with closing(connect(path)) as journal:
        journal.execute("PRAGMA busy_timeout = 0")

        def meanwhile(statement: str) -> None:
            if statement.startswith("SELECT number, instr"):
                try:
                    journal.execute("BEGIN IMMEDIATE")
                    journal.execute("COMMIT")
                    walks.append("free")
                except sqlite3.OperationalError as exc:
                    walks.append(str(exc))
            elif statement.startswith("BEGIN") and walks:
                journal.execute("UPDATE chunk SET number = 1000 WHERE number = 40")

        archive._connection.set_trace_callback(meanwhile)
        assert await archive.erase(Erasure(NOW_MS, "x", user=UserId("bob"))) == 1
    assert walks == ["free"] * 7
    assert [one.entry.envelope.user for one in await exported(archive)] == ["alice"] * 39
    await archive.aclose()
