"""Names that no other test uses, so that the tests of a module can share one server."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

_numbers = itertools.count(1)


@pytest.fixture
def room() -> str:
    """A room that is this test's own."""
    return f"room-{next(_numbers)}"


@pytest.fixture
def user() -> Callable[[str], str]:
    """Make a user's id that is this test's own."""
    number = next(_numbers)
    return lambda name: f"{name}-{number}"
