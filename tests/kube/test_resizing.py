"""The way from the shards that are there to as many as are wanted, a request at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, place
from roomful.cluster.requests import AddShard, DrainShard, take_up
from roomful.cluster.topology import Address, Intents, ShardRecord, Topology, first_topology
from roomful.control.view import Phase, ShardStatus
from roomful_operator.resizing import Resizing, Shards, plan_shards

S1, S2, S3, S4 = (ShardName(f"s{number}") for number in (1, 2, 3, 4))


def server(name: ShardName) -> Address:
    """Give the one server of a shard."""
    return Address(f"10.96.0.{name[1:]}", 6379)


def topology(*names: ShardName, **intents: object) -> Topology:
    """Give a topology with its buckets in place, and what is wanted of it."""
    first = first_topology({name: ShardRecord(1, server(name)) for name in names})
    return msgspec.structs.replace(first, intents=Intents(**intents))  # type: ignore[arg-type]


def serving(
    of: Topology, *ready: ShardName, memory: float = 0.1, ill: ShardName | None = None
) -> Shards:
    """Give shards that serve, but *ill*; *ready* are those whose new servers are."""
    status = {
        name: ShardStatus(name, Phase.DEGRADED if name == ill else Phase.SERVING, "")
        for name in of.shards
    }
    return Shards(
        status, {name: (server(name),) for name in ready}, dict.fromkeys(of.shards, memory)
    )


def test_as_many_as_there_are_is_nothing_to_do() -> None:
    """No request, and nothing is going on."""
    of = topology(S1, S2)
    assert plan_shards(2, of, serving(of)) == Resizing((S1, S2))


def test_a_new_shard_joins_when_its_servers_are_ready() -> None:
    """Before that it has objects and is part of nothing."""
    of = topology(S1, S2)
    early = plan_shards(3, of, serving(of))
    assert (early.names, early.request, early.reason) == ((S1, S2, S3), None, "StartingShards")
    assert early.is_going_on
    after = plan_shards(3, of, serving(of, S3))
    assert after.request == AddShard(S3, (server(S3),))


def test_no_name_is_used_again() -> None:
    """The name of a shard that has left is in clients' cursors."""
    of = topology(S1, S2, retired=(S3,))
    assert plan_shards(3, of, serving(of)).names == (S1, S2, S4)


def test_the_newest_shard_is_drained() -> None:
    """And keeps its objects until no topology names it."""
    of = topology(S1, S2, S3)
    step = plan_shards(2, of, serving(of))
    assert (step.names, step.request) == ((S1, S2, S3), DrainShard(S3))


@pytest.mark.parametrize("wanted", [1, 3], ids=["fewer", "more"])
def test_nothing_begins_while_a_shard_does_not_serve(wanted: int) -> None:
    """Its buckets could not move, so another number waits; and it is said why."""
    of = topology(S1, S2)
    step = plan_shards(wanted, of, serving(of, S3, ill=S1))
    assert (step.request, step.reason, step.is_going_on) == (None, "Waiting", False)
    assert "s1 is degraded" in step.message


def test_nothing_begins_without_the_lead() -> None:
    """What another controller does is not known here."""
    of = topology(S1, S2)
    assert plan_shards(1, of, Shards({}, {}, {S1: 0.1, S2: 0.1})).request is None


def test_what_does_not_fit_is_not_drained() -> None:
    """Two shards of 0.6 in one of them would be above its memory: it would refuse messages."""
    of = topology(S1, S2)
    step = plan_shards(1, of, serving(of, memory=0.6))
    assert (step.request, step.reason) == (None, "DoesNotFit")
    assert "120%" in step.message


def test_memory_that_is_not_known_is_not_taken_for_none() -> None:
    """A drain waits until every shard has told what it uses."""
    of = topology(S1, S2)
    known = serving(of)
    step = plan_shards(1, of, Shards(known.status, {}, {S1: 0.1}))
    assert (step.request, step.reason) == (None, "Waiting")


def test_a_drain_is_taken_back() -> None:
    """The number grew again in the middle of it: who was leaving stays, and no new one is made."""
    of = topology(S1, S2, S3, draining=(S3,))
    step = plan_shards(3, of, serving(of))
    assert (step.names, step.request) == ((S1, S2, S3), DrainShard(S3, is_wanted=False))


def test_a_join_is_taken_back() -> None:
    """The number fell again before the shard had joined."""
    of = topology(S1, S2, joining={S3: (server(S3),)})
    step = plan_shards(2, of, serving(of))
    assert (step.names, step.request) == ((S1, S2, S3), DrainShard(S3))


def test_how_far_it_is_is_told() -> None:
    """How many buckets are still to move, and for which shard."""
    of = topology(S1, S2, S3, draining=(S3,))
    step = plan_shards(2, of, serving(of))
    assert step.reason == "MovingBuckets"
    assert step.message == "341 of 1024 buckets are to move; s3 is drained"


@dataclass
class World:
    """A cluster that does what it is asked, sometimes, a little at a time."""

    topology: Topology
    made: set[ShardName] = field(default_factory=set)
    ever: list[ShardName] = field(default_factory=list)

    def look(self, wanted: int, *, is_ill: bool) -> Resizing:
        """Make a pass of an operator that remembers nothing."""
        shards = serving(self.topology, *self.made, ill=S1 if is_ill else None)
        step = plan_shards(wanted, self.topology, shards)
        assert set(self.topology.shards) <= set(step.names)
        if step.request is not None:
            self.topology = take_up(self.topology, step.request)
        self.made = set(step.names)
        return step

    def go_on(self, buckets: int) -> None:
        """Let shards join, *buckets* of the buckets move, and empty ones leave."""
        of = self.topology
        intents, records = of.intents, dict(of.shards)
        for name, servers in intents.joining.items():
            records[name] = ShardRecord(1, servers[0])
            self.ever.append(name)
        after = msgspec.structs.replace(intents, joining={})
        goal = place(records.keys() - set(after.draining), of.buckets)
        owners, left = list(of.buckets), buckets
        for bucket in range(BUCKETS):
            if owners[bucket] != goal[bucket] and left:
                owners[bucket], left = goal[bucket], left - 1
        gone = set(after.draining) - set(owners)
        self.topology = msgspec.structs.replace(
            of,
            shards={name: record for name, record in records.items() if name not in gone},
            buckets=tuple(owners),
            intents=msgspec.structs.replace(
                after,
                draining=tuple(one for one in after.draining if one not in gone),
                retired=tuple(sorted({*after.retired, *gone})),
            ),
        )


@settings(max_examples=20)  # a loaded machine is no fault
@given(
    history=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400), st.booleans()), max_size=8),
    wanted=st.integers(1, 5),
)
def test_whatever_is_wanted_meanwhile_the_last_number_is_reached(
    history: list[tuple[int, int, bool]], wanted: int
) -> None:
    """The number changes at any moment, shards fail now and then; no name comes twice."""
    world = World(topology(S1, S2), ever=[S1, S2])
    for number, buckets, is_ill in history:
        world.look(number, is_ill=is_ill)
        world.go_on(buckets)
    for _ in range(20):
        world.look(wanted, is_ill=False)
        world.go_on(BUCKETS)
    assert len(world.topology.shards) == wanted
    assert world.look(wanted, is_ill=False) == Resizing(tuple(world.topology.shards))
    assert len(set(world.ever)) == len(world.ever)
