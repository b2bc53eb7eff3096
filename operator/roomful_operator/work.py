"""
The operator's own loop: every few seconds, and when something has changed, a pass for each cluster.

Clusters are listed anew for every pass, so a watch that has died costs seconds and never the
reconciling itself: kopf's watch only wakes the loop early. Nothing adds a finalizer; clusters can
be deleted while no operator runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from roomful.protocol.errors import RoomfulError
from roomful_operator.api import CLUSTERS, KubernetesApi
from roomful_operator.keeper import Keeper
from roomful_operator.lag import watch_lag
from roomful_operator.lease import Election
from roomful_operator.metrics import Statistics

__all__ = ["Work", "WorkSettings"]

logger = logging.getLogger("roomful.operator")

AT_ONCE: Final = 8
"""Passes that run at the same time."""


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """How often the operator looks; all in seconds."""

    namespaces: tuple[str, ...] = ()
    """Where clusters are looked after; empty: everywhere."""
    interval_s: float = 10.0
    """Between passes when nothing happens."""
    busy_s: float = 1.0
    """Between passes while something is going on, and after an event."""
    timeout_s: float = 60.0
    """For one pass of one cluster."""
    stalled_s: float = 90.0
    """So long without a finished round, and the operator says that it is not well."""


@dataclass(slots=True)
class _Round:
    """What one round over all clusters came to."""

    is_settled: bool = True
    failures: int = 0
    errors: list[str] = field(default_factory=list)


class Work:
    """All clusters of an operator."""

    # Mutable state: a keeper for each cluster, when the last round ended, what woke the loop.
    def __init__(
        self,
        api: KubernetesApi,
        election: Election,
        statistics: Statistics,
        settings: WorkSettings | None = None,
    ) -> None:
        self._api = api
        self._election = election
        self._statistics = statistics
        self._settings = settings or WorkSettings()
        self._keepers: dict[str, Keeper] = {}
        self._woken = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._round_at = time.monotonic()
        self._led_at: float | None = None

    def wake(self) -> None:
        """Make the next round come soon."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; no failure of any kind ends it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._election.run(self.wake))
            group.create_task(self._loop())
            group.create_task(watch_lag(self._statistics.late))

    def illness(self) -> str:
        """Give why this operator is not well; empty: it is."""
        now = time.monotonic()
        limit = self._settings.stalled_s
        if now - self._election.tried_at > limit:
            return f"the lease was not tried for {limit:g} s"
        if self._led_at is not None and now - max(self._round_at, self._led_at) > limit:
            return f"no round was finished for {limit:g} s"
        return ""

    async def _loop(self) -> None:
        try:
            while True:
                pause_s = await self._next()
                self._woken.clear()
                try:
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
                    # What comes in a burst is looked at once.
                    await asyncio.sleep(min(self._settings.busy_s, 0.2))
                except TimeoutError:
                    pass
        finally:
            await self._let_go(list(self._keepers))

    async def _next(self) -> float:
        """Make a round if this operator leads; gives how long the next can wait."""
        is_leading = self._election.is_held
        self._statistics.leading(is_leading)
        if not is_leading:
            self._led_at = None
            await self._let_go(list(self._keepers))
            return self._settings.busy_s
        self._led_at = self._led_at or time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                documents = await self._documents()
        except (RoomfulError, TimeoutError) as exc:
            self._statistics.error("list")
            logger.warning("clusters not listed", extra={"why": str(exc)})
            return self._settings.busy_s
        result = await self._round(documents)
        if not result.failures:
            self._round_at = time.monotonic()
            self._statistics.round_done()
        return self._settings.interval_s if result.is_settled else self._settings.busy_s

    async def _documents(self) -> list[Mapping[str, Any]]:
        namespaces = self._settings.namespaces or ("",)
        return [
            document
            for namespace in namespaces
            for document in await self._api.list(CLUSTERS, namespace)
            if "deletionTimestamp" not in document["metadata"]
        ]

    async def _round(self, documents: Sequence[Mapping[str, Any]]) -> _Round:
        result = _Round()
        uids = {document["metadata"]["uid"] for document in documents}
        await self._let_go([uid for uid in self._keepers if uid not in uids])
        async with asyncio.TaskGroup() as group:
            for document in documents:
                group.create_task(self._pass(document, result))
        return result

    async def _pass(self, document: Mapping[str, Any], result: _Round) -> None:
        metadata = document["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        keeper = self._keepers.get(metadata["uid"])
        if keeper is None:
            listener = self._statistics.listener(metadata["uid"], name)
            keeper = Keeper(self._api, lambda: self._election.is_held, listener)
            self._keepers[metadata["uid"]] = keeper
        started = time.monotonic()
        try:
            async with self._slots, asyncio.timeout(self._settings.timeout_s):
                outcome = await keeper.look_after(document)
        except (RoomfulError, TimeoutError) as exc:
            self._failed(name, str(exc) or "took too long", result)
            return
        except Exception as exc:
            logger.exception("pass failed", extra={"cluster": name})
            self._failed(name, repr(exc), result)
            return
        if not outcome.is_settled:
            result.is_settled = False
        self._statistics.passed(metadata["uid"], name, time.monotonic() - started, outcome.status)

    def _failed(self, name: str, why: str, result: _Round) -> None:
        result.failures += 1
        result.is_settled = False
        self._statistics.error("pass")
        logger.warning("pass failed", extra={"cluster": name, "why": why})

    async def _let_go(self, uids: Sequence[str]) -> None:
        for uid in uids:
            await self._keepers.pop(uid).aclose()
            self._statistics.forget(uid)
