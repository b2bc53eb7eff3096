"""What is written, and that nothing is when all is as it should be."""

from __future__ import annotations

import copy
from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.objects import applied, cluster, found, plan, settled
from roomful.cluster.cursor import ShardName
from roomful_operator.reconcile import (
    Apply,
    Delete,
    Key,
    Observed,
    Plan,
    build_desired,
    covers,
    key_of,
    reconcile,
)

ARCHIVE = {"dsn": {"name": "postgres", "key": "uri"}}


@given(
    spec=st.fixed_dictionaries(
        {
            "edges": st.fixed_dictionaries({"replicas": st.integers(1, 5)}),
            "shards": st.fixed_dictionaries(
                {"count": st.integers(1, 4), "replicas": st.integers(0, 3), "acks": st.just(0)}
            ),
            "archive": st.sampled_from([None, ARCHIVE]),
            "origins": st.lists(st.sampled_from(["https://a", "https://b"]), max_size=2),
            "networkPolicies": st.fixed_dictionaries({"enabled": st.booleans()}),
        }
    )
)
def test_at_rest_nothing_is_written(spec: dict[str, Any]) -> None:
    """Whatever the specification: once all was applied, the next pass gives no action."""
    one = cluster(spec)
    observed = settled(one)
    assert reconcile(build_desired(one, plan(one), observed), observed) == []


def test_servers_come_after_their_addresses() -> None:
    """Of a new cluster the Services come first: servers have to know their addresses."""
    one = cluster()
    first = build_desired(one, plan(one, has_topology=False), Observed())
    kinds = {manifest["kind"] for manifest in first.manifests}
    assert "Service" in kinds
    assert not kinds & {"StatefulSet", "ConfigMap", "Deployment"}


def test_edges_come_with_the_topology() -> None:
    """Before shards have roles edges could do nothing; once there they are never taken away."""
    one = cluster()
    observed = settled(one)
    early = build_desired(one, plan(one, has_topology=False), observed)
    assert "Deployment" not in {manifest["kind"] for manifest in early.manifests}
    assert reconcile(early, observed) == []


def test_a_lost_address_takes_nothing_down() -> None:
    """While a Service has no address yet, what depends on it stays as it is."""
    one = cluster()
    objects = dict(settled(one).objects)
    del objects[Key("Service", "chat-s1-0")]
    observed = Observed(objects)
    actions = reconcile(build_desired(one, plan(one), observed), observed)
    assert [type(action).__name__ for action in actions] == ["Apply"]


def test_drift_is_repaired() -> None:
    """A field that someone changed is written again, and only that object."""
    one = cluster()
    observed = settled(one)
    found(observed, "StatefulSet", "chat-s1")["spec"]["replicas"] = 1
    (action,) = reconcile(build_desired(one, plan(one), observed), observed)
    assert isinstance(action, Apply)
    assert action.manifest["metadata"]["name"] == "chat-s1"


def test_what_is_lost_is_made_again() -> None:
    """An object that someone deleted comes back."""
    one = cluster()
    objects = dict(settled(one).objects)
    del objects[Key("PodDisruptionBudget", "chat-edge")]
    observed = Observed(objects)
    (action,) = reconcile(build_desired(one, plan(one), observed), observed)
    assert isinstance(action, Apply)
    assert action.manifest["kind"] == "PodDisruptionBudget"


def test_a_field_that_is_no_longer_wanted_goes() -> None:
    """The manifest's hash differs, so it is applied, and server-side apply takes the field away."""
    observed = settled(cluster({"origins": ["https://a"]}))
    one = cluster()
    (action,) = reconcile(build_desired(one, plan(one), observed), observed)
    assert isinstance(action, Apply)
    assert action.manifest["kind"] == "Deployment"


def test_what_is_no_longer_wanted_goes() -> None:
    """The archiver goes when there is no archive any more; by its uid, so only that very one."""
    observed = settled(cluster({"archive": ARCHIVE}))
    one = cluster()
    actions = reconcile(build_desired(one, plan(one), observed), observed)
    deleted = {action.key for action in actions if isinstance(action, Delete)}
    assert deleted == {Key("Deployment", "chat-archiver"), Key("ServiceAccount", "chat-archiver")}


def test_a_shard_with_data_stays() -> None:
    """A smaller number in the specification deletes no shard that owns buckets."""
    observed = settled(cluster({"shards": {"count": 3}}))
    one = cluster({"shards": {"count": 2}})
    with_data = plan(one, shards=(*one.shards.names, ShardName("s3")))
    assert reconcile(build_desired(one, with_data, observed), observed) == []


def test_another_shard_replaces_no_other_pod() -> None:
    """Edges, archiver and the other shards go on as they are while one comes, and when it left."""
    one = cluster({"archive": ARCHIVE})
    observed = settled(one)
    more = plan(one, shards=(*one.shards.names, ShardName("s3")))

    def settle(of: Plan, before: Observed) -> tuple[Observed, set[Key]]:
        written: set[Key] = set()
        while actions := reconcile(build_desired(one, of, before), before):
            manifests = [action.manifest for action in actions if isinstance(action, Apply)]
            written |= {key_of(manifest) for manifest in manifests}
            gone = {action.key for action in actions if isinstance(action, Delete)}
            kept = {key: live for key, live in before.objects.items() if key not in gone}
            before = applied(manifests, Observed(kept))
        return before, written

    three, written = settle(more, observed)
    servers = Key("ConfigMap", "chat-shards")
    assert {key for key in written if not key.name.startswith("chat-s3")} == {servers}
    assert "10.96" in found(three, *astuple(servers))["data"]["servers"]
    two, written = settle(plan(one), three)
    assert written == {servers}
    assert two.objects.keys() == observed.objects.keys()


def test_what_is_going_already_is_left_alone() -> None:
    """An object that is being deleted is not deleted again."""
    observed = settled(cluster({"archive": ARCHIVE}))
    for live in observed.objects.values():
        live["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    one = cluster()
    actions = reconcile(build_desired(one, plan(one), observed), observed)
    assert not [action for action in actions if isinstance(action, Delete)]


@pytest.mark.parametrize(
    ("live", "wanted", "is_covered"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": []}, True),
        ({"a": None}, {"a": {}}, True),
        ({}, {"a": False}, False),
        ([{"name": "b"}, {"name": "a", "x": 1}], [{"name": "a"}], True),
        ([{"name": "b"}], [{"name": "a"}], False),
        ({"cpu": "1"}, {"cpu": "1000m"}, True),
        ({"cpu": "1"}, {"cpu": "1001m"}, False),
        ({"memory": "1Gi"}, {"memory": "1073741824"}, True),
    ],
)
def test_what_counts_as_the_same(live: Any, wanted: Any, is_covered: bool) -> None:
    """What the API server added or wrote in another way is no drift."""
    assert covers(live, wanted) is is_covered


def test_comparing_changes_nothing() -> None:
    """Reconciling is pure: neither side is changed."""
    one = cluster()
    desired = build_desired(one, plan(one), settled(one))
    observed = applied(desired.manifests)
    before = copy.deepcopy((desired, observed))
    reconcile(desired, observed)
    assert (desired, observed) == before
