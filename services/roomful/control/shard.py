"""
Brings one shard from what its servers say towards what it should be, a step at a time.

Each function looks at a view, orders what is next, and gives the shard's record as the
topology should have it. Nothing is remembered between calls: whatever was interrupted is found
again in what the servers say.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence

import msgspec

from roomful.cluster.topology import Address, ShardRecord
from roomful.control.link import ServerUnreachable
from roomful.control.observation import Observation, Role
from roomful.control.owned import Owned
from roomful.control.server import OrderRefused, Server
from roomful.control.view import Blocked, Phase, ShardStatus, ShardView, Waiting, describe
from roomful.shard.library import LibraryRefused

__all__ = ["attach", "begin_shard", "guarded", "tend_shard"]

logger = logging.getLogger("roomful.control")

Servers = Mapping[Address, Server]
WAIT_S = 0.2
"""For replicas to confirm in one pass; the next one waits again."""


async def begin_shard(view: ShardView, servers: Servers, owned: Owned) -> ShardRecord:
    """
    Give a new shard its first primary, and its replicas.

    Raises:
        Waiting: a server is not there yet, or replicas are still copying.
        Blocked: a server holds data that this would destroy.
    """
    missing = [
        f"{address} ({view.unreachable.get(address, 'not asked yet')})"
        for address in view.members
        if address not in view.seen
    ]
    if missing:
        raise Waiting(f"waits for {', '.join(missing)}")
    primary, *replicas = view.members
    _refuse_data(view)
    first = servers[primary]
    if view.seen[primary].role is Role.REPLICA:
        await first.promote()
    await first.equip()
    await _attach_all(view, servers, primary, replicas)
    await _start_term(view, servers, ShardRecord(1, primary), owned)
    # Looked at again: it has another stream since it was given the role.
    now = await first.observe()
    record = ShardRecord(1, primary, tuple(replicas), now.run_id, now.replication_id)
    logger.info("shard begun", extra={"shard": view.name, "primary": str(primary)})
    return record


async def tend_shard(
    view: ShardView, servers: Servers, record: ShardRecord, owned: Owned, *, is_new: bool
) -> ShardRecord:
    """
    Keep a shard whose primary is alive as it should be.

    A replica is in the record before it is attached, since from then on its ack counts; one
    that is no longer wanted is sealed before it leaves the record, for the same reason.

    Args:
        is_new: whether this primary was not looked after before, by this controller.
    """
    if strangers := view.strangers():
        raise Blocked(f"{', '.join(map(str, strangers))}: holds the data of another shard")
    if record.primary not in view.members:
        # It goes on until someone hands its role to a server that shall stay.
        logger.warning("primary is not wanted any more", extra={"shard": view.name})
    members = [one for one in view.members if one != record.primary]
    kept = [one for one in record.replicas if one in members]
    wanted = (*kept, *(one for one in members if one not in kept))
    leaving = [one for one in record.replicas if one not in wanted]
    for address in leaving:
        if address in view.seen and not view.seen[address].is_sealed:
            await servers[address].seal()
    still_there = tuple(one for one in leaving if _follows(view, record, one))
    await _attach_all(view, servers, record.primary, record.replicas, only=wanted)
    primary = servers[record.primary]
    if is_new:
        await primary.equip()
        await primary.claim(record.term, owned.buckets, owned.versions)
        await primary.require_replicas(view.acks)
    seen = view.seen[record.primary]
    return msgspec.structs.replace(
        record,
        replicas=wanted + still_there,
        run_id=seen.run_id,
        stream=seen.replication_id,
    )


async def _start_term(view: ShardView, servers: Servers, record: ShardRecord, owned: Owned) -> None:
    """
    Begin the term of *record* at its primary, with as many replicas as an ack needs.

    Only then may edges hear of it: else the next primary could begin the same term, and give the
    same offsets to other messages.

    Raises:
        Waiting: too few replicas have it yet.
    """
    server = servers[record.primary]
    # Until its replicas are there it could not even be told its term.
    await server.require_replicas(0)
    await server.take_term(view.name, record.term)
    await server.claim(record.term, owned.buckets, owned.versions)
    if not await server.wait(view.acks, WAIT_S):
        raise Waiting(
            f"{record.primary} has the role and waits until {view.acks} "
            f"{'replica has' if view.acks == 1 else 'replicas have'} its data"
        )
    await server.require_replicas(view.acks)


def _follows(view: ShardView, record: ShardRecord, replica: Address) -> bool:
    """Whether *replica* may still confirm what its primary is given."""
    if replica in view.seen:
        return not view.seen[replica].is_sealed
    return any(one.address == replica for one in view.seen[record.primary].followers)


async def _attach_all(
    view: ShardView,
    servers: Servers,
    primary: Address,
    replicas: Sequence[Address],
    *,
    only: Sequence[Address] | None = None,
) -> None:
    for address in replicas:
        one = view.seen.get(address)
        if one is None or one.follows(primary) or (only is not None and address not in only):
            continue
        await attach(servers[address], one, primary)


async def attach(server: Server, seen: Observation, primary: Address) -> None:
    """Make *server*, *seen* so a moment ago, a replica of *primary*."""
    await server.follow(primary)
    if seen.role is Role.PRIMARY:
        # Who is connected took it for the primary.
        await server.disconnect_clients()


async def guarded(
    view: ShardView, step: Awaitable[ShardRecord | ShardStatus]
) -> ShardRecord | ShardStatus:
    """Give what *step* gives, or how the shard is when it could not be taken."""
    try:
        return await step
    except Waiting as exc:
        phase = Phase.STARTING if view.record is None else Phase.FAILING_OVER
        return describe(view, view.record, phase, str(exc))
    except (Blocked, LibraryRefused) as exc:
        return describe(view, view.record, Phase.BLOCKED, str(exc))
    except (ServerUnreachable, OrderRefused) as exc:
        # What comes next depends on what the server is then.
        return describe(view, view.record, Phase.SUSPECT, str(exc))


def _refuse_data(view: ShardView) -> None:
    for address in view.members:
        one = view.seen[address]
        has_term = one.state.name == view.name and one.state.term == 1
        is_unused = one.state.sequence <= 1 << 40 and one.state.generation == 0
        if not (one.keys == 0 or (has_term and is_unused)):
            raise Blocked(
                f"{address} holds data, and no server knows a topology: start the servers that "
                "have it, or empty this one if the data may go"
            )
