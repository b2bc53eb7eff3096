"""
Who becomes a shard's primary when the recorded one is not there any more: pure, from a view.

With N replicas recorded and acks after W of them, an acknowledged write is on the primary and on W
replicas at least. Of any R > N - W replicas one has it; and when those R no longer listen to
the old primary, it can collect no further ack, dead or only cut off. A replica's stream is one
ordered whole, so among those R the one that has most of it has every acknowledged write.

A server that was restarted has lost its place in the stream and does not count, though it has
the data of its file. Only when every server of the shard is there (a machine was switched off
and on) is the newest data of all taken: then there is nothing better anywhere.

Source: docs/adr/0008-sealed-servers-and-the-lead.md
"""

from __future__ import annotations

from dataclasses import dataclass

from roomful.cluster.topology import Address, ShardRecord
from roomful.control.observation import Observation, Role
from roomful.control.view import Blocked, ShardView, Waiting

__all__ = ["Fence", "Promote", "choose_successor", "quorum", "suspicion"]


@dataclass(frozen=True, slots=True)
class Fence:
    """These replicas still listen to the old primary: they must stop before one is chosen."""

    replicas: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Promote:
    """This server becomes the primary, of this term."""

    address: Address
    term: int


def quorum(record: ShardRecord, acks: int) -> int:
    """
    Give how many replicas must have stopped to listen before one may be promoted.

    Without acks by replicas nothing is promised, and one is enough.
    """
    return max(1, len(record.replicas) - acks + 1)


def suspicion(view: ShardView, record: ShardRecord, fail_after_s: float) -> str | None:
    """Give why it is too early to replace the primary of *record*; None: it is time."""
    if record.primary in view.seen:
        return None  # it is there, and is not the primary that it was
    missing_s = view.missing_s.get(record.primary, 0.0)
    if missing_s < fail_after_s:
        return f"primary {record.primary} has not answered for {missing_s:.1f} s"
    for address in record.replicas:
        one = view.seen.get(address)
        if one is None or not (one.follows(record.primary) and one.is_linked):
            continue
        if one.silence_s is not None and one.silence_s < fail_after_s:
            return f"primary {record.primary} answers replica {address}, only not the controller"
    return None


def choose_successor(view: ShardView, record: ShardRecord) -> Fence | Promote:
    """
    Give what to do next towards a new primary.

    Raises:
        Waiting: a server is loading or copying, and it will not be long.
        Blocked: there are too few servers to be sure that nothing acknowledged is lost.
    """
    replicas = [view.seen[address] for address in record.replicas if address in view.seen]
    promoted = _promoted(view, record, replicas)
    if promoted is not None:
        return promoted
    listening = [one.address for one in replicas if one.follows(record.primary)]
    needed = quorum(record, view.acks)
    fenced = [one for one in replicas if _knows_its_place(view, record, one)]
    if len(fenced) >= needed:
        if listening:
            return Fence(tuple(listening))
        best = max(fenced, key=lambda one: (one.state.term, one.offset))
        return Promote(best.address, best.state.term + 1)
    return _from_files(view, record, f"{len(fenced)} of {needed} replicas")


def _promoted(view: ShardView, record: ShardRecord, replicas: list[Observation]) -> Promote | None:
    """Give the one that was chosen before: by a controller that died, or in a hand-over."""
    for one in (*replicas, *_old_primary(view, record)):
        if one.role is Role.PRIMARY and one.state.name == view.name:
            if one.state.term > record.term:
                return Promote(one.address, one.state.term)
            if one.address != record.primary and one.state.term == record.term:
                return Promote(one.address, record.term + 1)
    return None


def _old_primary(view: ShardView, record: ShardRecord) -> tuple[Observation, ...]:
    one = view.seen.get(record.primary)
    return () if one is None else (one,)


def _knows_its_place(view: ShardView, record: ShardRecord, one: Observation) -> bool:
    """Whether *one* has an unbroken beginning of the stream of the recorded term."""
    # A replica without a place in a stream, as after its start, says that its offset is 1 or 0.
    return (
        one.role is Role.REPLICA
        and not one.is_syncing
        and not one.is_loading
        and one.offset > 1
        and one.state.name == view.name
        and one.state.term >= record.term
    )


def _from_files(view: ShardView, record: ShardRecord, have: str) -> Promote:
    """Take the newest data there is, if all there is can be seen."""
    servers = (record.primary, *record.replicas)
    missing = [str(address) for address in servers if address not in view.seen]
    if missing:
        raise Blocked(
            f"{have} that have all acknowledged messages are there, and "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: bring back "
            f"one of them, or give up what only they have: roomful promote --force {view.name}"
        )
    seen = [view.seen[address] for address in servers]
    busy = [str(one.address) for one in seen if one.is_loading or one.is_syncing]
    if busy:
        raise Waiting(f"{', '.join(busy)}: still reading its data")
    whole = [one for one in seen if one.state.name == view.name]
    if not whole:
        raise Blocked("no server of the shard has its data")
    best = max(
        whole,
        key=lambda one: (
            one.state.term,
            one.state.sequence,
            _knows_its_place(view, record, one),
            one.address == record.primary,
        ),
    )
    return Promote(best.address, best.state.term + 1)
