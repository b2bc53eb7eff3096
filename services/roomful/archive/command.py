"""The command `roomful archive`: fill it, migrate it, export it."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from roomful.archive.base import Archive, ArchiveUnavailable
from roomful.archive.exporting import NdjsonWriter, ParquetWriter, Writer, export
from roomful.archive.settings import ArchiveSettings
from roomful.archive.sqlite import SqliteArchive
from roomful.cluster.topology import Address
from roomful.shard.message import RoomId, UserId
from roomful.shard.resp import Login
from roomful.telemetry.logging import configure_logging

__all__ = ["ArchiveConfig", "add_archive"]

SAID_S: Final = 1.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """What the command needs of all settings."""

    archive: ArchiveSettings
    servers: Sequence[Address]
    login: Login
    state_dir: str
    port: int
    log_level: str
    log_format: str


Load = Callable[[argparse.Namespace], ArchiveConfig]


def add_archive(commands: Any, load: Load) -> None:
    """Add the command to the subparsers *commands*; *load* reads the settings."""
    parser = commands.add_parser(
        "archive",
        help="move messages from the shards into PostgreSQL; migrate and export it",
        description="Without a further word it moves every message from the outboxes of "
        "ROOMFUL_SHARDS into ROOMFUL_ARCHIVE_URL until it is stopped; run as many as you "
        "like. docs/archive.md has the rest.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    parser.add_argument(
        "--migrate", action="store_true", help="bring the database's schema to this version's first"
    )
    parser.set_defaults(run=lambda options: _run(load(options), migrates=options.migrate))
    actions = parser.add_subparsers(metavar="[ACTION]")
    migrate = actions.add_parser(
        "migrate",
        help="bring the database's schema to this version's",
        description="Runs the migrations that ROOMFUL_ARCHIVE_URL does not have yet. Safe to run "
        "many times and at once.",
    )
    migrate.set_defaults(run=lambda options: _migrate(load(options)))
    exporting = actions.add_parser(
        "export",
        help="write messages as NDJSON or Parquet",
        description="Writes all messages, a room's or a user's, from ROOMFUL_ARCHIVE_URL, or "
        "without one from the SQLite file of `roomful serve`, which may go on meanwhile. Progress "
        "goes to stderr.",
    )
    exporting.add_argument("--room", help="only this room's")
    exporting.add_argument("--user", help="only what this user sent")
    exporting.add_argument(
        "--format",
        choices=("ndjson", "parquet"),
        default="ndjson",
        help="of the output (default: %(default)s)",
    )
    exporting.add_argument("--output", type=Path, metavar="FILE", help="default: stdout (ndjson)")
    exporting.add_argument(
        "--sqlite",
        type=Path,
        metavar="FILE",
        help="read this SQLite file (default: that of ROOMFUL_STATE_DIR and ROOMFUL_PORT)",
    )
    exporting.set_defaults(run=lambda options: _export(load(options), options))


def _need_url(config: ArchiveConfig) -> ArchiveSettings:
    if not config.archive.url:
        raise ArchiveUnavailable(
            "ROOMFUL_ARCHIVE_URL is needed: postgresql://user:password@host:port/database",
            temporary=False,
        )
    return config.archive


def _run(config: ArchiveConfig, *, migrates: bool) -> int:
    settings = _need_url(config)
    if not config.servers:
        raise ArchiveUnavailable(
            "ROOMFUL_SHARDS is needed: redis://host:port of the shards' servers", temporary=False
        )
    from roomful.archive.service import ArchiveService

    configure_logging(config.log_level, config.log_format)
    service = ArchiveService(settings, config.servers, config.login)
    uvloop.run(service.run(migrates=migrates))
    return 0


def _migrate(config: ArchiveConfig) -> int:
    settings = _need_url(config)
    from roomful.archive.connections import Connections
    from roomful.archive.migrate import migrate

    async def run() -> list[str]:
        connections = Connections(settings.url, 1, 3600.0)
        try:
            return await migrate(connections)
        finally:
            await connections.aclose()

    ran = uvloop.run(run())
    print("\n".join(f"ran {name}" for name in ran) or "nothing to do")
    return 0


def _export(config: ArchiveConfig, options: argparse.Namespace) -> int:
    if options.format == "parquet" and options.output is None:
        raise ArchiveUnavailable("a Parquet file needs --output FILE", temporary=False)
    try:
        uvloop.run(_export_to(config, options))
    except BrokenPipeError:
        # Who reads has enough, as `head` does; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as exc:
        place = options.output or "stdout"
        raise ArchiveUnavailable(
            f"{place} cannot be written: {exc.strerror or exc}", temporary=False
        ) from exc
    return 0


async def _export_to(config: ArchiveConfig, options: argparse.Namespace) -> None:
    archive = _open(config, options.sqlite)
    begun = said = time.monotonic()

    def progress(count: int) -> None:
        nonlocal said
        if time.monotonic() - said > SAID_S:
            said = time.monotonic()
            print(f"{count} messages, {count / (said - begun):.0f}/s", file=sys.stderr)

    try:
        if options.output is None:
            writer: Writer = NdjsonWriter(sys.stdout.buffer)
            count = await _write(archive, writer, options, progress)
        else:
            with _whole(options.output) as part:
                if options.format == "parquet":
                    count = await _write(archive, ParquetWriter(part), options, progress)
                else:
                    with part.open("wb") as file:
                        count = await _write(archive, NdjsonWriter(file), options, progress)
    finally:
        await archive.aclose()
    print(f"exported {count} messages in {time.monotonic() - begun:.1f} s", file=sys.stderr)


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """Give where to write so that *output* has everything in the end, or is not there at all."""
    if output.exists() and not output.is_file():
        yield output  # a device or a pipe, not to be replaced by a file
        return
    part = output.with_name(output.name + ".part")
    try:
        yield part
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


async def _write(
    archive: Archive,
    writer: Writer,
    options: argparse.Namespace,
    progress: Callable[[int], None],
) -> int:
    room = RoomId(options.room) if options.room is not None else None
    user = UserId(options.user) if options.user is not None else None
    return await export(archive, writer, room=room, user=user, progress=progress)


def _open(config: ArchiveConfig, file: Path | None) -> Archive:
    if file is None and config.archive.url:
        from roomful.archive.postgres import PostgresArchive

        return PostgresArchive(config.archive.url, connections=1, timeout_s=600.0)
    path = file or Path(config.state_dir) / f"messages-{config.port}.sqlite3"
    if not path.is_file():
        raise ArchiveUnavailable(
            f"there is no {path}: set ROOMFUL_ARCHIVE_URL, or name the file with --sqlite",
            temporary=False,
        )
    try:
        return SqliteArchive(path)
    except sqlite3.Error as exc:
        raise ArchiveUnavailable(f"{path}: {exc}", temporary=False) from exc
