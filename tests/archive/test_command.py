"""`roomful archive export` and its settings, as people use them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from archive.database import Cluster
from archive.test_archive import S1, entry
from roomful.archive.base import Rule
from roomful.archive.postgres import PostgresArchive
from roomful.archive.settings import ArchiveSettings
from roomful.archive.sqlite import SqliteArchive
from roomful.shard.message import Entry, Envelope, RoomId, UserId


def roomful(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    environment = {"PATH": os.environ["PATH"]}
    environment |= {f"ROOMFUL_{key.upper()}": value for key, value in settings.items()}
    program = Path(sys.executable).parent / "roomful"
    return subprocess.run(
        [program, "archive", *words], env=environment, capture_output=True, text=True, check=False
    )


EVENT = Entry(
    9,
    Envelope(RoomId("b"), "poll", "e", UserId("bob"), 5, b'{"open":true}', (b"\x00\xff",)),
)


async def test_an_export_of_sqlite_is_json_lines(tmp_path: Path) -> None:
    """What members heard, a line each, an app's own events as `data`; progress is on stderr."""
    archive = SqliteArchive(tmp_path / "messages-9000.sqlite3")
    await archive.store(S1, [entry(1, body=b'{"content":"h\xc3\xbc"'), EVENT])
    await archive.aclose()
    done = roomful("export", state_dir=str(tmp_path), port="9000")
    assert done.returncode == 0, done.stderr
    message, event = map(json.loads, done.stdout.splitlines())
    assert message["message"] == {"content": "hü"}
    assert (message["roomId"], message["offset"], message["userId"]) == ("a", 1, "alice")
    assert event["data"] == {"open": True}
    assert event["attachments"] == ["AP8="]
    assert "exported 2 messages" in done.stderr
    only = roomful("export", "--user", "bob", "--sqlite", tmp_path / "messages-9000.sqlite3")
    assert len(only.stdout.splitlines()) == 1


async def test_an_export_of_postgresql_is_parquet(
    tmp_path: Path, cluster: Cluster, database: str
) -> None:
    """Whole under its name; the same messages, in columns."""
    url = cluster.url(database)
    archive = PostgresArchive(url)
    await archive.store(S1, [*(entry(n) for n in range(1, 9)), EVENT])
    await archive.aclose()
    file = tmp_path / "all.parquet"
    done = roomful("export", "--format", "parquet", "--output", file, archive_url=url)
    assert done.returncode == 0, done.stderr
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert [row["offset"] for row in rows] == list(range(1, 10))
    assert rows[8]["body"] == '{"open":true}'
    assert rows[8]["attachments"] == [b"\x00\xff"]
    assert os.listdir(tmp_path) == ["all.parquet"]


def test_an_export_that_cannot_be_is_said(tmp_path: Path) -> None:
    """Where to, or where from; nothing half done stays, and a reader who has enough is no error."""
    path = tmp_path / "messages.sqlite3"

    async def fill() -> None:
        archive = SqliteArchive(path)
        await archive.store(S1, [entry(n, body=b"x" * 40_000) for n in range(1, 50)])
        await archive.aclose()

    asyncio.run(fill())
    other = tmp_path / "other"
    other.write_text("no database" * 100)
    for words, why in (
        (("--sqlite", path, "--output", tmp_path / "no" / "x"), "/no/x cannot be written: No such"),
        (("--sqlite", path, "--output", "/dev/full"), "/dev/full cannot be written: "),
        (("--sqlite", other), "other: file is not a database"),
    ):
        done = roomful("export", *words)
        assert done.returncode == 2, done.stderr
        assert why in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.part"))
    assert Path("/dev/full").is_char_device()
    reading = f"{Path(sys.executable).parent}/roomful archive export --sqlite {path} | head -c 9"
    done = subprocess.run(["sh", "-c", reading], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ('{"roomId"', "")


def test_bad_settings_are_said_together() -> None:
    """All of them, before anything begins."""
    done = roomful(
        "migrate", archive_url="mysql://x", archive_retention="a=1x", archive_rooms="b=never"
    )
    assert done.returncode == 2
    for word in ("archive.url", "'a=1x'", "'b=never'"):
        assert word in done.stderr


@pytest.mark.parametrize("words", [(), ("migrate",)])
def test_what_is_missing_is_said(words: tuple[str, ...]) -> None:
    """The variable to set, and no traceback."""
    done = roomful(*words)
    assert done.returncode == 2
    assert "ROOMFUL_ARCHIVE_URL is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said() -> None:
    """Two on one machine: the second one says what to change, before it does anything."""
    with socket.create_server(("", 0)) as taken:
        done = roomful(
            shards="redis://127.0.0.1:1",
            archive_url="postgresql://127.0.0.1:1/x",
            archive_port=str(taken.getsockname()[1]),
        )
    assert done.returncode == 2
    assert "choose another by ROOMFUL_ARCHIVE_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_rooms_have_the_class_of_the_first_pattern_that_fits() -> None:
    """And none, if none fits."""
    class_of = ArchiveSettings(rooms=("game-*=best-effort", "tmp=off", "g*=required")).classes
    assert [class_of(room) for room in ("game-1", "tmp", "gold", "x")] == ["0", "-", "1", "-"]


def test_retention_is_read() -> None:
    """Hours, days, and for good."""
    settings = ArchiveSettings(retention=("a-*=12h", "b=forever", "*=30d"))
    assert settings.rules == (
        Rule("a-*", 43_200_000),
        Rule("b", None),
        Rule("*", 2_592_000_000),
    )
