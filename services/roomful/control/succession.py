"""
Who becomes a shard's primary when the recorded one is not there any more: what its servers say,
put into the words of cluster/failover.py, and the orders of its plan, carried out.

Nothing is remembered: whatever was interrupted is found again in what the servers say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from roomful.cluster.failover import Plan, ShardState, plan_shard
from roomful.cluster.shard_facts import (
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
    Wish,
)
from roomful.cluster.topology import Address, ShardRecord
from roomful.control.observation import Observation, Role
from roomful.control.owned import Owned
from roomful.control.server import Server
from roomful.control.shard import attach
from roomful.control.view import Blocked, Phase, ShardStatus, ShardView, describe

__all__ = ["HAND_OVER_S", "UNDER_WAY", "carry_out", "facts_of", "plan_succession"]

logger = logging.getLogger("roomful.control")

HAND_OVER_S: Final = 2.0
UNDER_WAY: Final = frozenset(
    {
        ShardState.LISTENING,
        ShardState.FENCED,
        ShardState.CHOSEN,
        ShardState.ATTACHING,
        ShardState.READY,
    }
)
"""States whose next step need not wait for another pass."""
_PHASES: Final = {ShardState.SUSPECT: Phase.SUSPECT, ShardState.BLOCKED: Phase.BLOCKED}


def plan_succession(
    view: ShardView, record: ShardRecord, fail_after_s: float, wish: Wish | None = None
) -> Plan:
    """Give what is next for a shard whose recorded primary is not there as it was."""
    return plan_shard(facts_of(view, record, wish), Patience(fail_after_s))


def facts_of(view: ShardView, record: ShardRecord, wish: Wish | None = None) -> ShardFacts:
    """Put *view* into the words of cluster/failover.py."""
    everyone = (record.primary, *record.replicas)
    return ShardFacts(
        name=view.name,
        record=record,
        acks=view.acks,
        seen={address: _facts(view.seen[address]) for address in everyone if address in view.seen},
        missing_s=view.missing_s,
        wish=wish or Wish(),
    )


def _facts(one: Observation) -> ServerFacts:
    has_previous = bool(one.previous_id.strip("0"))
    return ServerFacts(
        address=one.address,
        run_id=one.run_id,
        is_primary=one.role is Role.PRIMARY,
        stream=one.replication_id,
        offset=one.offset,
        previous=one.previous_id if has_previous else "",
        turned_at=one.turned_at if has_previous else 0,
        upstream=None if one.is_sealed else one.upstream,
        is_linked=one.is_linked,
        silence_s=one.silence_s,
        is_copying=one.is_loading or one.is_syncing,
        is_handing_over=one.is_handing_over,
        shard=one.state.name,
        has_nothing=one.state.is_known and one.state.name is None,
        term=one.state.term,
        sequence=one.state.sequence,
        base=one.state.base,
        online=one.online,
    )


async def carry_out(
    view: ShardView,
    servers: Mapping[Address, Server],
    record: ShardRecord,
    owned: Owned,
    plan: Plan,
) -> ShardRecord | ShardStatus:
    """
    Carry out *plan*'s orders; gives the record to publish, or how the shard is until then.

    Raises:
        Blocked: a server that would be copied over holds something else.
        ServerUnreachable, OrderRefused: not all of it was done.
    """
    new: ShardRecord | None = None
    for order in plan.orders:
        if isinstance(order, Publish):
            new = order.record
        else:
            await _obey(view, servers, owned, order)
    if new is None:
        return describe(view, record, _PHASES.get(plan.state, Phase.FAILING_OVER), plan.reason)
    primary = servers[new.primary]
    # Buckets that were given to the shard since its last primary began are its own by the records.
    await primary.claim(new.term, owned.buckets, owned.versions)
    await primary.require_replicas(view.acks)
    return new


async def _obey(
    view: ShardView, servers: Mapping[Address, Server], owned: Owned, order: Order
) -> None:
    log = {"shard": view.name}
    match order:
        case Fence(server):
            logger.warning("fences", extra=log | {"server": str(server)})
            await servers[server].seal()
        case Promote(server):
            logger.warning("promotes", extra=log | {"server": str(server)})
            await servers[server].promote()
        case TakeTerm(server, term):
            logger.info("begins a term", extra=log | {"server": str(server), "term": term})
            primary = servers[server]
            await primary.equip()
            # Until its replicas are there it could not even be told its term.
            await primary.require_replicas(0)
            await primary.take_term(view.name, term)
            await primary.claim(term, owned.buckets, owned.versions)
        case Attach(server, primary):
            one = view.seen[server]
            if one.state.name not in (None, view.name):
                raise Blocked(f"{server}: holds the data of another shard")
            await attach(servers[server], one, primary)
        case HandOver() | Publish():
            # A primary that is there is asked by Controller.hand_over; a record is the caller's.
            raise AssertionError(f"{order} is no order of a succession")
