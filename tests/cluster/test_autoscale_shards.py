"""How many shards: slowly, one at a time, and never back and forth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomful.cluster.autoscale_shards import (
    SHARD_IN_AFTER_S,
    SHARD_OUT_AFTER_S,
    ShardDecision,
    ShardHistory,
    ShardLoad,
    ShardTargets,
    decide_shards,
)


def loads(*parts: float) -> list[ShardLoad]:
    """Give shards that use these parts of their memory."""
    return [ShardLoad(f"s{number}", memory=part) for number, part in enumerate(parts, 1)]


def decided(
    shards: list[ShardLoad], *, after_s: float, minimum: int = 1, maximum: int = 8
) -> ShardDecision:
    """Give what is decided when the loads have been so for *after_s*."""
    targets = ShardTargets(minimum, maximum)
    first = decide_shards(targets, shards, 1000.0, ShardHistory())
    return decide_shards(targets, shards, 1000.0 + after_s, first.history)


def test_a_full_shard_brings_another_after_ten_minutes() -> None:
    """Memory or CPU above 70 %, for long enough: one more, up to the maximum."""
    full = loads(0.8, 0.5)
    assert decided(full, after_s=SHARD_OUT_AFTER_S - 1).count == 2
    assert decided(full, after_s=SHARD_OUT_AFTER_S).count == 3
    assert decided([ShardLoad("s1", cpu=0.9)], after_s=SHARD_OUT_AFTER_S).count == 2
    assert decided(full, after_s=SHARD_OUT_AFTER_S, maximum=2).reason == "AtMaximum"


def test_how_slowly_it_follows_can_be_said() -> None:
    """Other times than ten minutes and an hour."""
    targets = ShardTargets(1, 8, out_after_s=60.0, in_after_s=120.0)
    for shards, after_s, count in ((loads(0.8, 0.5), 60.0, 3), (loads(0.2, 0.1), 120.0, 1)):
        first = decide_shards(targets, shards, 0.0, ShardHistory())
        assert decide_shards(targets, shards, after_s - 1, first.history).count == 2
        assert decide_shards(targets, shards, after_s, first.history).count == count


def test_a_peak_brings_none() -> None:
    """A look at which no shard is full begins the ten minutes anew."""
    history = ShardHistory()
    for at in range(0, 3600, 300):
        one = loads(0.8, 0.5) if at % 600 else loads(0.6, 0.5)
        decision = decide_shards(ShardTargets(1, 8), one, float(at), history)
        assert decision.count == 2
        history = decision.history


def test_a_few_busy_rooms_bring_none() -> None:
    """The other shards have little to do: buckets are even, so another shard would have as well."""
    decision = decided(loads(0.9, 0.1, 0.1), after_s=SHARD_OUT_AFTER_S)
    assert (decision.count, decision.reason) == (3, "Uneven")


def test_empty_shards_go_after_an_hour() -> None:
    """Only when one fewer is used below 45 %, for an hour, and above the minimum."""
    empty = loads(0.2, 0.1)
    assert decided(empty, after_s=SHARD_IN_AFTER_S - 1).count == 2
    assert decided(empty, after_s=SHARD_IN_AFTER_S).count == 1
    assert decided(empty, after_s=SHARD_IN_AFTER_S, minimum=2).reason == "AtMinimum"
    assert decided(loads(0.3, 0.2), after_s=SHARD_IN_AFTER_S).count == 2


@given(
    total=st.floats(0, 8),
    skew=st.lists(st.floats(0.01, 1), min_size=8, max_size=8),
    begin=st.integers(1, 8),
)
def test_a_steady_load_never_turns_it_round(total: float, skew: list[float], begin: int) -> None:
    """However a load that stays as it is lies on the shards: only ever more, or only ever fewer."""
    count, directions, history, now = begin, set[int](), ShardHistory(), 0.0
    for _ in range(400):
        weights = skew[:count]
        shards = loads(*(total * weight / sum(weights) for weight in weights))
        decision = decide_shards(ShardTargets(1, 8), shards, now, history)
        history = decision.history
        now += 60.0
        if decision.count != count:
            directions.add(decision.count - count)
            count, history = decision.count, ShardHistory()
    assert directions <= {1} or directions <= {-1}
