"""The command `roomful verify`."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import uvloop

from roomful.archive.base import ArchiveUnavailable
from roomful.edge.auth import Authenticator
from roomful.edge.settings import DEV_SECRET, BadSettings, signing_settings
from roomful.local.layout import DURABILITIES
from roomful.verify.cluster import LocalShape, NoCluster, local_cluster
from roomful.verify.incidents import Breaker, FaultKind, Nothing
from roomful.verify.load import LoadFailed, LoadPlan
from roomful.verify.local import MEND_S, RESHARD_S, LocalBreaker
from roomful.verify.logs import LogsUnread
from roomful.verify.proxy import proxy_to
from roomful.verify.report import Report, encode_report
from roomful.verify.run import Run, verify

__all__ = ["add_verify"]

BROKEN: Final = 1
NOT_VERIFIED: Final = 3
TOKEN_LIFETIME_S: Final = 86400.0
READ_S: Final = 60.0
"""For one piece of a room to be read from the archive."""

_DESCRIPTION: Final = """\
Sends messages through the edges at the URLs, as clients of three kinds (stock Socket.IO with
recovery, ours, plain JSON) that retry and resume; breaks things meanwhile; then reads all rooms'
logs and compares them with every ack and with what every client heard. Progress goes to stderr,
the report to stdout as JSON.
"""
_EPILOG: Final = """\
exit status: 0 nothing was lost, doubled or reordered, and everything came back; 1 a promise was
broken, or something did not come back; 2 bad arguments; 3 it could not be found out.
"""


def add_verify(commands: Any) -> None:
    """Add the command to the subparsers *commands*."""
    parser = commands.add_parser(
        "verify",
        help="load a cluster, break it, and count what was lost, doubled or reordered",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("urls", nargs="*", metavar="URL", help="an edge, or a load balancer")
    parser.add_argument(
        "--local",
        action="store_true",
        help="start a cluster on this machine, and break that; of --edges, --shards, --replicas",
    )
    parser.add_argument(
        "--edges", type=int, default=3, metavar="N", help="with --local (default: 3)"
    )
    parser.add_argument(
        "--shards", type=int, default=3, metavar="N", help="with --local (default: 3)"
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=1,
        metavar="N",
        help="of each shard, with --local (default: 1)",
    )
    parser.add_argument(
        "--durability",
        choices=DURABILITIES,
        help="with --local, as for `roomful cluster`: what an ack means. With `memory` it is less "
        "than the promise, and a lost primary is found out (default: replicated, with replicas)",
    )
    parser.add_argument(
        "--archive",
        metavar="URL",
        help="postgresql://...: check that everything is in this database too, once. With --local "
        "archivers are started and broken, and kept from the database. Messages stay in it: give "
        "it one that is nobody's",
    )
    parser.add_argument(
        "--archivers", type=int, default=2, metavar="N", help="with --archive (default: 2)"
    )
    parser.add_argument(
        "--outage",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="of the fault database-away (default: 60)",
    )
    parser.add_argument("--clients", type=int, default=60, help="connections (default: 60)")
    parser.add_argument("--rooms", type=int, default=40, help="rooms (default: 40)")
    parser.add_argument(
        "--rooms-per-client", type=int, default=2, metavar="N", help="rooms of each (default: 2)"
    )
    parser.add_argument(
        "--rate", type=float, default=500.0, help="messages per second, of all (default: 500)"
    )
    parser.add_argument(
        "--duration", type=float, default=60.0, metavar="SECONDS", help="of the load (default: 60)"
    )
    parser.add_argument(
        "--faults",
        default="all",
        metavar="KIND,...",
        help=f"what to break, of {', '.join(kind.value for kind in FaultKind)}; none; or all, "
        "which is all that can be broken from here: clients' connections, and with --local the "
        "cluster (default: all)",
    )
    parser.add_argument(
        "--fault-every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two of them (default: 10)",
    )
    parser.add_argument(
        "--connect-timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for all clients to connect at the start (default: 60)",
    )
    parser.add_argument("--seed", type=int, help="repeats a run's choices (default: by the clock)")
    parser.add_argument(
        "--dev", action="store_true", help="the edges run with --dev: use its known secret"
    )
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    plan = LoadPlan(
        clients=options.clients,
        rooms=options.rooms,
        rooms_per_client=options.rooms_per_client,
        rate=options.rate,
        prefix=f"verify-{seed}-{time.time_ns() // 1_000_000:x}",
    )
    _check(options)
    mint = _mint(options)
    run = Run(
        urls=[url.rstrip("/") for url in options.urls],
        token=lambda user: mint(user, False),
        service_token=mint("verify", True),
        plan=plan,
        duration_s=options.duration,
        fault_every_s=options.fault_every,
        seed=seed,
        connect_timeout_s=options.connect_timeout,
    )
    try:
        report = _verify_local(options, run) if options.local else _run(options, run, Nothing())
    except (LoadFailed, LogsUnread, NoCluster, ArchiveUnavailable) as exc:
        print(f"roomful verify: {exc}", file=sys.stderr)
        return NOT_VERIFIED
    print(encode_report(report))
    return 0 if report.ok else BROKEN


def _verify_local(options: argparse.Namespace, run: Run) -> Report:
    archivers = options.archivers if options.archive else 0
    shape = LocalShape(
        options.edges,
        options.shards,
        options.replicas,
        options.durability,
        archivers=archivers,
        outage_s=options.outage,
    )
    kinds = _kinds(options.faults, LocalBreaker.possible(shape) | {FaultKind.CLIENT_CUT})
    # What is sent until the last fault is mended, twice over: rooms are not drawn evenly.
    longest_s = run.duration_s + MEND_S * len(kinds) + RESHARD_S
    longest_s += options.outage if archivers else 0
    entries = int(2 * run.plan.rate * longest_s / run.plan.rooms) + 1000
    _say(f"starting {shape.edges} edges and {shape.shards} shards with {shape.replicas} replicas")
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(options.archive)) if archivers else None
        url = proxy.url if proxy else ""
        cluster = stack.enter_context(local_cluster(shape, entries, url))
        run = replace(run, urls=cluster.urls)
        return _run(options, run, LocalBreaker(cluster, shape, proxy))


def _run(options: argparse.Namespace, run: Run, breaker: Breaker) -> Report:
    kinds = _kinds(options.faults, breaker.kinds | {FaultKind.CLIENT_CUT})
    return uvloop.run(_verify_all(replace(run, kinds=kinds), breaker, options.archive))


async def _verify_all(run: Run, breaker: Breaker, archive_url: str | None) -> Report:
    enough = _ctrl_c()
    if archive_url is None:
        return await verify(run, breaker, _say, enough)
    from roomful.archive.postgres import PostgresArchive

    archive = PostgresArchive(archive_url, connections=1, timeout_s=READ_S)
    try:
        return await verify(replace(run, archive=archive), breaker, _say, enough)
    finally:
        await archive.aclose()


def _ctrl_c() -> asyncio.Event:
    """Give what Ctrl-C sets; a second one ends the command."""
    loop, enough = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        _say("ends early (Ctrl-C again: at once, without a report)")
        loop.remove_signal_handler(signal.SIGINT)
        enough.set()

    loop.add_signal_handler(signal.SIGINT, end)
    return enough


def _mint(options: argparse.Namespace) -> Callable[[str, bool], str]:
    """Give what makes tokens: for a user, or a service."""
    secret = DEV_SECRET if options.dev or options.local else os.environ.get("ROOMFUL_AUTH_SECRET")
    if secret is None:
        raise BadSettings(
            ["ROOMFUL_AUTH_SECRET is needed, to sign in as a client of the cluster; or --dev"]
        )
    try:
        authenticator = Authenticator(signing_settings(secret, os.environ))
    except ValueError as exc:
        raise BadSettings([str(exc)]) from exc
    tokens: dict[tuple[str, bool], str] = {}

    def mint(user: str, is_service: bool) -> str:
        key = (user, is_service)
        if key not in tokens:
            tokens[key] = authenticator.mint(
                user=user,
                rooms={"verify-*": ["join", "send"]},
                lifetime_s=TOKEN_LIFETIME_S,
                is_service=is_service,
            )
        return tokens[key]

    return mint


def _kinds(text: str, possible: frozenset[FaultKind]) -> list[FaultKind]:
    if text == "none":
        return []
    if text == "all":
        return sorted(possible)
    kinds, problems = [], []
    for name in text.split(","):
        try:
            kind = FaultKind(name)
        except ValueError:
            problems.append(f"--faults {name}: there is no such fault")
            continue
        if kind not in possible:
            problems.append(f"--faults {name}: cannot be done to this cluster from here")
        kinds.append(kind)
    if problems:
        raise BadSettings(problems)
    return kinds


def _check(options: argparse.Namespace) -> None:
    names = (
        *("clients", "rooms", "rooms_per_client", "rate", "duration", "fault_every"),
        *("connect_timeout", "edges", "shards", "archivers", "outage"),
    )
    problems = [
        f"--{name.replace('_', '-')} must be above 0, and finite"
        for name in names
        if not 0 < getattr(options, name) < math.inf
    ]
    problems += [
        f"{url}: not an http:// or https:// URL"
        for url in options.urls
        if not url.startswith(("http://", "https://"))
    ]
    if bool(options.urls) == options.local:
        problems.append("name URLs of edges, or --local: one of the two")
    if options.archive and not options.archive.startswith(("postgresql://", "postgres://")):
        problems.append("--archive: postgresql://user:password@host:port/database")
    if options.replicas < 0:
        problems.append("--replicas must be 0 or more")
    if problems:
        raise BadSettings(problems)


def _say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
