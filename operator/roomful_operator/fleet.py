"""
What edges say of their load, asked directly: no Prometheus is needed to scale.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import httpx

from roomful.cluster.autoscale import EdgeLoad
from roomful_operator.manifests.parts import EDGE_PORT, Manifest

__all__ = ["Fleet", "parse_metrics"]

logger = logging.getLogger("roomful.operator")

TIMEOUT_S: Final = 3.0
AT_ONCE: Final = 16
CONNECTIONS: Final = "roomful_connections"
DELIVERIES: Final = "roomful_deliveries_total"
DRAINING: Final = "roomful_draining"
CPU: Final = "process_cpu_seconds_total"
_LINE: Final = re.compile(r"^([a-z_]+)(?:\{\})? ([0-9.eE+-]+)$", re.MULTILINE)


def parse_metrics(text: str) -> dict[str, float]:
    """Read the metrics without labels from Prometheus' text format."""
    return {match[1]: float(match[2]) for match in _LINE.finditer(text)}


@dataclass(frozen=True, slots=True)
class _Sample:
    """What an edge said, and when."""

    at: float
    values: Mapping[str, float]

    def load(self, name: str, before: _Sample | None) -> EdgeLoad:
        """Give the load since the sample *before*."""
        return EdgeLoad(
            name,
            int(self.values.get(CONNECTIONS, 0)),
            self._rate(DELIVERIES, before),
            self._rate(CPU, before),
            is_draining=self.values.get(DRAINING, 0) > 0,
        )

    def _rate(self, name: str, before: _Sample | None) -> float:
        if before is None or self.at <= before.at:
            return 0.0
        # A counter that fell was started anew.
        grown = max(0.0, self.values.get(name, 0.0) - before.values.get(name, 0.0))
        return grown / (self.at - before.at)


class Fleet:
    """The edges of one cluster."""

    # Mutable state: what each edge, by pod, said last.
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._samples: dict[str, _Sample] = {}
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(self, pods: Iterable[Manifest]) -> list[EdgeLoad]:
        """Give the load of every edge that runs; of one that does not answer what it said last."""
        running = {pod["metadata"]["name"]: pod for pod in pods if _has_begun(pod)}
        for gone in self._samples.keys() - running.keys():
            del self._samples[gone]
        slots = asyncio.Semaphore(AT_ONCE)
        found: dict[str, EdgeLoad] = {}

        async def one(name: str, pod: Manifest) -> None:
            async with slots:
                load = await self._ask(name, pod)
                found[name] = replace(load, node=pod.get("spec", {}).get("nodeName", ""))

        async with asyncio.TaskGroup() as group:
            for name, pod in running.items():
                group.create_task(one(name, pod))
        return [found[name] for name in sorted(found)]

    async def _ask(self, name: str, pod: Manifest) -> EdgeLoad:
        before = self._samples.get(name)
        is_going = "deletionTimestamp" in pod["metadata"]
        try:
            response = await self._client.get(f"{_base(pod)}/metrics")
            response.raise_for_status()
        except httpx.HTTPError as exc:
            logger.info("edge not asked", extra={"edge": name, "why": str(exc) or repr(exc)})
            last = before.load(name, None) if before else EdgeLoad(name)
            return replace(last, is_readable=is_going, is_draining=is_going)
        sample = self._samples[name] = _Sample(self._now(), parse_metrics(response.text))
        load = sample.load(name, before)
        return replace(load, is_draining=True) if is_going else load

    async def shed(
        self, pods: Sequence[Manifest], excess: Mapping[str, int], token: str
    ) -> dict[str, int]:
        """Ask edges to let some clients go elsewhere; gives how many each has sent away."""
        done = {}
        for pod in pods:
            name = pod["metadata"]["name"]
            if not excess.get(name):
                continue
            try:
                response = await self._client.post(
                    f"{_base(pod)}/api/edge/shed",
                    json={"count": excess[name]},
                    headers={"authorization": f"Bearer {token}"},
                )
                response.raise_for_status()
                done[name] = int(response.json()["closed"])
            except (httpx.HTTPError, KeyError, ValueError) as exc:
                logger.info("edge sheds nothing", extra={"edge": name, "why": str(exc)})
        return done


def _base(pod: Manifest) -> str:
    address: str = pod["status"]["podIP"]
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{EDGE_PORT}"


def _has_begun(pod: Manifest) -> bool:
    """Whether the pod's edge has been ready: one that starts is no capacity, and says nothing."""
    status = pod.get("status", {})
    if not status.get("podIP") or status.get("phase") != "Running":
        return False
    is_going = "deletionTimestamp" in pod["metadata"]
    ready = any(
        one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())
    )
    return ready or is_going
