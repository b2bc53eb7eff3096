"""The failover machine: it loses nothing acknowledged, comes to rest, and says why it waits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cluster.failover_world import PATIENCE, World, address
from roomful.cluster import failover
from roomful.cluster.failover import FAILOVER_TABLE, ShardState, plan_shard, quorum
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

P, A, B = address(0), address(1), address(2)


def lead(world: World, rounds: int = 60) -> ShardState:
    """Let a controller that remembers nothing work until it has no orders left."""
    for _ in range(rounds):
        world.settle()
        plan = world.plan()
        if not plan.orders:
            return plan.state
        for order in plan.orders:
            world.carry_out(order)
    raise AssertionError(f"it never comes to rest: {world.plan()}")


def test_every_state_has_a_row() -> None:
    """Rule 2."""
    assert FAILOVER_TABLE.keys() == set(ShardState)


@pytest.mark.parametrize(
    ("replicas", "acks", "needed"),
    [(0, 0, 1), (2, 0, 1), (1, 1, 1), (2, 1, 2), (2, 2, 1), (3, 1, 3), (3, 2, 2)],
)
def test_a_quorum_is_more_than_what_acks_leave_out(replicas: int, acks: int, needed: int) -> None:
    """R > N - W."""
    record = ShardRecord(1, P, tuple(address(number + 1) for number in range(replicas)))
    assert quorum(record, acks) == needed


def test_a_shard_that_serves_is_left_alone() -> None:
    """No orders, whoever looks."""
    plan = World(2, 1).plan()
    assert (plan.state, plan.orders, plan.reason) == (ShardState.SERVING, (), "")


def test_a_lost_primary_is_replaced_step_by_step() -> None:
    """Fence, promote the one with most, begin a term, attach, publish."""
    world = World(2, 1)
    world.cut.add(frozenset((P, A)))
    world.write()
    world.settle()
    world.kill(world.servers[P])
    world.cut.clear()
    orders: list[Order] = []
    while (plan := world.plan()).orders:
        orders += plan.orders
        for order in plan.orders:
            world.carry_out(order)
        world.settle()
    record = world.edge[1]
    assert orders == [
        Fence(A),
        Fence(B),
        Promote(B),
        TakeTerm(B, 2),
        Attach(A, B),
        Publish(record),
    ]
    assert (record.term, record.primary, record.replicas) == (2, B, (P, A))


def test_a_replica_that_heard_nothing_since_it_copied_has_what_it_copied() -> None:
    """It copied an empty primary, at offset 0, and is in the stream from there on."""
    world = World(2, 1, is_heard=False)
    world.cut.add(frozenset((P, A)))
    world.write()
    world.settle()
    world.kill(world.servers[P])
    assert (world.servers[A].offset, world.servers[A].data, len(world.acked)) == (0, [], 1)
    assert lead(world) is ShardState.SERVING
    assert world.edge[1].primary == B


def test_a_replica_that_lost_its_place_does_not_count() -> None:
    """It began to copy everything anew, and has what it had before: nobody can say how much."""
    world = World(2, 1)
    world.write()
    world.settle()
    world.servers[A].stream = "another"
    world.replicate(world.servers[A])
    world.kill(world.servers[P])
    world.carry_out(Fence(A))
    assert world.servers[A].copying == 0
    plan = world.plan()
    assert (plan.state, plan.orders) == (ShardState.BLOCKED, ())
    assert "1 of 2 replicas" in plan.reason


def test_the_old_primary_comes_back_as_a_replica() -> None:
    """Sealed at its start, then attached: it has to be told."""
    world = World(2, 1)
    world.kill(world.servers[P])
    lead(world)
    world.start(world.servers[P])
    assert [type(order) for order in world.plan().orders] == [Attach]
    assert lead(world) is ShardState.SERVING
    assert world.servers[P].upstream == world.edge[1].primary


def test_a_primary_that_restarted_is_not_the_primary_of_its_term() -> None:
    """Its replicas may have what its file has not; with none of them it goes on alone."""
    world = World(2, 1)
    world.kill(world.servers[P])
    world.start(world.servers[P])
    assert lead(world) is ShardState.SERVING
    assert world.edge[1].primary == B
    alone = World(0, 0)
    alone.kill(alone.servers[P])
    alone.start(alone.servers[P])
    assert lead(alone) is ShardState.SERVING
    assert (alone.edge[1].primary, alone.edge[1].term) == (P, 2)


def test_without_a_quorum_nothing_is_promoted_and_it_says_what_is_missing() -> None:
    """Until somebody forces it, who then knows what that costs."""
    world = World(2, 1)
    world.kill(world.servers[P])
    world.kill(world.servers[A])
    plan = world.plan()
    assert (plan.state, plan.orders) == (ShardState.BLOCKED, ())
    assert "1 of 2 replicas" in plan.reason
    assert f"{P}, {A} are missing" in plan.reason
    assert "roomful promote --force s1" in plan.reason
    world.wish = Wish(force=True)
    lead(world)
    assert world.servers[B].is_primary
    assert world.servers[B].term() == 2


def test_a_primary_that_a_replica_hears_is_not_replaced() -> None:
    """It is the controller that is cut off. One whom only edges reach can acknowledge nothing."""
    world = World(1, 1)
    world.cut.add(frozenset(("controller", P)))
    plan = world.plan()
    assert (plan.state, plan.orders) == (ShardState.SUSPECT, ())
    assert f"answers replica {A}" in plan.reason
    world.cut.add(frozenset((P, A)))
    assert world.plan().state is ShardState.FENCED or world.plan().orders == (Fence(A),)


def test_a_short_silence_is_not_a_death() -> None:
    """For as long as the controller is told to be patient."""
    world = World(1, 1)
    world.kill(world.servers[P])
    plan = plan_shard(world.facts(), Patience(60.0))
    assert plan.state is ShardState.SUSPECT
    assert "has not answered for 10.0 s" in plan.reason


def test_a_planned_hand_over_needs_a_whole_replica() -> None:
    """It is refused with a reason, or ends with the other one in the next term."""
    world = World(2, 1)
    world.write()
    world.settle()
    world.wish = Wish(hand_over=True, target=A)
    assert world.plan().orders == (HandOver(P, A),)
    for order in world.plan().orders:
        world.carry_out(order)
    world.wish = Wish()
    assert lead(world) is ShardState.SERVING
    assert (world.edge[1].primary, world.edge[1].term) == (A, 2)
    world.kill(world.servers[B])
    world.kill(world.servers[P])
    world.wish = Wish(hand_over=True)
    plan = world.plan()
    assert plan.orders == ()
    assert plan.reason == "no replica is whole enough to take the role"


def test_a_hand_over_is_not_taken_for_a_lost_primary() -> None:
    """For a moment nobody has the role: whoever was named gets it, unless it is gone."""
    world = World(2, 1)
    facts = world.facts()
    primary = dataclasses.replace(
        facts.seen[P], is_primary=False, upstream=B, is_handing_over=True, online=frozenset()
    )
    between = dataclasses.replace(facts, seen={**facts.seen, P: primary})
    plan = plan_shard(between, PATIENCE)
    assert (plan.state, plan.orders) == (ShardState.HANDING_OVER, ())
    alone = {address: one for address, one in between.seen.items() if address != B}
    plan = plan_shard(dataclasses.replace(between, seen=alone), PATIENCE)
    assert plan.state is not ShardState.HANDING_OVER


def test_a_promotion_that_nobody_heard_of_does_not_count_later() -> None:
    """One with a newer term that was never published lacks what was acknowledged after."""
    world = World(2, 1)
    a = world.servers[A]
    for order in (Fence(A), Fence(B), Promote(A), TakeTerm(A, 2)):
        world.carry_out(order)
    world.kill(a)
    # The primary had only been out of sight.
    assert lead(world) is ShardState.SERVING
    world.write()
    world.settle()
    assert world.acked == {1}
    a.is_up = True  # as it was: the process had only been cut off
    world.kill(world.servers[P])
    assert lead(world) is ShardState.SERVING
    assert world.edge[1].primary == B
    world.check()


class Failures(RuleBasedStateMachine):
    """Anything breaks at any time, and the controller is a new one at each step."""

    # Mutable state: the world.
    @initialize(
        shape=st.sampled_from([(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]),
        is_heard=st.booleans(),
    )
    def begin(self, shape: tuple[int, int], *, is_heard: bool = True) -> None:
        """Make a shard that serves."""
        self.world = World(*shape, is_heard=is_heard)
        self.ends: list[Address | str] = [*self.world.servers, "controller", "edge"]

    @rule(number=st.integers(0, 3), count=st.integers(1, 3))
    def replicate(self, number: int, count: int) -> None:
        """A replica hears some of its primary."""
        servers = list(self.world.servers.values())
        for _ in range(count):
            self.world.replicate(servers[number % len(servers)])

    @rule()
    def write(self) -> None:
        """The edge stores a message."""
        self.world.write()

    @rule(take=st.integers(1, 4))
    def lead(self, take: int) -> None:
        """A controller looks, and dies after some of its orders."""
        for order in self.world.plan().orders[:take]:
            self.world.carry_out(order)

    @rule(take=st.integers(1, 3))
    def lead_and_settle(self, take: int) -> None:
        """The same with time for the servers to do what they were told."""
        for _ in range(take):
            self.lead(9)
            self.world.settle()

    @rule(number=st.integers(0, 3))
    def kill(self, number: int) -> None:
        """A server dies."""
        servers = list(self.world.servers.values())
        self.world.kill(servers[number % len(servers)])

    @rule(number=st.integers(0, 3))
    def start(self, number: int) -> None:
        """A server is started again."""
        servers = list(self.world.servers.values())
        self.world.start(servers[number % len(servers)])

    @rule(one=st.integers(0, 5), other=st.integers(0, 5))
    def cut(self, one: int, other: int) -> None:
        """Two no longer reach each other, or do again."""
        ends = frozenset((self.ends[one % len(self.ends)], self.ends[other % len(self.ends)]))
        self.world.cut ^= {ends}

    @rule(is_wanted=st.booleans())
    def wish(self, is_wanted: bool) -> None:
        """Somebody wants a hand-over, or no longer."""
        self.world.wish = Wish(hand_over=is_wanted)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        """Whoever may be used has it."""
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """When everything is mended it serves again, whole, and nothing is left to be done."""
        if hasattr(self, "world"):
            self.world.heal()
            assert lead(self.world) is ShardState.SERVING
            self.world.check()
            _, record = self.world.edge
            assert self.world.servers[record.primary].is_primary
            assert len(self.world.servers) == 1 + len(record.replicas)


def test_a_copy_from_who_lost_the_role_ends() -> None:
    """Its source was killed in the middle and came back sealed: the shard does not wait for it."""
    state = Failures()
    state.begin(shape=(3, 1))
    state.write()
    state.wish(is_wanted=True)
    state.cut(one=0, other=3)
    state.lead_and_settle(take=1)
    state.kill(number=2)
    state.lead(take=1)
    state.lead(take=1)
    state.replicate(count=1, number=1)
    state.kill(number=0)
    state.teardown()


def test_whatever_breaks_nothing_acknowledged_is_lost() -> None:
    """Crashes, restarts, partitions, controllers that die at any order; then all is mended."""
    run_state_machine_as_test(
        Failures,
        settings=settings(
            max_examples=int(os.environ.get("ROOMFUL_TEST_EXAMPLES", "150")),
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _too_few(record: ShardRecord, acks: int) -> int:
    return max(1, quorum(record, acks) - 1)


def _unfenced(facts: ShardFacts, one: ServerFacts, why: str) -> failover._Place:
    place = _LOCATE_CHOSEN(facts, one, why)
    if place.state is ShardState.LISTENING:
        return failover._Place(ShardState.FENCED, one, why)
    return place


_LOCATE_CHOSEN = failover._locate_chosen


@pytest.mark.parametrize(
    ("guard", "broken"),
    [
        pytest.param("quorum", _too_few, id="one replica fewer is asked than R > N - W"),
        pytest.param("_locate_chosen", _unfenced, id="replicas still listen to the old primary"),
    ],
)
def test_without_a_guard_an_acknowledged_message_is_lost(
    guard: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine above finds it: it can fail."""
    monkeypatch.setattr(failover, guard, broken)
    with pytest.raises(AssertionError, match="lost"):
        run_state_machine_as_test(
            Failures,
            settings=settings(
                max_examples=5000,
                stateful_step_count=40,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
