"""Tasks that last: a failure that nobody foresaw is told, and they go on."""

from __future__ import annotations

import asyncio

import pytest

from roomful.telemetry import lasting
from roomful.telemetry.lasting import failures, keep_going, task_failures
from support.deadline import until, within


async def test_a_task_that_fails_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is counted by its name and logged with its traceback."""
    outcomes = [ZeroDivisionError("one"), ZeroDivisionError("two"), None]
    before = failures["test"]

    async def work() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    await within(keep_going("test", work))
    assert failures["test"] == before + 2
    counts = task_failures().value
    assert isinstance(counts, dict)
    assert counts["test"] == before + 2
    told = [one.exc_info for one in caplog.records if one.name == "roomful.telemetry"]
    assert [info[0] for info in told if info] == [ZeroDivisionError] * 2


async def test_a_failure_that_ends_a_task_ends_it() -> None:
    """What another try does not help is the caller's."""

    async def work() -> None:
        raise LookupError("no way in")

    with pytest.raises(LookupError):
        await within(keep_going("ends", work, ends_with=(LookupError,)))
    assert "ends" not in failures


async def test_a_task_that_is_cancelled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the pause after a failure."""
    monkeypatch.setattr(lasting, "FIRST_S", 3600.0)

    async def work() -> None:
        raise ValueError("again")

    before = failures["cancelled"]
    task = asyncio.create_task(keep_going("cancelled", work))
    await until(lambda: failures["cancelled"] > before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
