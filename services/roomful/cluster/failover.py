"""
Who is a shard's primary, and what to do when the recorded one is not: pure, a table of states.

With N replicas recorded and acks after W of them, an acknowledged write is on the primary and on
W replicas at least. Of any R > N - W replicas one has it; and when those R no longer listen to the
old primary, it can collect no further ack, dead or only cut off. A replica's stream is one ordered
whole, so among those R the one with most of it has every acknowledged write.

Rule 1: a shard's state follows from what its servers say and from the record, never from what was
ordered before: whoever orders may have died in between, and orders may be carried out or not.
Rule 2: each state has one row, which gives the orders of that state. All may be repeated.
Rule 3: without a quorum nothing is ordered but by force, and the state says why.

What a server has is measured on the stream of the record only: one that was promoted by somebody
who died before telling anyone may have a newer term, and lacks what was acknowledged since.

A server that was restarted has lost its place in the stream and does not count for the quorum,
though it has the data of its file. Only when every server of the shard is there (a machine was
switched off and on) is the newest data of all taken: then there is nothing better anywhere. And
when all are there and none has any data, one begins with nothing, by force only.

Source: docs/adr/0008-sealed-servers-and-the-lead.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from roomful.cluster.shard_facts import (
    NO_PLACE,
    Attach,
    Fence,
    HandOver,
    Order,
    Patience,
    Promote,
    Publish,
    ServerFacts,
    ShardFacts,
    TakeTerm,
)
from roomful.cluster.topology import Address, ShardRecord

__all__ = ["FAILOVER_TABLE", "Plan", "ShardState", "plan_shard", "quorum"]


class ShardState(Enum):
    """Where a shard is on the way from one primary to the next."""

    SERVING = "serving"
    HANDING_OVER = "handing over"
    SUSPECT = "suspect"
    """The primary does not answer; it is too early to replace it, or it answers others."""
    LISTENING = "listening"
    """The primary is lost, and replicas that can decide still listen to it."""
    FENCED = "fenced"
    """So many listen to nobody that no ack can be collected any more."""
    CHOSEN = "chosen"
    """There is a new primary, without its term yet."""
    ATTACHING = "attaching"
    """It has its term, and too few replicas to acknowledge anything."""
    READY = "ready"
    """It can acknowledge; the topology does not know it yet."""
    LOADING = "loading"
    """All servers are there, and some still read their data."""
    BLOCKED = "blocked"
    """Too few servers are there to be sure that nothing acknowledged is lost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a shard is, what to do now, and what people are told."""

    state: ShardState
    orders: tuple[Order, ...] = ()
    """In this order; none depends on the answer to another."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """A shard's state with the server that it is about."""

    state: ShardState
    server: ServerFacts | None = None
    reason: str = ""


def quorum(record: ShardRecord, acks: int) -> int:
    """
    Give how many replicas must listen to nobody before one may be promoted: R > N - W.

    Without acks by replicas nothing is promised, and one is enough.
    """
    return len(record.replicas) - acks + 1 if acks else 1


def plan_shard(facts: ShardFacts, patience: Patience) -> Plan:
    """
    Give what the shard is and what has to be done next.

    Nothing is ordered twice of what the facts say has been done, so a shard at rest has no orders;
    and whatever is lost on the way (orders, servers, who orders) the next facts give a next plan.
    """
    place = _locate(facts, patience)
    orders = tuple(FAILOVER_TABLE[place.state](facts, place.server))
    return Plan(place.state, orders, place.reason)


# The table --------------------------------------------------------------------------------------


def _nothing(_facts: ShardFacts, _server: ServerFacts | None) -> Iterator[Order]:
    yield from ()


def _tend(facts: ShardFacts, server: ServerFacts | None) -> Iterator[Order]:
    """Attach whoever does not follow; and hand over if that is wanted."""
    assert server is not None
    yield from _attach(facts, server)
    if (stamped := _stamped(facts.record, server)) != facts.record:
        yield Publish(stamped)
    if facts.wish.hand_over and (target := _heir(facts, server)) is not None:
        yield HandOver(server.address, target)


def _fence(facts: ShardFacts, server: ServerFacts | None) -> Iterator[Order]:
    chosen = None if server is None else server.address
    for one in _seen(facts):
        if one.upstream not in (None, chosen):
            yield Fence(one.address)


def _end_copies(facts: ShardFacts, _server: ServerFacts | None) -> Iterator[Order]:
    """Nobody gets a copy from who has no role: without an end to it all would wait for ever."""
    for one in _seen(facts):
        source = None if one.upstream is None else facts.seen.get(one.upstream)
        if one.is_copying and one.upstream is not None and not (source and source.is_primary):
            yield Fence(one.address)


def _promote(_facts: ShardFacts, server: ServerFacts | None) -> Iterator[Order]:
    assert server is not None
    yield Promote(server.address)


def _take_term(facts: ShardFacts, server: ServerFacts | None) -> Iterator[Order]:
    assert server is not None
    # Above every term that was begun anywhere, published or not.
    yield TakeTerm(server.address, 1 + max((facts.record.term, *_terms(facts))))
    yield from _attach(facts, server)


def _complete(facts: ShardFacts, server: ServerFacts | None) -> Iterator[Order]:
    assert server is not None
    yield from _attach(facts, server)


def _publish(facts: ShardFacts, server: ServerFacts | None) -> Iterator[Order]:
    assert server is not None
    others = tuple(address for address in facts.servers if address != server.address)
    record = msgspec.structs.replace(
        facts.record, term=server.term, primary=server.address, replicas=others
    )
    yield from _attach(facts, server)
    yield Publish(_stamped(record, server))


def _stamped(record: ShardRecord, server: ServerFacts) -> ShardRecord:
    """Give *record* with what tells its primary from others."""
    return msgspec.structs.replace(record, run_id=server.run_id, stream=server.stream)


_S = ShardState
FAILOVER_TABLE: Final[
    dict[ShardState, Callable[[ShardFacts, ServerFacts | None], Iterator[Order]]]
] = {
    _S.SERVING: _tend,
    _S.HANDING_OVER: _nothing,
    _S.SUSPECT: _nothing,
    _S.LISTENING: _fence,
    _S.FENCED: _promote,
    _S.CHOSEN: _take_term,
    _S.ATTACHING: _complete,
    _S.READY: _publish,
    _S.LOADING: _end_copies,
    _S.BLOCKED: _nothing,
}


# Where a shard is -------------------------------------------------------------------------------


def _locate(facts: ShardFacts, patience: Patience) -> _Place:
    primary = facts.seen.get(facts.record.primary)
    if primary is not None and _is_recorded(facts, primary):
        return _locate_serving(facts, primary)
    if primary is not None and primary.is_handing_over and primary.upstream in facts.seen:
        # It has stepped down already, and its target has yet to hear of it: no moment to choose.
        return _Place(_S.HANDING_OVER, primary, f"{primary.upstream} takes the role over")
    if early := _too_early(facts, patience):
        return _Place(_S.SUSPECT, reason=early)
    return _locate_lost(facts)


def _is_recorded(facts: ShardFacts, one: ServerFacts) -> bool:
    record = facts.record
    return (
        one.is_primary
        and one.shard == facts.name
        and one.term == record.term
        and record.run_id in (None, one.run_id)
    )


def _locate_serving(facts: ShardFacts, primary: ServerFacts) -> _Place:
    if primary.is_handing_over:
        return _Place(_S.HANDING_OVER, primary, "the primary hands its role over")
    online = len(primary.online & set(facts.record.replicas))
    if facts.wish.hand_over and _heir(facts, primary) is None:
        return _Place(_S.SERVING, primary, "no replica is whole enough to take the role")
    if online < facts.acks:
        reason = f"nothing is acknowledged: {online} of {facts.acks} replicas follow"
        return _Place(_S.SERVING, primary, reason)
    return _Place(_S.SERVING, primary)


def _too_early(facts: ShardFacts, patience: Patience) -> str | None:
    primary = facts.record.primary
    if primary in facts.seen:
        return None  # it is there, and it is not the process that was the primary
    missing_s = facts.missing_s.get(primary, 0.0)
    if missing_s < patience.fail_after_s:
        return f"primary {primary} has not answered for {missing_s:.1f} s"
    if facts.wish.force:
        return None
    for one in _replicas(facts):
        is_heard = one.silence_s is not None and one.silence_s < patience.fail_after_s
        if one.upstream == primary and one.is_linked and is_heard:
            return f"primary {primary} answers replica {one.address}, only not the controller"
    return None


def _locate_lost(facts: ShardFacts) -> _Place:
    reached = _reached(facts)
    needed = quorum(facts.record, facts.acks)
    # The old primary itself, when it gave its role away, has everything.
    has_quorum = len(reached) >= needed or facts.record.primary in reached
    if has_quorum or (facts.wish.force and reached):
        best = max(
            (facts.seen[address] for address in reached),
            key=lambda one: (reached[one.address], one.is_primary, one.term, str(one.address)),
        )
        return _locate_chosen(facts, best, f"{best.address} has most of {len(reached)}")
    return _locate_from_files(facts, f"{len(reached)} of {needed} replicas")


def _locate_chosen(facts: ShardFacts, one: ServerFacts, why: str) -> _Place:
    """Say how far the one that is best has come."""
    if any(other.upstream not in (None, one.address) for other in _seen(facts)):
        return _Place(_S.LISTENING, one, "replicas are fenced off the lost primary")
    if not one.is_primary:
        return _Place(_S.FENCED, one, why)
    if one.term <= facts.record.term:
        return _Place(_S.CHOSEN, one, f"{one.address} begins its term")
    # Its term has to be where the next quorum finds it: else another could begin the same one.
    having = [other for other in _seen(facts) if _has_term(one, other)]
    if len(having) < facts.acks:
        reason = f"{one.address} has the role; {len(having)} of {facts.acks} replicas follow it"
        return _Place(_S.ATTACHING, one, reason)
    return _Place(_S.READY, one)


def _locate_from_files(facts: ShardFacts, have: str) -> _Place:
    """Take the newest data there is, if all there is can be seen."""
    missing = [str(address) for address in facts.servers if address not in facts.seen]
    if missing and not facts.wish.force:
        return _Place(
            _S.BLOCKED,
            reason=f"{have} that have all acknowledged messages are there, and "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: bring back "
            f"one of them, or give up what only they have: roomful promote --force {facts.name}",
        )
    copying = [str(one.address) for one in _seen(facts) if one.is_copying]
    if copying:
        return _Place(_S.LOADING, reason=f"{', '.join(copying)}: still reading its data")
    whole = [one for one in _seen(facts) if one.shard == facts.name]
    if not whole:
        return _locate_anew(facts, missing)
    best = max(whole, key=lambda one: (*_newness(facts, one), str(one.address)))
    return _locate_chosen(facts, best, f"{best.address} has the newest data of all")


def _locate_anew(facts: ShardFacts, missing: Sequence[str]) -> _Place:
    """Begin with nothing, if somebody wants that and no server can have anything."""
    reason = "no server that is there has the shard's data"
    empty = [one for one in _seen(facts) if one.has_nothing]
    if missing or len(empty) < len(facts.servers):
        return _Place(_S.BLOCKED, reason=reason)
    if not facts.wish.force:
        anew = f"begin it anew, with nothing: roomful promote --force {facts.name}"
        return _Place(_S.BLOCKED, reason=f"{reason}: bring back their files, or {anew}")
    best = max(empty, key=lambda one: (one.is_primary, str(one.address)))
    return _locate_chosen(facts, best, f"{best.address} begins with nothing")


# Servers ----------------------------------------------------------------------------------------


def _seen(facts: ShardFacts) -> list[ServerFacts]:
    return [facts.seen[address] for address in facts.servers if address in facts.seen]


def _replicas(facts: ShardFacts) -> list[ServerFacts]:
    return [one for one in _seen(facts) if one.address != facts.record.primary]


def _has_term(primary: ServerFacts, one: ServerFacts) -> bool:
    """Whether the replica *one* has the term that *primary* has begun."""
    return one.address in primary.online and not one.is_copying and one.term == primary.term


def _terms(facts: ShardFacts) -> list[int]:
    return [one.term for one in _seen(facts) if one.shard == facts.name]


def _reached(facts: ShardFacts) -> dict[Address, int]:
    """Give how much of the recorded primary's stream each server has, of those that know."""
    whole = [one for one in _seen(facts) if not one.is_copying and _is_of(facts, one)]
    stream = facts.record.stream or _newest_stream(facts, whole)
    found: dict[Address, int] = {}
    for one in whole:
        if one.stream == stream and one.offset != NO_PLACE and not _came_back(facts, one):
            found[one.address] = one.offset
        elif one.previous == stream:
            found[one.address] = one.turned_at
    for one in whole:
        # Who copied everything from one of them has what that one had.
        for other in whole:
            if other.is_primary and other.address in found and one.stream == other.stream:
                found.setdefault(one.address, found[other.address])
    return found


def _is_of(facts: ShardFacts, one: ServerFacts) -> bool:
    """
    Whether a server's data is the shard's.

    Nothing at all is that of one who copied the primary before its first term, and has not heard
    of it; later in a stream somebody flushed it, and only people can say that nothing is missed.
    """
    return one.shard == facts.name or (one.has_nothing and one.offset == 0)


def _newest_stream(facts: ShardFacts, servers: Sequence[ServerFacts]) -> str | None:
    """Give the stream of the recorded term, of a record that does not tell it."""
    # One that was just started has a stream of its own, and nothing in it.
    fit = [one for one in servers if one.term == facts.record.term and one.offset > NO_PLACE]
    best = max(fit, key=lambda one: (not one.is_primary, one.offset), default=None)
    return None if best is None else best.stream


def _came_back(facts: ShardFacts, one: ServerFacts) -> bool:
    """Whether it is the recorded primary in a process that did not write the stream."""
    return one.address == facts.record.primary and one.run_id != facts.record.run_id


def _newness(facts: ShardFacts, one: ServerFacts) -> tuple[int, bool, bool, int]:
    """Rank data read from files: by what was stored in the recorded term, and before."""
    stored = one.base if one.term > facts.record.term else one.sequence
    return (stored, one.is_primary, one.address == facts.record.primary, one.term)


def _attach(facts: ShardFacts, primary: ServerFacts) -> Iterator[Attach]:
    for one in _seen(facts):
        if one.address != primary.address and one.upstream != primary.address:
            yield Attach(one.address, primary.address)


def _heir(facts: ShardFacts, primary: ServerFacts) -> Address | None:
    """Give the replica that can take the role; None: none is whole."""
    fit = [
        one
        for one in _replicas(facts)
        if one.address in primary.online and one.is_linked and not one.is_copying
    ]
    if facts.wish.target is not None:
        fit = [one for one in fit if one.address == facts.wish.target]
    best = max(fit, key=lambda one: (one.offset, str(one.address)), default=None)
    return None if best is None else best.address
