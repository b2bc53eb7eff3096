"""
Who of several operators is at work: the holder of a Lease, renewed while it is.

It only keeps operators from doing the same work twice. Two that hold it for a moment (a paused
process, a slow API server) do no harm: writes to the API server say the whole of what shall be,
and shards' servers take orders of one controller only.

Source: docs/adr/0008-sealed-servers-and-the-lead.md
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from roomful_operator.api import LEASES, ApiFailed, Conflict, KubernetesApi, NotFound

__all__ = ["Election", "LeaseClock"]

logger = logging.getLogger("roomful.operator")

LEASE_S: Final = 15.0
"""So long others wait after they saw the last renewal."""
DEADLINE_S: Final = 10.0
"""So long after its last renewal the holder goes on; less than LEASE_S, whatever the clocks."""
RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """What is compared: a clock that never jumps, in seconds."""

    now: Callable[[], float] = time.monotonic


class Election:
    """
    One candidate for one Lease.

    The time of others is never compared with ours: a lease has ended when it did not change for
    LEASE_S as seen from here.
    """

    # Mutable state: until when it is held, the last record seen and since when, when last tried.
    def __init__(
        self,
        api: KubernetesApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: LeaseClock | None = None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._now = (clock or LeaseClock()).now
        self._held_until = 0.0
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self.tried_at = self._now()
        self.transitions = 0

    @property
    def is_held(self) -> bool:
        """Whether this one is at work, at this very moment."""
        return self._now() < self._held_until

    async def run(self, on_change: Callable[[], None]) -> None:
        """Try to get and keep the Lease until cancelled; then give it back."""
        was_held = False
        try:
            while True:
                await self.attempt()
                if self.is_held != was_held:
                    was_held = self.is_held
                    logger.info("lease " + ("held" if was_held else "lost"))  # noqa: G003
                    on_change()
                await asyncio.sleep(RETRY_S)
        finally:
            await asyncio.shield(self.release())

    async def attempt(self) -> None:
        """Take the Lease if it is free, or renew it; a failure of the API server is waited out."""
        started = self._now()
        self.tried_at = started
        try:
            if await self._take():
                self._held_until = started + DEADLINE_S
            else:
                self._held_until = 0.0
        except Conflict:
            self._held_until = 0.0
        except ApiFailed as exc:
            logger.warning("lease not renewed", extra={"why": str(exc)})

    async def release(self) -> None:
        """Give the Lease back, so that the next one need not wait for its end."""
        if not self.is_held:
            return
        self._held_until = 0.0
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._api.replace(LEASES, lease)
        except ApiFailed as exc:
            logger.info("lease not given back", extra={"why": str(exc)})

    async def _take(self) -> bool:
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
        except NotFound:
            await self._api.create(LEASES, self._namespace, self._document({}, is_new=True))
            return True
        spec: dict[str, Any] = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        record = (holder, spec.get("renewTime") or "")
        if record != self._seen:
            self._seen, self._seen_at = record, self._now()
        is_ours = holder == self._identity
        if not is_ours and holder and self._now() < self._seen_at + LEASE_S:
            return False
        # Conflict, should someone else be faster: the document has the version that was read.
        document = self._document(spec, is_new=not is_ours)
        await self._api.replace(LEASES, {**document, "metadata": lease["metadata"]})
        return True

    def _document(self, spec: dict[str, Any], *, is_new: bool) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.transitions = int(spec.get("leaseTransitions") or 0) + is_new
        return {
            "apiVersion": LEASES.api,
            "kind": LEASES.name,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                **spec,
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(LEASE_S),
                "renewTime": now,
                "leaseTransitions": self.transitions,
                **({"acquireTime": now} if is_new else {}),
            },
        }
