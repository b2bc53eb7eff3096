"""
What the archive holds: the rate at which one archiver moves messages, pages of long history, and
how long it takes to find all of one user.

    PYTHONPATH=services:tests .venv/bin/python -m bench.archive rate --rate 20000 --seconds 60
    PYTHONPATH=services:tests .venv/bin/python -m bench.archive pages --messages 10000000
    PYTHONPATH=services:tests .venv/bin/python -m bench.archive erase [--sqlite]

All start their own PostgreSQL (with fsync, as it comes) and shards on free ports. Messages have
256 bytes of body. `rate` writes publications straight into the outboxes of three shards, and counts
rows and their order at the end; the archiver is one process, so one core at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import redis

from archive.database import Cluster, running_cluster
from archive.shards import Archivers, ShardServer, running_shard, tell_topology
from functions.server import PRODUCTS
from roomful.archive.connections import Connections
from roomful.archive.migrate import migrate
from roomful.archive.partitions import make_partitions
from roomful.archive.postgres import PostgresArchive
from roomful.archive.sqlite import SqliteArchive
from roomful.cluster.cursor import ShardName
from roomful.shard.erasure import Erasure
from roomful.shard.message import Entry, Envelope, RoomId, UserId

BODY = b'{"content":"' + b"x" * 243 + b'"'
ROOMS = 2_000
DAY_MS = 86_400_000
FIRST = 1 << 40
WARM = 20
"""Pages before the ones that count: an edge keeps its connections, and they their plans."""


def now_ms() -> int:
    """Give the time in milliseconds."""
    return time.time_ns() // 1_000_000


def envelope(room: str, number: int, at_ms: int) -> Envelope:
    """Make a message."""
    user = UserId(f"user-{number % 977}")
    return Envelope(RoomId(room), "message", f"m{number:x}", user, at_ms, BODY)


async def prepare(url: str, *, days: Sequence[int] = (0,), size: int = 7) -> None:
    """Make the schema, and partitions of *size* days for *days* ago."""
    connections = Connections(url, 1, 60)
    await migrate(connections)
    for day in days:
        await make_partitions(connections, now_ms() - day * DAY_MS, size * DAY_MS)
    await connections.aclose()


# Rate --------------------------------------------------------------------------------------------


class Feeder:
    """Writes into the outboxes at a steady rate, and knows what it wrote."""

    # Mutable state: the newest offset of each shard, and how many messages were written.
    def __init__(self, servers: Sequence[ShardServer], per_entry: int) -> None:
        self._clients = [redis.Redis(port=server.port) for server in servers]
        self._offsets = [FIRST] * len(servers)
        self._per_entry = per_entry
        self.written = 0

    def write(self, count: int) -> None:
        """Write *count* messages, spread over the shards."""
        for index, client in enumerate(self._clients):
            pipeline = client.pipeline(transaction=False)
            left = count // len(self._clients)
            at_ms = now_ms()
            while left > 0:
                room = f"s{index}-room-{random.randrange(ROOMS)}"  # noqa: S311
                entries = []
                for _ in range(min(left, self._per_entry)):
                    self._offsets[index] += 1
                    entries.append(Entry(self._offsets[index], envelope(room, self.written, at_ms)))
                    self.written += 1
                    left -= 1
                publication = msgspec.msgpack.encode([0, 0, entries])
                fields: Any = {"r": room, "p": publication}
                pipeline.xadd("roomful:outbox", fields, f"{self._offsets[index]}-{at_ms}")
            client.hset("roomful:shard", "seq", self._offsets[index])
            pipeline.execute()

    def waiting(self) -> int:
        """Give the entries that are not archived."""
        return sum(int(client.xlen("roomful:outbox")) for client in self._clients)


def cpu_s(process: int) -> float:
    """Give the CPU seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(options: argparse.Namespace) -> None:
    """Measure the archiver."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        servers = {
            f"s{n}": stack.enter_context(running_shard(PRODUCTS[0], directory / f"s{n}", f"s{n}"))
            for n in range(3)
        }
        cluster = stack.enter_context(running_cluster(fsync="on"))
        url = cluster.url("postgres")
        asyncio.run(prepare(url))
        tell_topology(servers)
        shards = f"redis://{servers['s0'].address}"
        archivers = Archivers(directory, {"url": url, "shards": shards})
        feeder = Feeder(list(servers.values()), options.per_entry)
        feeder.write(30)
        process = archivers.start()
        while feeder.waiting():
            time.sleep(0.1)
        used, begun = cpu_s(process.pid), time.monotonic()
        for step in range(options.seconds * 10):
            feeder.write(options.rate // 10)
            time.sleep(max(0.0, begun + (step + 1) / 10 - time.monotonic()))
        fed_s = time.monotonic() - begun
        waiting = feeder.waiting()
        while feeder.waiting():
            time.sleep(0.02)
        lag_s = time.monotonic() - begun - fed_s
        cost_us = (cpu_s(process.pid) - used) / (feeder.written - 30) * 1e6
        check(cluster, feeder.written)
        archivers.end()
    print(
        f"fed {feeder.written} messages in {fed_s:.1f} s ({feeder.written / fed_s:.0f}/s), "
        f"{options.per_entry} an entry; at the end {waiting} entries waited, archived "
        f"{lag_s:.2f} s later; archiver {cost_us:.1f} µs of CPU a message: one core holds "
        f"{1e6 / cost_us:.0f}/s"
    )


def check(cluster: Cluster, written: int) -> None:
    """Every message is there once; a room's timestamps do not go back along its offsets."""
    with psycopg.connect(cluster.url("postgres")) as connection:
        rows = connection.execute("SELECT count(*), count(DISTINCT id) FROM roomful.message")
        counted = rows.fetchone()
        assert counted == (written, written), (counted, written)
        wrong = connection.execute(
            "SELECT count(*) FROM (SELECT timestamp_ms < lag(timestamp_ms) OVER "
            '(PARTITION BY room ORDER BY "offset") AS back FROM roomful.message) AS m WHERE back'
        ).fetchone()
        assert wrong == (0,), wrong


# Pages and erasing -------------------------------------------------------------------------------


@asynccontextmanager
async def history(options: argparse.Namespace) -> AsyncIterator[PostgresArchive | SqliteArchive]:
    """Fill an archive with a year of messages, from the oldest on."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        if options.sqlite:
            archive: PostgresArchive | SqliteArchive = SqliteArchive(Path(name) / "m.sqlite3")
        else:
            url = stack.enter_context(running_cluster(fsync="on")).url("postgres")
            days = range(0, 365, options.partition_days)
            await prepare(url, days=days, size=options.partition_days)
            archive = PostgresArchive(url, timeout_s=120)
        begun = time.monotonic()
        year_ms, start_ms = 365 * DAY_MS, now_ms() - 365 * DAY_MS
        piece = 20_000
        for first in range(0, options.messages, piece):
            entries = []
            for number in range(first, min(first + piece, options.messages)):
                at_ms = start_ms + year_ms * number // options.messages
                room = f"room-{random.randrange(ROOMS)}"  # noqa: S311
                entries.append(Entry(FIRST + number, envelope(room, number, at_ms)))
            await archive.store(ShardName("s1"), entries)
        filled_s = time.monotonic() - begun
        if not options.sqlite:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE roomful.message")
        kind = (
            "SQLite" if options.sqlite else f"PostgreSQL, {options.partition_days} days a partition"
        )
        print(
            f"{kind}: {options.messages} messages of {ROOMS} rooms stored at "
            f"{options.messages / filled_s:.0f}/s"
        )
        yield archive
        await archive.aclose()


async def pages(options: argparse.Namespace) -> None:
    """Measure pages of 50 messages at random places of a long history."""
    async with history(options) as archive:
        await measure_pages(archive, options)


async def measure_pages(
    archive: PostgresArchive | SqliteArchive, options: argparse.Namespace
) -> None:
    """Read pages one after the other."""
    times = []
    for number in range(options.pages + WARM):
        room = RoomId(f"room-{random.randrange(ROOMS)}")  # noqa: S311
        before = FIRST + random.randrange(options.messages)  # noqa: S311
        asked = time.perf_counter()
        page = await archive.page(room, before=before, after=None, limit=50)
        if number >= WARM:
            times.append((time.perf_counter() - asked) * 1000)
        assert len(page.entries) <= 50
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{options.pages} pages of 50: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, "
        f"most {max(times):.2f} ms"
    )


async def erase(options: argparse.Namespace) -> None:
    """Measure how long it takes to erase what one user sent, and to export it."""
    async with history(options) as archive:
        await measure_erasing(archive)


async def measure_erasing(archive: PostgresArchive | SqliteArchive) -> None:
    """Export and erase one user after the other."""
    for number in range(3):
        user = UserId(f"user-{number}")
        begun = time.perf_counter()
        found = sum([len(batch) async for batch in archive.export(user=user)])
        exported = time.perf_counter()
        erased = await archive.erase(Erasure(now_ms(), "bench", user=user))
        assert found == erased > 0, (found, erased)
        print(
            f"{user}: {found} messages exported in {(exported - begun) * 1000:.0f} ms, "
            f"erased in {(time.perf_counter() - exported) * 1000:.0f} ms"
        )


def main() -> int:
    """Run; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("rate")
    one.add_argument("--rate", type=int, default=20_000, help="messages per second")
    one.add_argument("--seconds", type=int, default=60)
    one.add_argument("--per-entry", type=int, default=2, help="messages of one outbox entry")
    one.set_defaults(run=rate)
    for name, run, messages in (("pages", pages, 10_000_000), ("erase", erase, 1_000_000)):
        other = commands.add_parser(name, help=run.__doc__)
        other.add_argument("--messages", type=int, default=messages)
        other.add_argument("--pages", type=int, default=2_000)
        other.add_argument("--partition-days", type=int, default=28)
        other.add_argument("--sqlite", action="store_true")
        other.set_defaults(run=lambda options, run=run: asyncio.run(run(options)))
    options = parser.parse_args()
    options.run(options)
    print(
        f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} s", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
