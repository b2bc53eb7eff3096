"""
What the operator counts about itself and its clusters; a cluster's series go with the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from roomful.control.waits import Change, Listener

__all__ = ["Statistics"]

STATES: Final = ("Ready", "Progressing", "Degraded", "Paused")
BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LATE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CLOSED: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""A freeze lapses after 2 s; only the rest of a move may take longer."""
CHANGED: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 300.0)


class Statistics:
    """The operator's metrics, in a registry of their own."""

    # Mutable state: the metrics, and the label of each cluster that has series.
    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._names: dict[str, str] = {}
        self._leading = Gauge(
            "roomful_operator_leading", "1 while this operator is at work.", registry=self.registry
        )
        self._duration = Histogram(
            "roomful_operator_reconcile_seconds",
            "Time of one pass for one cluster.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._late = Histogram(
            "roomful_operator_loop_lag_seconds",
            "How late the event loop woke, looked at four times a second.",
            buckets=LATE,
            registry=self.registry,
        )
        self._errors = Counter(
            "roomful_operator_reconcile_errors",
            "Passes and listings that failed.",
            ["where"],
            registry=self.registry,
        )
        self._success = Gauge(
            "roomful_operator_last_success_timestamp_seconds",
            "When the last round without a failure ended.",
            registry=self.registry,
        )
        self._watched = Gauge(
            "roomful_operator_last_event_timestamp_seconds",
            "When the watch last gave an event; the loop does not depend on it.",
            registry=self.registry,
        )
        self._state = self._gauge("state", "1 for the state that the cluster is in.", "state")
        self._edges = self._gauge("edges", "Edges of the cluster.", "which")
        self._shards = self._gauge("shards", "Shards of the cluster.", "which")
        self._connections = self._gauge("connections", "Signed-in connections of all edges.")
        self._terms = self._gauge("shard_term", "Up by one with each primary of a shard.", "shard")
        self._buckets = self._gauge("shard_buckets", "Buckets of rooms of a shard.", "shard")
        self._changes = Histogram(
            "roomful_cluster_primary_change_seconds",
            "From a primary's loss, or the order to hand over, until edges hear of the next.",
            ["cluster", "kind"],
            buckets=CHANGED,
            registry=self.registry,
        )
        self._closed = Histogram(
            "roomful_cluster_bucket_closed_seconds",
            "How long a bucket of rooms was closed when it moved.",
            ["cluster"],
            buckets=CLOSED,
            registry=self.registry,
        )
        for where in ("list", "pass"):
            self._errors.labels(where)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"roomful_cluster_{name}", text, ["cluster", *labels], registry=self.registry)

    def render(self) -> bytes:
        """Give all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def leading(self, is_leading: bool) -> None:
        """Say whether this operator is at work."""
        self._leading.set(is_leading)

    def error(self, where: str) -> None:
        """Count a failure: `list` or `pass`."""
        self._errors.labels(where).inc()

    def round_done(self) -> None:
        """Say that all clusters were looked after without a failure."""
        self._success.set_to_current_time()

    def woken(self) -> None:
        """Say that the watch gave an event."""
        self._watched.set_to_current_time()

    def late(self, late_s: float) -> None:
        """Take over by how much the event loop woke too late."""
        self._late.observe(late_s)

    def listener(self, uid: str, name: str) -> Listener:
        """Give a cluster its series of waits, all 0, and who takes over what comes."""
        self._names[uid] = name
        changes = {change: self._changes.labels(name, change.value) for change in Change}
        return Listener(
            lambda change, took_s: changes[change].observe(took_s),
            self._closed.labels(name).observe,
        )

    def passed(self, uid: str, name: str, took_s: float, status: Mapping[str, Any]) -> None:
        """Take over what a pass found."""
        self._names[uid] = name
        self._duration.observe(took_s)
        for state in STATES:
            self._state.labels(name, state).set(status["state"] == state)
        edges = status["edges"]
        self._edges.labels(name, "desired").set(edges["desired"])
        self._edges.labels(name, "ready").set(edges["ready"])
        self._shards.labels(name, "desired").set(status["shardCount"])
        self._shards.labels(name, "ready").set(status["readyShards"])
        self._connections.labels(name).set(edges["connections"])
        for gauge, field in ((self._terms, "term"), (self._buckets, "buckets")):
            # A shard that has left leaves no series.
            gauge.remove_by_labels({"cluster": name})
            for shard in status.get("shards", ()):
                gauge.labels(name, shard["name"]).set(shard[field])

    def forget(self, uid: str) -> None:
        """Drop the series of a cluster that is gone."""
        name = self._names.pop(uid, None)
        if name is None:
            return
        of_clusters = (self._state, self._edges, self._shards, self._connections)
        for metric in (*of_clusters, self._terms, self._buckets, self._changes, self._closed):
            metric.remove_by_labels({"cluster": name})
