"""Tests that search for long are run when they are asked for: `pytest -m long`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "long: searches for minutes; only with -m long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long ones out unless they are asked for."""
    if "long" in config.option.markexpr:
        return
    left_out = [item for item in items if is_long(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not is_long(item)]


def is_long(item: pytest.Item) -> bool:
    """Whether *item* is one of ours that searches for long."""
    markers: Iterable[pytest.Mark] = item.iter_markers("long")
    return HERE in item.path.parents and any(True for _ in markers)
