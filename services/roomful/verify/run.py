"""A verification from beginning to end: load, faults beside it, and the comparison."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from roomful.archive.base import Archive
from roomful.verify.archived import read_archive
from roomful.verify.incidents import Breaker, Fault, FaultKind, Incident, plan_faults
from roomful.verify.load import Load, LoadFailed, LoadPlan
from roomful.verify.logs import read_logs
from roomful.verify.report import Report, build_report

__all__ = ["CutsClients", "Run", "verify"]

CUT_EVERY_S = 0.05
CUT_FOR_S = 5.0
PROGRESS_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be verified, and how."""

    urls: Sequence[str]
    token: Callable[[str], str]
    """Gives a user's token."""
    service_token: str
    plan: LoadPlan = field(default_factory=LoadPlan)
    kinds: Sequence[FaultKind] = ()
    duration_s: float = 60.0
    fault_every_s: float = 10.0
    seed: int = 1
    connect_timeout_s: float = 60.0
    archive: Archive | None = None
    """What everything has to be in at the end."""


class CutsClients:
    """Adds the fault that needs no cluster, CLIENT_CUT, to what another breaker can do."""

    def __init__(self, load: Load, other: Breaker) -> None:
        self._load = load
        self._other = other

    @property
    def kinds(self) -> frozenset[FaultKind]:
        """What it can do."""
        return self._other.kinds | {FaultKind.CLIENT_CUT}

    async def inflict(self, fault: Fault) -> Incident:
        """Cut clients, or let the other break."""
        if fault.kind is not FaultKind.CLIENT_CUT:
            return await self._other.inflict(fault)
        random, began_at, cuts = Random(fault.seed), time.monotonic(), 0  # noqa: S311
        while time.monotonic() - began_at < CUT_FOR_S:
            cuts += random.choice(self._load.clients).cut()
            await asyncio.sleep(CUT_EVERY_S)
        return Incident(fault.kind, f"{cuts} connections cut", began_at, time.monotonic())


async def verify(
    run: Run, breaker: Breaker, say: Say, enough: asyncio.Event | None = None
) -> Report:
    """
    Load, break, compare.

    Args:
        enough: once it is set, nothing more is sent or broken, and it goes on to compare.

    Raises:
        LoadFailed: the clients could not connect, or it was enough before they had.
        LogsUnread: a log could not be read at the end.
        ArchiveUnavailable: the archive could not.
    """
    load = Load(run.plan, run.urls, run.token, Random(run.seed))  # noqa: S311
    enough = enough or asyncio.Event()
    say(f"connecting {run.plan.clients} clients to {len(run.urls)} edges")
    try:
        await load.start(run.connect_timeout_s)
        if enough.is_set():
            raise LoadFailed("it was ended before anything was sent")
        begin = time.monotonic()
        say(f"sending {run.plan.rate:g} messages/s to {run.plan.rooms} rooms (seed {run.seed})")
        incidents = await _run(run, load, CutsClients(load, breaker), say, enough)
        end = time.monotonic()
        say("waiting for acks, and for everyone to be back")
        never_back = await load.settle()
        say("reading all logs")
        logs = await read_logs(run.urls, run.plan.room_names(), run.service_token)
        archived = None
        if run.archive is not None:
            say("waiting for the archive, and reading it")
            archived = await read_archive(run.archive, logs)
    finally:
        await load.stop()
    say("comparing")
    return build_report(
        load,
        load.ledger.check(logs),
        incidents,
        seed=run.seed,
        window=(begin, end),
        rewound=load.ledger.rewound(logs),
        never_back=never_back,
        archived=archived,
    )


async def _run(
    run: Run, load: Load, breaker: Breaker, say: Say, enough: asyncio.Event
) -> list[Incident]:
    """
    Send for the whole duration, and until the last fault is mended; or until it is enough.

    A fault that is slow to mend delays the others: those that do not come within the duration are
    left out, but not the first of a kind.
    """
    start = time.monotonic()
    faults = plan_faults(
        run.kinds, duration_s=run.duration_s, every_s=run.fault_every_s, seed=run.seed
    )
    kinds = {fault.kind for fault in faults}
    incidents: list[Incident] = []

    async def until(at_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), start + at_s - time.monotonic())

    async def break_all() -> None:
        for fault in faults:
            is_late = time.monotonic() - start > run.duration_s
            if is_late and {incident.kind for incident in incidents} == kinds:
                return
            await until(fault.at_s)
            if enough.is_set():
                return
            say(f"{fault.kind} ...")
            incident = await breaker.inflict(fault)
            incidents.append(incident)
            took_s = incident.ended_at - incident.began_at
            outcome = f"FAILED: {incident.failed}" if incident.failed else "mended"
            say(f"{fault.kind}: {incident.what}; {outcome} after {took_s:.1f} s")

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            say(_progress(load, time.monotonic() - start, run.duration_s))

    reporting = asyncio.create_task(report())
    sending = asyncio.create_task(load.run(float("inf")))
    try:
        await asyncio.gather(break_all(), until(run.duration_s))
    finally:
        for task in (reporting, sending):
            task.cancel()
        await asyncio.gather(reporting, sending, return_exceptions=True)
    return incidents


def _progress(load: Load, elapsed_s: float, duration_s: float) -> str:
    ready = sum(client.is_ready.is_set() for client in load.clients)
    waiting = sum(client.unacknowledged for client in load.clients)
    return (
        f"{elapsed_s:4.0f}/{duration_s:.0f} s: {load.ledger.acked} acknowledged, "
        f"{waiting} waiting, {ready} of {len(load.clients)} clients connected, "
        f"{load.ledger.gaps_told} gaps told"
    )
