"""The fuzzing targets: a fixed few hundred inputs each, and with -m long as many as come."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from protocol.strategies import ANY_TEXT, JSON_VALUES, NOT_QUITE, json_objects

Target = Callable[[bytes], None]
_TEXTS = (JSON_VALUES | json_objects()).map(lambda value: json.dumps(value).encode())
INPUTS = st.binary(max_size=200) | ANY_TEXT | NOT_QUITE | _TEXTS
INPUTS |= st.tuples(st.binary(max_size=2), NOT_QUITE | _TEXTS).map(b"".join)
INPUTS |= st.lists(NOT_QUITE | st.binary(max_size=9), max_size=6).map(b"\xff".join)


@pytest.mark.parametrize("target", list(TARGETS.values()), ids=list(TARGETS))
@settings(max_examples=200, derandomize=True, database=None)
@given(data=INPUTS)
def test_target(target: Target, data: bytes) -> None:
    """No input breaks what the target promises."""
    target(data)


@pytest.mark.long
@pytest.mark.parametrize("target", list(TARGETS.values()), ids=list(TARGETS))
@settings(max_examples=50_000, suppress_health_check=list(HealthCheck))
@given(data=INPUTS)
def test_target_for_long(target: Target, data: bytes) -> None:
    """No input breaks what the target promises."""
    target(data)
