"""What a verification found, as figures: JSON for machines, and the words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from roomful.verify.archived import ArchiveFigures
from roomful.verify.incidents import Incident
from roomful.verify.ledger import Faults
from roomful.verify.load import Load

__all__ = ["Report", "Times", "build_report", "encode_report", "times_of"]


class Times(msgspec.Struct, frozen=True, rename="camel"):
    """A distribution, in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


class FaultFigures(msgspec.Struct, frozen=True, rename="camel"):
    """All faults of one kind."""

    count: int
    failed: int
    """How many could not be done, or were not mended in time."""
    ack_ms: Times | None
    """How long acks took that were under way meanwhile."""
    pause_ms: Times | None
    """The longest of these, over the faults: what the sender who waited longest saw of each."""
    mended_ms: Times | None
    """From the fault to everything being whole again."""
    bucket_pause_ms: Times | None = None
    """Of buckets that moved: how long each was closed, as the controller measured it."""


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """The outcome."""

    ok: bool
    """Nothing lost, doubled or reordered, all clients back, all faults done and mended."""
    seed: int
    duration_s: float
    clients: int
    rooms: int
    sent: int
    acked: int
    heard: int
    """Deliveries, over all clients."""
    lost: int
    duplicated: int
    reordered: int
    gaps_told: int
    """Times that a client's room may have a hole and the client was told so."""
    rewound: int
    """Heard by someone and in no log: never acknowledged, gone with a primary."""
    unacknowledged: int
    passed_over: int
    """Messages that were not sent because the client waited for too many acks."""
    never_back: int
    resumed: int
    began_anew: int
    steady_ack_ms: Times | None
    """How long acks took while nothing was broken."""
    reconnect_ms: Times | None
    faults: Mapping[str, FaultFigures]
    refusals: Mapping[str, int]
    final_refusals: Mapping[str, int]
    """Refusals that are not retryable: none is expected."""
    incidents: Sequence[str]
    examples: Sequence[str]
    """Some of the broken promises, in words."""
    archive: ArchiveFigures | None = None
    """None: it was not asked for."""


def times_of(seconds: Sequence[float]) -> Times | None:
    """Give the distribution of *seconds*; None if there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return Times(len(ordered), at(0.5), at(0.95), at(0.99), round(1000 * ordered[-1], 3))


def build_report(
    load: Load,
    faults: Faults,
    incidents: Sequence[Incident],
    *,
    seed: int,
    window: tuple[float, float],
    rewound: int,
    never_back: int,
    archived: ArchiveFigures | None,
) -> Report:
    """Put the figures together; *window* is when the load ran, by the monotonic clock."""
    world, ledger = load.world, load.ledger
    unacknowledged = sum(client.unacknowledged for client in load.clients)
    statistics = world.statistics
    failed = sum(incident.failed is not None for incident in incidents)
    is_ok = not (faults.total or never_back or unacknowledged or failed)
    is_ok = is_ok and (archived is None or archived.ok)
    return Report(
        ok=is_ok and not statistics.final_refusals and ledger.acked > 0,
        seed=seed,
        duration_s=round(window[1] - window[0], 1),
        clients=len(load.clients),
        rooms=load.plan.rooms,
        sent=len(ledger.sent),
        acked=ledger.acked,
        heard=sum(len(stretch.heard) for stretch in ledger.stretches),
        lost=faults.lost,
        duplicated=faults.duplicated,
        reordered=faults.reordered,
        gaps_told=ledger.gaps_told,
        rewound=rewound,
        unacknowledged=unacknowledged,
        passed_over=load.passed_over,
        never_back=never_back,
        resumed=statistics.recovered,
        began_anew=statistics.anew,
        steady_ack_ms=_steady(load, incidents, window),
        reconnect_ms=times_of(statistics.reconnect_s),
        faults=_by_kind(load, incidents),
        refusals=statistics.refusals,
        final_refusals=statistics.final_refusals,
        incidents=[_sentence(incident, window[0]) for incident in incidents],
        examples=faults.examples,
        archive=archived,
    )


def encode_report(report: Report) -> str:
    """Give the report as JSON for a terminal."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def _steady(load: Load, incidents: Sequence[Incident], window: tuple[float, float]) -> Times | None:
    quiet: list[float] = []
    begin = window[0]
    for incident in [*incidents, None]:
        end = window[1] if incident is None else incident.began_at
        acks = load.acks
        quiet += [
            took
            for began, took in zip(acks.began_at, acks.took_s, strict=True)
            if began >= begin and began + took < end
        ]
        if incident is not None:
            begin = incident.ended_at
    return times_of(quiet)


def _by_kind(load: Load, incidents: Sequence[Incident]) -> dict[str, FaultFigures]:
    figures: dict[str, FaultFigures] = {}
    for kind in sorted({incident.kind for incident in incidents}):
        those = [incident for incident in incidents if incident.kind is kind]
        acks = [load.acks.between(incident.began_at, incident.ended_at) for incident in those]
        figures[kind.value] = FaultFigures(
            count=len(those),
            failed=sum(incident.failed is not None for incident in those),
            ack_ms=times_of([took for one in acks for took in one]),
            pause_ms=times_of([one[-1] for one in acks if one]),
            mended_ms=times_of([one.ended_at - one.began_at for one in those]),
            bucket_pause_ms=times_of([ms / 1000 for one in those for ms in one.pauses_ms]),
        )
    return figures


def _sentence(incident: Incident, start: float) -> str:
    took = f"{incident.began_at - start:.1f}-{incident.ended_at - start:.1f} s"
    failed = f": FAILED, {incident.failed}" if incident.failed else ""
    return f"{took} {incident.kind}: {incident.what}{failed}"
