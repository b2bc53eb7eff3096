"""The models of the suite, searched for long: `pytest -m long tests/fuzz`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from edge.resuming import PAGES, SCHEDULE, Schedule, check
from shard.models import LogModel, ShardModel

pytestmark = pytest.mark.long
LONG = settings(max_examples=5_000, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("model", [LogModel, ShardModel])
def test_models(model: type[RuleBasedStateMachine]) -> None:
    """The shard does what its model says."""
    run_state_machine_as_test(model, settings=settings(LONG, stateful_step_count=80))


@pytest.mark.parametrize("shards", ["a", "ab"])
@LONG
@given(schedule=SCHEDULE, page_messages=PAGES)
def test_resuming(shards: str, schedule: Schedule, page_messages: int) -> None:
    """Nothing is lost, and nothing comes twice."""
    check(schedule, shards=shards, page_messages=page_messages)


@LONG
@given(schedule=SCHEDULE, kept=st.integers(1, 6))
def test_holes(schedule: Schedule, kept: int) -> None:
    """A hole is told and never passed over."""
    check(schedule, shards="a", page_messages=2, kept=kept)
