"""
What the operator says of a cluster: its status, written when it differs, and events.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from roomful_operator.api import CLUSTERS, EVENTS, ApiFailed, KubernetesApi, Write
from roomful_operator.spec import Cluster
from roomful_operator.status import Condition, flips, is_alarming

__all__ = ["Telling", "now"]

logger = logging.getLogger("roomful.operator")

MAX_MESSAGE: Final = 1000
"""Of an event; the API server refuses more than 1024."""


def now() -> str:
    """Give the present time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Telling:
    """Tells of clusters; every write goes by *write*."""

    def __init__(self, api: KubernetesApi, write: Write) -> None:
        self._api = api
        self._write = write

    async def tell(
        self, cluster: Cluster, previous: Mapping[str, Any], status: Mapping[str, Any]
    ) -> None:
        """
        Write *status* when it is another one than *previous*, and an event for each flip.

        Raises:
            ApiFailed: the status could not be written.
        """
        if status == previous:
            return
        head = {"name": cluster.name, "namespace": cluster.identity.namespace}
        body = {"apiVersion": CLUSTERS.api, "kind": CLUSTERS.name, "metadata": head}
        await self._write(self._api.apply(CLUSTERS, {**body, "status": status}, part="status"))
        for flip in flips(previous.get("conditions", ()), status["conditions"]):
            await self.post_event(cluster, flip)

    async def post_event(self, cluster: Cluster, flip: Condition) -> None:
        """Post an event; one that cannot be posted is logged only."""
        identity, at = cluster.identity, now()
        event = {
            "metadata": {"generateName": f"{cluster.name}.", "namespace": identity.namespace},
            "involvedObject": {
                "apiVersion": CLUSTERS.api,
                "kind": CLUSTERS.name,
                "name": cluster.name,
                "namespace": identity.namespace,
                "uid": identity.uid,
            },
            "type": "Warning" if is_alarming(flip) else "Normal",
            "reason": flip.reason,
            "message": f"{flip.type} is {flip.holds}. {flip.message}"[:MAX_MESSAGE].rstrip(),
            "source": {"component": "roomful-operator"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        try:
            await self._write(self._api.create(EVENTS, identity.namespace, event))
        except ApiFailed as exc:
            logger.info("event not posted", extra={"cluster": cluster.name, "why": str(exc)})
