"""
The wiring: kopf watches RoomfulCluster objects and wakes our own loop; it does nothing else.

kopf's handlers, timers and daemons are not used: they would add finalizers, keep progress in
annotations, and stop when a watch dies without a word. docs/adr/ has the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import kopf

from roomful_operator.api import CLUSTERS, KubernetesApi, read_configuration
from roomful_operator.lease import Election
from roomful_operator.metrics import Statistics
from roomful_operator.settings import OperatorSettings
from roomful_operator.web import serve
from roomful_operator.work import Work, WorkSettings

__all__ = ["run"]

logger = logging.getLogger("roomful.operator")


async def run(settings: OperatorSettings) -> None:
    """Run one operator until it is told to stop."""
    api = KubernetesApi(await read_configuration())
    statistics = Statistics()
    election = Election(
        api, namespace=settings.namespace, name=settings.lease, identity=settings.identity
    )
    work = Work(
        api,
        election,
        statistics,
        WorkSettings(namespaces=settings.namespaces, interval_s=settings.interval_s),
    )
    web = await serve(work.illness, statistics, port=settings.port)
    try:
        await kopf.operator(
            registry=_handlers(work, statistics),
            settings=_watching(),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
        )
    finally:
        await web.cleanup()
        await api.aclose()


def _handlers(work: Work, statistics: Statistics) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    tasks: list[asyncio.Task[None]] = []

    @kopf.on.login(registry=registry)
    def sign_in(**known: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_via_client(**known)

    @kopf.on.startup(registry=registry)
    async def begin(**_: Any) -> None:
        tasks.append(asyncio.create_task(work.run(), name="work"))

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    group, _, version = CLUSTERS.api.partition("/")

    @kopf.on.event(group, version, CLUSTERS.plural, registry=registry)
    async def wake(**_: Any) -> None:
        statistics.woken()
        work.wake()

    return registry


def _watching() -> kopf.OperatorSettings:
    """Give settings under which a dead connection is noticed, and nothing is written by kopf."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = 120
    settings.watching.client_timeout = 150
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 10
    settings.networking.connect_timeout = 5
    settings.posting.enabled = False
    # What there is to watch is known; looking for it would need rights over all CRDs.
    settings.scanning.disabled = True
    return settings
