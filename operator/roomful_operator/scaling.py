"""
How many edges one cluster gets, and which connections move to new ones.

The decisions are those of roomful.cluster.autoscale; here is what they need to know, and what is
done besides writing a number: edges are marked, so that those go that have the fewest clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from roomful.cluster.autoscale import (
    Decision,
    EdgeLoad,
    EdgeTargets,
    History,
    decide_edges,
    excess_connections,
    first_to_go,
)
from roomful.edge.auth import Authenticator, AuthSettings
from roomful_operator.fleet import Fleet
from roomful_operator.manifests.parts import Manifest
from roomful_operator.spec import Autoscaling, Cluster
from roomful_operator.status import Condition

__all__ = ["DELETION_COST", "EdgeScaling"]

DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
UNEVEN_S: Final = 60.0
"""Edges must have been uneven for so long: who was just added is filled by new clients first."""
SHED_EVERY_S: Final = 10.0
TOKEN_S: Final = 60.0


class EdgeScaling:
    """The autoscaler of one cluster's edges."""

    # Mutable state: the edges' last words, what was decided before, since when they are uneven.
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.fleet = Fleet(now)
        self.loads: list[EdgeLoad] = []
        self._history: History | None = None
        self._uneven_since: float | None = None
        self._shed_at = 0.0

    async def aclose(self) -> None:
        """Let go of the edges."""
        await self.fleet.aclose()

    @property
    def connections(self) -> int:
        """Signed-in connections of all edges, as far as they answer."""
        return sum(one.connections for one in self.loads)

    async def look(self, pods: Sequence[Manifest]) -> None:
        """Ask all edges for their load."""
        self.loads = await self.fleet.ask(pods)

    def decide(
        self, cluster: Cluster, current: int, *, is_calm: bool
    ) -> tuple[int, Condition, tuple[str, ...]]:
        """
        Give how many edges there shall be, why, and the pods that go first.

        Args:
            current: how many there are meant to be.
            is_calm: nothing is rolled, moved or broken.
        """
        scaling = cluster.edges.autoscaling
        if scaling is None:
            self._history = None
            count = cluster.edges.replicas
            going = first_to_go(self.loads, current - count)
            return count, Condition("AutoscalerActive", False, "Disabled"), going
        within = min(max(current, scaling.min_replicas), scaling.max_replicas)
        if within != current:
            message = f"between {scaling.min_replicas} and {scaling.max_replicas}"
            going = first_to_go(self.loads, current - within)
            return within, Condition("AutoscalerActive", True, "Bounds", message), going
        now = self._now()
        history = self._history or History.beginning(now, current)
        decision = decide_edges(
            _targets(scaling), self.loads, current, now, history, is_calm=is_calm
        )
        self._history = decision.history
        going = first_to_go(self.loads, current - decision.count)
        return decision.count, _condition(decision), going

    async def even_out(self, pods: Sequence[Manifest], secret: str) -> int:
        """
        Have overfull edges shed a few connections when that has been so for a while.

        Args:
            secret: what tokens are signed with.
        """
        now = self._now()
        excess = excess_connections(self.loads)
        if not excess:
            self._uneven_since = None
            return 0
        self._uneven_since = self._uneven_since or now
        if now - self._uneven_since < UNEVEN_S or now - self._shed_at < SHED_EVERY_S:
            return 0
        self._shed_at = now
        token = Authenticator(AuthSettings(secret=secret)).mint(
            user="roomful-operator", rooms=None, lifetime_s=TOKEN_S, is_service=True
        )
        return sum((await self.fleet.shed(pods, excess, token)).values())


def _targets(scaling: Autoscaling) -> EdgeTargets:
    return EdgeTargets(
        minimum=scaling.min_replicas,
        maximum=scaling.max_replicas,
        connections=scaling.connections_per_edge,
        deliveries_per_s=scaling.deliveries_per_second_per_edge,
        buffer=scaling.buffer_percent / 100,
        window_s=scaling.scale_down_window_seconds,
    )


def _condition(decision: Decision) -> Condition:
    return Condition("AutoscalerActive", decision.is_active, decision.reason, decision.message)
