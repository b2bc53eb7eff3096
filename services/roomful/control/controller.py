"""
The controller: looks at all servers, and brings them a step closer to what they should be.

It can be killed at any point and started again, anywhere: a pass derives everything from the
topology that the shards keep and from what the servers say. Two of them do no harm: the servers
themselves say who leads (server.py), and the other one waits.

The order of a change: roles first, then the topology on the shard that it is about, then on the
others. So a shard's own servers are never behind in what concerns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, UNPLACED, place
from roomful.cluster.shard_facts import Wish
from roomful.cluster.topology import (
    NO_INTENTS,
    Address,
    BadTopology,
    Intents,
    ShardRecord,
    Topology,
    first_topology,
)
from roomful.control.link import Credentials, ServerUnreachable
from roomful.control.observation import Observation
from roomful.control.owned import Owned
from roomful.control.resharding import Resharding
from roomful.control.server import OrderRefused, Users
from roomful.control.shard import begin_shard, guarded, tend_shard
from roomful.control.spec import ClusterSpec, ClusterStatus, Pace
from roomful.control.succession import HAND_OVER_S, UNDER_WAY, carry_out, plan_succession
from roomful.control.survey import Survey
from roomful.control.view import Phase, ShardStatus, ShardView, describe, log_changes
from roomful.control.waits import Listener, Waits
from roomful.telemetry.lasting import keep_going

__all__ = ["Controller"]

logger = logging.getLogger("roomful.control")

STEPS: Final = 16
"""More than a succession has, with some patience for replicas; the rest is for the next pass."""


class Controller:
    """
    Keeps one cluster as its specification says.

    Args:
        users: who may sign in to the servers, and with what; None: that is not its business.
        insists: take the lead from whoever has it; for a command that a person gave.
        listener: who hears how long clients had to wait.
    """

    # Mutable state: the specification, the newest topology, the primaries looked after, and the
    # status of the last pass.
    def __init__(
        self,
        spec: ClusterSpec,
        *,
        credentials: Credentials | None = None,
        users: Users | None = None,
        pace: Pace | None = None,
        insists: bool = False,
        listener: Listener | None = None,
    ) -> None:
        self.spec = spec
        self.pace = pace or Pace()
        self.status = ClusterStatus()
        self.topology: Topology | None = None
        self.wishes: dict[ShardName, Wish] = {}
        """What a person wants of a shard whose primary is lost, for as long as it is here."""
        self.has_admitted = users is None
        """Whether every server that answered the last pass knows the users."""
        self._users = users
        self._insists = insists
        self._survey = Survey(credentials or Credentials(), self.pace, insists=insists)
        self._servers = self._survey.servers
        self._tended: dict[ShardName, tuple[str | None, tuple[Address, ...]]] = {}
        self._has_changed = False
        self._waits = Waits(listener := listener or Listener())
        self._is_wanted = asyncio.Event()
        self._resharding = Resharding(
            self._servers,
            self._publish,
            quiet_s=self.pace.quiet_s,
            on_done=self._is_wanted.set,
            on_moved=listener.bucket_moved,
        )

    async def run(self) -> None:
        """Look after the cluster until cancelled; no failure of a pass ends it."""
        try:
            await keep_going("controller", self._keep_looking)
        finally:
            await self.aclose()

    async def _keep_looking(self) -> None:
        while True:
            self._is_wanted.clear()
            await self.look_after()
            pause_s = self.pace.step_s if self._has_changed else self.pace.interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_wanted.wait()

    async def aclose(self) -> None:
        """Let go of all servers, and of the lead."""
        await self._resharding.aclose()
        self._survey.close()
        await asyncio.sleep(0)

    async def look_after(self) -> ClusterStatus:
        """Make one pass: look at everything, take for each shard the next step, say how it is."""
        self._has_changed = False
        seen, unreachable = await self._survey.look(self._everyone())
        if not await self._survey.leads(seen):
            await self._resharding.aclose()
            self._waits.forget()
            with suppress(ServerUnreachable, OrderRefused, BadTopology):
                await self._read_topology(seen)
            self.status = ClusterStatus(False, self.topology, {}, unreachable)
            return self.status
        await self._admit(seen)
        try:
            await self._read_topology(seen)
            if not self._everyone() <= self._servers.keys():
                # The topology names servers that were not asked: nothing is done without them.
                return await self.look_after()
            shards = await self._take_steps(seen)
        except (ServerUnreachable, OrderRefused, BadTopology) as exc:
            logger.warning("pass ended early", extra={"why": str(exc)})
            shards = dict(self.status.shards)
        log_changes(self.status.shards, shards)
        self.status = ClusterStatus(True, self.topology, shards, unreachable)
        return self.status

    def change_passwords(self, credentials: Credentials, users: Users) -> None:
        """Sign in by *credentials* from now on, and let *users* sign in; connections stay."""
        self._survey.sign_in_by(credentials)
        self._users = users
        self.has_admitted = False
        self._is_wanted.set()

    async def hand_over(self, shard: ShardName, target: Address) -> None:
        """
        Begin to hand a shard's role to its replica *target*; passes find out how it ends.

        Nothing is lost either way: the primary pauses writes until the replica has everything, and
        goes on as before when that takes longer than HAND_OVER_S.

        Raises:
            ServerUnreachable, OrderRefused: the primary cannot be asked, or says no.
        """
        assert self.topology is not None
        primary, at = self.topology.shards[shard].primary, _now()
        await self._servers[primary].hand_over(target, HAND_OVER_S)
        self._waits.order(shard, at)
        logger.info("hands over", extra={"shard": shard, "target": str(target)})

    # Looking --------------------------------------------------------------------------------

    def _everyone(self) -> set[Address]:
        return {address for members in self._members().values() for address in members}

    def _members(self) -> dict[ShardName, tuple[Address, ...]]:
        """Give the servers of each shard that is there or shall be; those that left are not."""
        if self.topology is None:
            return dict(self.spec.shards)
        members = dict(ClusterSpec.of(self.topology).shards)
        for name, addresses in (*self.topology.intents.joining.items(), *self.spec.shards.items()):
            if name not in self.topology.intents.retired:
                members[name] = tuple(dict.fromkeys((*members.get(name, ()), *addresses)))
        return members

    async def _read_topology(self, seen: Mapping[Address, Observation]) -> None:
        """Take up the newest topology that any server keeps."""
        known = self.topology.generation if self.topology else 0
        newest = max(seen.values(), key=lambda one: one.state.generation, default=None)
        if newest is None or newest.state.generation <= known:
            return
        found = await self._servers[newest.address].topology()
        if found is not None and found.newer_than(self.topology):
            self.topology = found
            self._has_changed = True

    def _view(
        self, name: ShardName, record: ShardRecord | None, seen: Mapping[Address, Observation]
    ) -> ShardView:
        known = () if record is None else (record.primary, *record.replicas)
        joining = self.topology.intents.joining.get(name, ()) if self.topology else ()
        members = self.spec.shards.get(name, known or joining)
        everyone = dict.fromkeys((*members, *known))
        return ShardView(
            name=name,
            record=record,
            members=members,
            acks=self.topology.acks if self.topology else self.spec.acks,
            seen={address: seen[address] for address in everyone if address in seen},
            missing_s=self._survey.missing_s(one for one in everyone if one not in seen),
            unreachable=self._survey.unreachable,
        )

    # Acting ---------------------------------------------------------------------------------

    async def _admit(self, seen: Iterable[Address]) -> None:
        """Tell all servers who may sign in: one that was started since may know others."""
        users = self._users
        if users is None:
            return
        is_done = True
        for address in seen:
            try:
                await self._servers[address].admit(users)
            except (ServerUnreachable, OrderRefused) as exc:
                is_done = False
                logger.warning("users not changed", extra={"why": str(exc)})
        self.has_admitted = is_done and users is self._users

    async def _take_steps(
        self, seen: Mapping[Address, Observation]
    ) -> dict[ShardName, ShardStatus]:
        if self.topology is None:
            return self._lost() if self.spec.has_begun else await self._begin(seen)
        topology = self.topology
        views = {name: self._view(name, record, seen) for name, record in topology.shards.items()}
        statuses: dict[ShardName, ShardStatus] = {}
        records: dict[ShardName, ShardRecord] = {}

        async def step(view: ShardView) -> None:
            record = topology.shards[view.name]
            records[view.name] = record
            status = await guarded(view, self._step(view, record, topology))
            if isinstance(status, ShardRecord):
                records[view.name] = status
                status = describe(view, status)
            statuses[view.name] = status

        async with asyncio.TaskGroup() as group:
            for view in views.values():
                group.create_task(step(view))
        joined = await self._join(topology, seen, statuses)
        records |= joined
        changed = [name for name, record in records.items() if record != topology.shards.get(name)]
        if changed:
            await self._publish(
                msgspec.structs.replace(
                    topology,
                    generation=topology.generation + 1,
                    shards=records,
                    intents=_intents_after(topology, joined),
                ),
                first=changed,
            )
            known = topology.shards
            renewed = [
                one for one in changed if one in known and records[one].term > known[one].term
            ]
            self._waits.end(renewed, _now())
        await self._reshard(seen, statuses)
        await self._spread(seen)
        return statuses

    async def _join(
        self,
        topology: Topology,
        seen: Mapping[Address, Observation],
        statuses: dict[ShardName, ShardStatus],
    ) -> dict[ShardName, ShardRecord]:
        """Begin the shards that shall be there and are not; gives those that can join now."""
        joined: dict[ShardName, ShardRecord] = {}
        for name in sorted(self._members().keys() - topology.shards.keys()):
            view = self._view(name, None, seen)
            found = await guarded(view, begin_shard(view, self._servers, Owned((), ())))
            if isinstance(found, ShardRecord):
                joined[name] = found
                found = describe(view, found, Phase.STARTING)
            statuses[name] = found
        return joined

    async def _reshard(
        self, seen: Mapping[Address, Observation], statuses: Mapping[ShardName, ShardStatus]
    ) -> None:
        """Take up what people ask, and let buckets come to their places."""
        assert self.topology is not None
        if self._insists:
            return  # a command that leads for a moment would leave its moves unfinished
        try:
            await self._resharding.look_after(self.topology, seen, statuses)
        except (ServerUnreachable, OrderRefused) as exc:
            logger.warning("buckets not looked after", extra={"why": str(exc)})

    async def _step(
        self, view: ShardView, record: ShardRecord, topology: Topology
    ) -> ShardRecord | ShardStatus:
        owned = Owned.of(topology, view.name)
        if view.is_alive(record):
            self._waits.meet(view.name)
            primary = view.seen[record.primary]
            token = (primary.run_id, record.replicas)
            is_new = self._tended.get(view.name) != token or not primary.has_functions
            changed = await tend_shard(view, self._servers, record, owned, is_new=is_new)
            self._tended[view.name] = token
            return changed
        self._waits.miss(view.name, _now() - view.missing_s.get(record.primary, 0.0))
        wish = self.wishes.get(view.name)
        # At once, as far as it goes: a pass over all servers waits for those that do not answer.
        for _ in range(STEPS):
            plan = plan_succession(view, record, self.pace.fail_after_s, wish)
            self._has_changed |= bool(plan.orders)
            outcome = await carry_out(view, self._servers, record, owned, plan)
            if isinstance(outcome, ShardRecord) or plan.state not in UNDER_WAY:
                break
            if not plan.orders:
                await asyncio.sleep(self.pace.step_s)
            view = await self._survey.look_again(view)
        return outcome

    def _lost(self) -> dict[ShardName, ShardStatus]:
        """Say of all shards that their topology is waited for."""
        why = "no server that answers knows the cluster's topology"
        return {name: ShardStatus(name, Phase.STARTING, why) for name in self.spec.shards}

    async def _begin(self, seen: Mapping[Address, Observation]) -> dict[ShardName, ShardStatus]:
        """Give a new cluster its roles, and when all shards have them its topology."""
        names = sorted(self.spec.shards)
        owners = place(names, UNPLACED)
        statuses: dict[ShardName, ShardStatus] = {}
        records: dict[ShardName, ShardRecord] = {}

        async def step(name: ShardName) -> None:
            view = self._view(name, None, seen)
            buckets = tuple(bucket for bucket in range(BUCKETS) if owners[bucket] == name)
            owned = Owned(buckets, (1,) * len(buckets))
            status = await guarded(view, begin_shard(view, self._servers, owned))
            if isinstance(status, ShardRecord):
                records[name] = status
                status = describe(view, status, Phase.STARTING)
            statuses[name] = status

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(step(name))
        if records.keys() == self.spec.shards.keys():
            await self._publish(
                first_topology(records, acks=self.spec.acks, is_fsynced=self.spec.is_fsynced),
                first=names,
            )
        return statuses

    async def _publish(self, topology: Topology, first: Iterable[ShardName]) -> None:
        """Store *topology*, first on the shards that it is about."""
        for name in first:
            primary = self._servers[topology.shards[name].primary]
            kept = await primary.keep(topology)
            if kept > topology.generation:
                # Someone else was faster; the next pass begins with what they wrote.
                raise OrderRefused(primary.address, "the topology", f"it has {kept} already")
            await primary.wait(topology.acks, self.pace.timeout_s)
        self.topology = topology
        self._has_changed = True
        of = topology.shards
        shards = ", ".join(f"{name}={of[name].primary}/{of[name].term}" for name in first)
        extra = {"generation": topology.generation, "shards": shards}
        logger.info("topology changed", extra=extra)

    async def _spread(self, seen: Mapping[Address, Observation]) -> None:
        """Give the topology to all primaries that have an older one."""
        assert self.topology is not None
        for record in self.topology.shards.values():
            one = seen.get(record.primary)
            if one is None or one.state.generation >= self.topology.generation:
                continue
            try:
                await self._servers[record.primary].keep(self.topology)
            except (ServerUnreachable, OrderRefused) as exc:
                logger.info("topology not stored", extra={"why": str(exc)})


def _intents_after(topology: Topology, joined: Mapping[ShardName, ShardRecord]) -> Intents:
    intents = topology.intents
    left = {name: servers for name, servers in intents.joining.items() if name not in joined}
    changed = msgspec.structs.replace(intents, joining=left)
    return NO_INTENTS if changed == NO_INTENTS else changed


def _now() -> float:
    return asyncio.get_running_loop().time()
