"""Moving buckets: whatever was left unfinished ends with one owner that has everything."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.reshard_world import World
from roomful.cluster.bucket_facts import (
    NO_RECORD,
    Activate,
    BadRecord,
    Begin,
    BucketRecord,
    Clear,
    Drop,
    RecordState,
    ReshardFacts,
    Thaw,
    parse_record,
)
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import place
from roomful.cluster.reshard import (
    MAX_MOVES,
    RESHARD_TABLE,
    BucketState,
    empty_since,
    plan_reshard,
)

A, B, C = ShardName("a"), ShardName("b"), ShardName("c")
OWNED = BucketRecord(RecordState.OWNED, 5)
MOVING = BucketRecord(RecordState.MOVING, 5, "m", B)
FROZEN = BucketRecord(RecordState.FROZEN, 6, "m", B)
GONE = BucketRecord(RecordState.GONE, 7, "m", B)
IMPORTING = BucketRecord(RecordState.IMPORTING, 5, "m", A)
WHOLE = BucketRecord(RecordState.IMPORTING, 5, "m", A, is_whole=True)


def facts(
    *records: BucketRecord | None,
    wanted: ShardName = A,
    under_way: frozenset[str] = frozenset(),
    serving: frozenset[ShardName] = frozenset({A, B}),
) -> ReshardFacts:
    """Give one bucket of which A and B have *records*; None: the shard cannot be read."""
    pairs = zip((A, B), records, strict=True)
    return ReshardFacts(
        owners=(A,),
        versions=(5,),
        shards=frozenset({A, B}),
        members=frozenset({wanted}),
        records={shard: (record,) for shard, record in pairs if record is not None},
        serving=serving,
        under_way=under_way,
    )


@pytest.mark.parametrize(
    ("seen", "orders"),
    [
        pytest.param(facts(OWNED, NO_RECORD), [], id="at-rest"),
        pytest.param(
            facts(OWNED, NO_RECORD, wanted=B),
            [Begin(0, A, B, 5, 5, is_clear=True)],
            id="misplaced",
        ),
        pytest.param(
            facts(OWNED, replace(GONE, version=9), wanted=B),
            [Begin(0, A, B, 5, 9)],
            id="the-owner-lost-the-end-of-an-attempt",
        ),
        pytest.param(
            facts(OWNED, None, wanted=B), [Begin(0, A, B, 5, 5)], id="it-goes-where-nobody-can-look"
        ),
        pytest.param(
            replace(facts(OWNED, GONE, wanted=B), cleared=frozenset({(B, 0, "m")})),
            [Begin(0, A, B, 5, 7, is_clear=True)],
            id="nothing-is-left-where-it-goes",
        ),
        pytest.param(facts(MOVING, NO_RECORD, wanted=B), [Thaw(0, A, "m")], id="moving-of-nobody"),
        pytest.param(facts(MOVING, IMPORTING, wanted=B), [Thaw(0, A, "m")], id="source-first"),
        pytest.param(facts(FROZEN, WHOLE, wanted=B), [Thaw(0, A, "m")], id="frozen-of-nobody"),
        pytest.param(facts(OWNED, IMPORTING, wanted=B), [Drop(0, B, "m")], id="then-the-target"),
        pytest.param(facts(OWNED, WHOLE, wanted=B), [Drop(0, B, "m")], id="freeze-lapsed"),
        pytest.param(facts(GONE, WHOLE), [Activate(0, A, B, "m", 7)], id="roll-forward"),
        pytest.param(facts(NO_RECORD, OWNED, wanted=B), [], id="topology-behind"),
        pytest.param(facts(GONE, OWNED, wanted=B), [Clear(0, A, "m")], id="left-over"),
        pytest.param(
            facts(FROZEN, WHOLE, under_way=frozenset({"m"})), [], id="under-way-is-left-alone"
        ),
        pytest.param(facts(None, NO_RECORD), [], id="owner-unseen"),
        pytest.param(facts(None, WHOLE), [], id="never-dropped-unseen"),
        pytest.param(
            facts(OWNED, NO_RECORD, wanted=B, serving=frozenset({A})), [], id="target-degraded"
        ),
        pytest.param(
            facts(GONE, WHOLE, serving=frozenset({B})), [], id="release-perhaps-not-replicated"
        ),
        pytest.param(facts(OWNED, OWNED), [], id="two-owners-are-not-touched"),
        pytest.param(facts(GONE, IMPORTING), [], id="release-without-copy-is-not-touched"),
        pytest.param(facts(NO_RECORD, NO_RECORD), [], id="nobody-has-it"),
    ],
)
def test_what_is_next_follows_from_the_records(seen: ReshardFacts, orders: list[object]) -> None:
    """One row for each state that records can be in."""
    assert list(plan_reshard(seen).orders) == orders


def test_each_state_has_its_row() -> None:
    """And there is no other."""
    assert RESHARD_TABLE.keys() == set(BucketState)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (facts(None, WHOLE), "a cannot be read"),
        (facts(OWNED, OWNED), "a and b have it"),
        (facts(GONE, IMPORTING), "a released it, and b does not have all of it"),
        (facts(NO_RECORD, NO_RECORD), "no shard has it"),
    ],
)
def test_what_is_not_touched_is_told(seen: ReshardFacts, why: str) -> None:
    """In words, and the topology stays as it is."""
    plan = plan_reshard(seen)

    assert plan.reasons == {0: why}
    assert (plan.owners, plan.versions) == ((A,), (5,))


def test_the_topology_follows_the_records() -> None:
    """Owner and version as the owner has them; while a bucket is closed, as they were."""
    moved = plan_reshard(facts(GONE, BucketRecord(RecordState.OWNED, 7), wanted=B))
    moving = plan_reshard(facts(FROZEN, WHOLE, wanted=B))
    released = plan_reshard(facts(GONE, WHOLE, wanted=B))

    assert (moved.owners, moved.versions) == ((B,), (7,))
    assert (moving.owners, moving.versions) == ((A,), (5,))
    assert (released.owners, released.versions) == ((A,), (5,))


def test_few_buckets_move_at_once() -> None:
    """All from one shard, one that is drained first; none while others are under way."""
    owners = (A,) * 12 + (B,) * 24
    records = {
        shard: [OWNED if owner == shard else NO_RECORD for owner in owners] for shard in (A, B, C)
    }
    seen = ReshardFacts(
        owners=owners,
        versions=(5,) * len(owners),
        shards=frozenset({A, B, C}),
        members=frozenset({B, C}),
        records=records,
        serving=frozenset({A, B, C}),
    )
    orders = plan_reshard(seen).orders

    assert len(orders) == MAX_MOVES
    assert all(isinstance(order, Begin) and order.source == A for order in orders)
    records[A][0] = MOVING
    records[A][1] = BucketRecord(RecordState.MOVING, 5, "old", B)
    mixed = plan_reshard(
        ReshardFacts(
            owners=owners,
            versions=seen.versions,
            shards=seen.shards,
            members=seen.members,
            records=records,
            serving=seen.serving,
            under_way=frozenset({"m"}),
        )
    )
    assert mixed.orders == (Thaw(1, A, "old"),)


@pytest.mark.parametrize(
    "record", [NO_RECORD, OWNED, MOVING, FROZEN, GONE, IMPORTING, WHOLE], ids=str
)
def test_a_record_is_read_as_it_is_written(record: BucketRecord) -> None:
    """As the function library writes it."""
    words = {
        NO_RECORD: "NONE 0",
        OWNED: "OWNED 5",
        MOVING: "MOVING 5 m b",
        FROZEN: "FROZEN 6 m b 1790000000000",
        GONE: "GONE 7 m b",
        IMPORTING: "IMPORTING 5 m a",
        WHOLE: "IMPORTING 5 m a whole",
    }
    assert parse_record(words[record]) == record


@pytest.mark.parametrize(
    "text", ["", "OWNED", "OWNED x", "SPLIT 5 m b", "GONE 5 m", "MOVING - m b"]
)
def test_another_record_is_refused(text: str) -> None:
    """A shard of a later version may have some; nothing is guessed about them."""
    with pytest.raises(BadRecord):
        parse_record(text)


def worlds() -> st.SearchStrategy[World]:
    """Give worlds of some buckets on up to three shards."""
    return st.builds(
        lambda random, owners, members: World(random, frozenset(members), owners),
        st.randoms(use_true_random=False),
        st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=6),
        st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=3, unique=True),
    )


@settings(max_examples=300)
@given(worlds(), st.integers(0, 120))
def test_every_history_ends_with_one_owner_that_has_everything(world: World, events: int) -> None:
    """Controllers die at any step, shards fail over or are unseen, people change their minds."""
    for _ in range(events):
        world.happen()
        world.check()
    world.settle()
    plan = world.plan()

    assert plan.moves == ()
    assert plan.reasons == {}
    assert plan.empty == frozenset(world.primaries) - world.members
    for bucket, owner in enumerate(world.owners):
        assert world.record(owner, bucket).state is RecordState.OWNED
        assert world.record(owner, bucket).version == world.versions[bucket]
    for shard, server in world.primaries.items():
        for bucket, owner in enumerate(world.owners):
            assert shard == owner or server.stored[bucket] == 0


@settings(max_examples=50)
@given(worlds())
def test_nothing_moves_twice(world: World) -> None:
    """Undisturbed, each bucket that has to moves once, and the same facts give the same plan."""
    needed = sum(
        before != after
        for before, after in zip(world.owners, place(world.members, world.owners), strict=True)
    )
    assert world.plan() == world.plan()
    world.settle()

    assert world.begun == needed


@settings(max_examples=50)
@given(worlds(), st.integers(0, 30))
def test_what_was_ordered_is_not_ordered_again(world: World, events: int) -> None:
    """The mending of a pass leaves nothing of it to the next."""
    for _ in range(events):
        world.happen()
    world.attempts.clear()
    mending = [one for one in world.plan().orders if not isinstance(one, Begin | Clear)]
    for order in mending:
        world.obey(order)

    assert not set(mending) & set(world.plan().orders)


def test_a_controller_that_does_not_wait_is_found() -> None:
    """Without replicas that confirm, a failover leaves two owners, or one that lacks messages."""
    found = set()
    for seed in range(200):
        world = World(Random(seed), frozenset({B}), [A, A], waits=False)  # noqa: S311
        try:
            for _ in range(60):
                world.happen()
                world.check()
        except AssertionError as exc:
            found.add(str(exc).split(" bucket ")[0])
    assert found


def test_a_drained_shard_has_had_nothing_since_it_was_first_seen_so() -> None:
    """Whatever cannot be read meanwhile."""
    drained = plan_reshard(facts(OWNED, NO_RECORD))
    assert drained.empty == {B}
    since = empty_since({}, drained, [B], {B: 1})
    assert since == {B: 1}
    assert empty_since(since, drained, [B], {B: 2}) == {B: 1}
    for unread in (facts(OWNED, None), facts(None, NO_RECORD), facts(None, None)):
        plan = plan_reshard(unread)
        assert plan.empty == frozenset()
        assert empty_since(since, plan, [B], {B: 2}) == {B: 1}
        assert empty_since(since, plan, [B], {}) == {B: 1}


def test_the_time_of_a_drained_shard_begins_anew_with_a_bucket() -> None:
    """It has to be without one as long as edges may still ask it."""
    owning = plan_reshard(facts(NO_RECORD, OWNED))
    assert empty_since({B: 1}, owning, [B], {B: 2}) == {}


def test_a_drain_that_is_called_off_leaves_no_time() -> None:
    """The next one begins anew."""
    unread = plan_reshard(facts(OWNED, None))
    assert empty_since({B: 1}, unread, [], {B: 2}) == {}


def test_a_clock_that_is_behind_makes_no_drain_wait_for_it() -> None:
    """Another server of the shard may be hours behind; then the time begins anew, once."""
    drained = plan_reshard(facts(OWNED, NO_RECORD))
    assert empty_since({B: 7_200_000}, drained, [B], {B: 5}) == {B: 5}
    assert empty_since({B: 5}, drained, [B], {B: 6}) == {B: 5}
