"""
Carries out what people ordered by annotation of a RoomfulCluster (orders.py reads it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roomful.control.asking import leave_request
from roomful.control.controller import Controller
from roomful.protocol.errors import RoomfulError
from roomful_operator.api import CLUSTERS, KubernetesApi, Write
from roomful_operator.manifests.parts import Manifest
from roomful_operator.manifests.shards import member_names
from roomful_operator.orders import (
    CHANGE_PASSWORDS,
    FAILOVER,
    MOVE_BUCKET,
    read_failover,
    read_move,
)
from roomful_operator.reconcile import Observed
from roomful_operator.signing_in import SigningIn
from roomful_operator.spec import Cluster
from roomful_operator.status import Condition
from roomful_operator.telling import Telling

__all__ = ["Ordered"]


class Ordered:
    """What is ordered of one cluster; every write goes by *write*."""

    def __init__(
        self, api: KubernetesApi, write: Write, signing_in: SigningIn, telling: Telling
    ) -> None:
        self._api = api
        self._write = write
        self._signing_in = signing_in
        self._telling = telling

    async def obey(
        self,
        cluster: Cluster,
        document: Mapping[str, Any],
        observed: Observed,
        controller: Controller,
    ) -> None:
        """
        Carry out the orders of a RoomfulCluster, take them away, and tell how each went.

        Raises:
            ApiFailed: an order could not be taken away.
        """
        carried = document["metadata"].get("annotations") or {}
        if FAILOVER in carried:
            pods = [pod for name in controller.status.shards for pod in member_names(cluster, name)]
            try:
                order = read_failover(document, controller.status.shards, observed.addresses(pods))
                if order is not None:
                    await controller.hand_over(order.shard, order.target)
                said = Condition("Ordered", True, "FailoverOrdered", str(order))
            except RoomfulError as exc:
                said = Condition("Ordered", False, "FailoverRefused", str(exc))
            await self._obeyed(cluster, FAILOVER, said)
        if MOVE_BUCKET in carried:
            topology = controller.topology
            try:
                move = read_move(document, controller.status.shards, topology)
                if move is not None and topology is not None:
                    await leave_request(topology, move, self._signing_in.credentials)
                said = Condition("Ordered", True, "MoveOrdered", str(move))
            except RoomfulError as exc:
                said = Condition("Ordered", False, "MoveRefused", str(exc))
            await self._obeyed(cluster, MOVE_BUCKET, said)
        if CHANGE_PASSWORDS in carried:
            try:
                await self._signing_in.begin_change(cluster)
                self._signing_in.tell(controller)
                said = Condition("Ordered", True, "PasswordsChanging", "old ones are taken too")
            except RoomfulError as exc:
                said = Condition("Ordered", False, "PasswordsRefused", str(exc))
            await self._obeyed(cluster, CHANGE_PASSWORDS, said)

    async def end_change(
        self, cluster: Cluster, controller: Controller, pods: Sequence[Manifest]
    ) -> None:
        """End a change of passwords when no pod needs the old ones any more."""
        if not await self._signing_in.end_change(cluster, controller, pods):
            return
        self._signing_in.tell(controller)
        said = Condition("Ordered", True, "PasswordsChanged", "only the new ones are taken")
        await self._telling.post_event(cluster, said)

    async def _obeyed(self, cluster: Cluster, order: str, said: Condition) -> None:
        body = {"metadata": {"annotations": {order: None}}}
        identity = cluster.identity
        await self._write(self._api.merge(CLUSTERS, identity.namespace, identity.name, body))
        await self._telling.post_event(cluster, said)
