"""
Keeps one RoomfulCluster: a pass looks at everything there is, and does what is to be done next.

Nothing is remembered between passes but what makes them cheaper. The shards' roles and the
topology are the controller's (roomful.control); it runs beside the passes, so that a failover
waits neither for the API server nor for the next pass.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roomful.cluster.topology import Address
from roomful.control.controller import Controller
from roomful.control.spec import ClusterSpec, ClusterStatus
from roomful.control.waits import Listener
from roomful.protocol.errors import RoomfulError
from roomful_operator.api import (
    OWNED,
    PODS,
    SECRETS,
    ApiFailed,
    KubernetesApi,
)
from roomful_operator.manifests.edges import auth_secret, edges_name
from roomful_operator.manifests.parts import (
    COMPONENT_LABEL,
    EDGE,
    SHARD_PORT,
    Manifest,
    cluster_labels,
)
from roomful_operator.manifests.shards import member_names, set_name
from roomful_operator.ordered import Ordered
from roomful_operator.reconcile import (
    Action,
    Apply,
    Key,
    Observed,
    Plan,
    build_desired,
    key_of,
    reconcile,
)
from roomful_operator.rolling import HandOver, Replace, next_step, outdated_pods
from roomful_operator.scaling import DELETION_COST, EdgeScaling
from roomful_operator.sharding import Sharding
from roomful_operator.signing_in import SigningIn
from roomful_operator.spec import Cluster, parse_cluster
from roomful_operator.status import Facts, build_status
from roomful_operator.telling import Telling, now

__all__ = ["Keeper", "Leadership"]

logger = logging.getLogger("roomful.operator")

Leadership = Callable[[], bool]
"""Whether this operator is the one at work; asked before every write."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass came to."""

    status: Mapping[str, Any]
    writes: int
    """How many writes it took, status and events among them; none when all is as it should be."""

    @property
    def is_settled(self) -> bool:
        """Whether the next pass can wait."""
        return self.writes == 0 and self.status.get("state") in ("Ready", "Paused")


class NotLeading(ApiFailed):
    """The Lease was lost in the middle of a pass."""


class Keeper:
    """One cluster's keeper; `look_after` is one pass."""

    # Mutable state: the controller and its task, the passwords, the writes of this pass.
    def __init__(
        self,
        api: KubernetesApi,
        leads: Leadership,
        listener: Listener | None = None,
    ) -> None:
        self._api = api
        self._leads = leads
        self._listener = listener
        self._controller: Controller | None = None
        self._task: asyncio.Task[None] | None = None
        self._signing_in = SigningIn(api, self._write)
        self._telling = Telling(api, self._write)
        self._ordered = Ordered(api, self._write, self._signing_in, self._telling)
        self._scaling = EdgeScaling()
        self._sharding = Sharding()
        self._signing: str | None = None
        self._writes = 0

    async def aclose(self) -> None:
        """Let go of the shards; the cluster goes on as it is."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._task = self._controller = None
        await self._scaling.aclose()

    async def look_after(self, document: Mapping[str, Any]) -> Outcome:
        """
        Make one pass for the RoomfulCluster *document*.

        Raises:
            ApiFailed: its status could not be written; everything else is told there.
            BadSpec: the object cannot be read.
        """
        self._writes = 0
        cluster = parse_cluster(document)
        previous = document.get("status", {})
        observed, pods = await self._observe(cluster)
        edges = [pod for pod in pods if _component(pod) == EDGE]
        await self._scaling.look(edges)
        # A condition that a former pass has written: nothing is rolled, moved or broken.
        is_calm = previous.get("state") == "Ready"
        current = _current_edges(cluster, observed)
        count, autoscaler, going = self._scaling.decide(cluster, current, is_calm=is_calm)
        await self._sharding.look(cluster, self._controller, self._signing_in.credentials)
        plan = self._plan(cluster, previous, observed, count)
        failure = ""
        try:
            await self._mark(cluster, going)
            if not cluster.is_paused:
                await self._signing_in.look(cluster)
                live = observed.objects.get(Key("Deployment", edges_name(cluster)))
                mark = self._signing_in.mark(self._controller, live)
                plan = replace(plan, passwords=mark)
                for action in reconcile(build_desired(cluster, plan, observed), observed):
                    await self._do(cluster, action)
                await self._tend_controller(cluster, plan, observed)
                await self._sharding.ask(cluster, self._controller, self._signing_in.credentials)
                if self._controller is not None:
                    await self._ordered.obey(cluster, document, observed, self._controller)
                    await self._ordered.end_change(cluster, self._controller, pods)
                await self._roll(cluster, observed, pods)
                if is_calm and cluster.edges.autoscaling is not None:
                    await self._even_out(cluster, edges)
        except ApiFailed as exc:
            failure = str(exc)
            logger.warning("pass not finished", extra={"cluster": cluster.name, "why": failure})
        control = self._controller.status if self._controller else ClusterStatus()
        facts = Facts(
            *(cluster, plan, observed, control, pods),
            connections=self._scaling.connections,
            autoscaler=autoscaler,
            shard_autoscaler=self._sharding.condition,
            resizing=self._sharding.resizing,
            failure=failure,
        )
        status = build_status(facts, previous, now())
        await self._telling.tell(cluster, previous, status)
        return Outcome(status, self._writes)

    # Looking --------------------------------------------------------------------------------

    async def _observe(self, cluster: Cluster) -> tuple[Observed, list[Manifest]]:
        namespace, labels = cluster.identity.namespace, cluster_labels(cluster.name)
        kinds = (PODS, *OWNED.values())
        pods, *lists = await asyncio.gather(
            *(self._api.list(kind, namespace, labels=labels) for kind in kinds)
        )
        owned = {
            key_of(live): live
            for one in lists
            for live in one
            if any(
                owner["uid"] == cluster.identity.uid
                for owner in live["metadata"].get("ownerReferences", ())
            )
        }
        return Observed(owned), pods

    def _plan(
        self, cluster: Cluster, previous: Mapping[str, Any], observed: Observed, edges: int
    ) -> Plan:
        topology = self._controller.topology if self._controller else None
        is_calm = previous.get("state") == "Ready"
        names = self._sharding.plan(cluster, previous, observed, self._controller, is_calm=is_calm)
        kept = {
            member["name"]: member["address"]
            for shard in previous.get("shards", ())
            for member in shard.get("members", ())
        }
        has_topology = topology is not None or previous.get("topologyGeneration", 0) > 0
        return Plan(edges, names, kept, has_topology)

    # Acting ---------------------------------------------------------------------------------

    async def _do(self, cluster: Cluster, action: Action) -> None:
        if isinstance(action, Apply):
            key = key_of(action.manifest)
            await self._write(self._api.apply(OWNED[key.kind], action.manifest))
        else:
            key = action.key
            namespace = cluster.identity.namespace
            await self._write(
                self._api.delete(OWNED[key.kind], namespace, key.name, uid=action.uid)
            )
        logger.info(
            type(action).__name__.lower(),
            extra={"cluster": cluster.name, "kind": key.kind, "object": key.name},
        )

    async def _mark(self, cluster: Cluster, going: Iterable[str]) -> None:
        """Say which edges go first when there are to be fewer: a hint that the API server takes."""
        if cluster.is_paused:
            return
        body = {"metadata": {"annotations": {DELETION_COST: "-1"}}}
        for name in going:
            await self._write(self._api.merge(PODS, cluster.identity.namespace, name, body))

    async def _roll(self, cluster: Cluster, observed: Observed, pods: Sequence[Manifest]) -> None:
        """Replace one pod of one shard whose template has changed."""
        if self._controller is None:
            return
        for name, status in self._controller.status.shards.items():
            live = observed.objects.get(Key("StatefulSet", set_name(cluster, name)))
            if live is None:
                continue
            members = observed.addresses(member_names(cluster, name))
            names = {address: member for member, address in members.items()}
            match next_step(outdated_pods(live, pods), status, names):
                case Replace(pod, uid):
                    namespace = cluster.identity.namespace
                    logger.info("pod replaced", extra={"cluster": cluster.name, "pod": pod})
                    await self._write(self._api.delete(PODS, namespace, pod, uid=uid))
                    return
                case HandOver(pod):
                    try:
                        await self._controller.hand_over(name, Address(members[pod], SHARD_PORT))
                    except RoomfulError as exc:
                        why = {"cluster": cluster.name, "shard": name, "why": str(exc)}
                        logger.warning("role not handed over", extra=why)
                    return
                case None:
                    continue

    async def _even_out(self, cluster: Cluster, edges: Sequence[Manifest]) -> None:
        if self._signing is None:
            name, key = auth_secret(cluster)
            secret = await self._api.get(SECRETS, cluster.identity.namespace, name)
            self._signing = _decoded(secret["data"][key])
        if moved := await self._scaling.even_out(edges, self._signing):
            logger.info("edges evened out", extra={"cluster": cluster.name, "moved": moved})

    async def _write(self, request: Any) -> Any:
        if not self._leads():
            request.close()
            raise NotLeading(0, "write", "another operator holds the lease")
        self._writes += 1
        return await request

    async def _tend_controller(self, cluster: Cluster, plan: Plan, observed: Observed) -> None:
        """Run the controller with what is wanted now; begin when all addresses are known."""
        topology = self._controller.topology if self._controller else None
        shards = {}
        # A shard that is new comes by a request: a controller could begin another cluster with it.
        for name in plan.shards if topology is None else topology.shards:
            members = member_names(cluster, name)
            addresses = {**plan.kept, **observed.addresses(members)}
            if len(addresses.keys() & set(members)) < len(members):
                return
            shards[name] = tuple(Address(addresses[one], SHARD_PORT) for one in members)
        wanted = ClusterSpec(
            shards, cluster.shards.acks, cluster.shards.fsync, has_begun=plan.has_topology
        )
        if self._task is not None and self._task.done():
            failed = self._task.exception()
            logger.error("controller ended", extra={"cluster": cluster.name, "why": repr(failed)})
            self._task = None
        if self._task is None:
            self._controller = self._signing_in.make_controller(wanted, self._listener)
            self._task = asyncio.create_task(self._controller.run(), name=f"control {cluster.name}")
        elif self._controller is not None and self._controller.spec != wanted:
            self._controller.spec = wanted
        if self._controller is not None:
            self._signing_in.tell(self._controller)


def _component(pod: Manifest) -> str:
    return str(pod["metadata"]["labels"].get(COMPONENT_LABEL))


def _current_edges(cluster: Cluster, observed: Observed) -> int:
    """How many edges are meant to be there now."""
    live = observed.objects.get(Key("Deployment", edges_name(cluster)))
    return cluster.edges.replicas if live is None else int(live["spec"]["replicas"])


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
