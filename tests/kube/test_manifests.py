"""What a cluster consists of, field by field."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kube.objects import cluster, container, environment, found, plan, settled
from roomful.cluster.topology import Address
from roomful.control.sealed import BACKLOG_BYTES
from roomful_operator.manifests.edges import build_edges, build_servers
from roomful_operator.manifests.parts import Manifest
from roomful_operator.manifests.shards import build_shard_services, build_shard_set
from roomful_operator.reconcile import Apply, build_desired, reconcile
from roomful_operator.spec import Cluster

ARCHIVE = {"dsn": {"name": "postgres", "key": "uri"}}


def workloads(of: Cluster) -> list[Manifest]:
    """Give all that has pods."""
    kinds = ("Deployment", "StatefulSet")
    return [live for key, live in settled(of).objects.items() if key.kind in kinds]


def everything() -> list[Any]:
    """Give one workload of each component, to test them all alike."""
    return [
        pytest.param(one, id=one["metadata"]["name"])
        for one in workloads(cluster({"archive": ARCHIVE, "shards": {"count": 1}}))
    ]


def words(value: Any) -> Iterator[str]:
    """Give every string within *value*."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("workload", everything())
def test_pods_are_restricted(workload: Manifest) -> None:
    """Every pod passes Pod Security `restricted`, and has a root that is read-only."""
    spec = workload["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(workload)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("workload", everything())
def test_pods_ask_nothing_of_the_api_server(workload: Manifest) -> None:
    """No pod gets a token, and each has the account of its component."""
    spec = workload["spec"]["template"]["spec"]
    component = workload["metadata"]["labels"]["app.kubernetes.io/component"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == f"chat-{component}"


@pytest.mark.parametrize("workload", everything())
def test_services_do_not_come_in_as_variables(workload: Manifest) -> None:
    """A Service named `roomful` would set ROOMFUL_PORT, which is a setting."""
    assert workload["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("workload", everything())
def test_every_container_says_what_it_needs(workload: Manifest) -> None:
    """Requests and a memory limit are set, so that pods are placed by them."""
    resources = container(workload)["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]


@pytest.mark.parametrize("workload", everything())
def test_no_secret_is_in_a_manifest(workload: Manifest) -> None:
    """Secrets come by reference: not as an argument, not as a variable's value."""
    for name, value in environment(workload).items():
        if any(word in name for word in ("SECRET", "PASSWORD", "URL")):
            assert set(value) == {"secretKeyRef"}
    assert not any("masterauth" in word or "requirepass" in word for word in words(workload))


def test_a_program_gets_its_own_password_only() -> None:
    """Edges and archiver sign in as themselves; servers read hashes, and no program's password."""
    observed = settled(cluster({"archive": ARCHIVE}))
    for role in ("edge", "archiver"):
        workload = found(observed, "Deployment", f"chat-{role}")
        variables = environment(workload)
        assert variables["ROOMFUL_REDIS_USERNAME"] == role
        entry = {"secretKeyRef": {"name": "chat-redis", "key": role}}
        assert variables["ROOMFUL_REDIS_PASSWORD"] == entry
        assert sum("chat-redis" in word for word in words(workload)) == 1
    (volume,) = (
        one["secret"]
        for one in found(observed, "StatefulSet", "chat-s1")["spec"]["template"]["spec"]["volumes"]
        if "secret" in one
    )
    assert volume == {
        "secretName": "chat-redis",
        "items": [{"key": "users.conf", "path": "users.conf"}],
    }


def test_new_passwords_come_with_new_pods_and_new_servers_not() -> None:
    """Servers are told while they run; edges and archiver read theirs when they start."""
    one = cluster({"archive": ARCHIVE})
    observed = settled(one)
    wanted = build_desired(one, plan(one, passwords="other"), observed)
    applied = [one.manifest for one in reconcile(wanted, observed) if isinstance(one, Apply)]
    assert [manifest["metadata"]["name"] for manifest in applied] == ["chat-edge", "chat-archiver"]
    for manifest in applied:
        annotations = manifest["spec"]["template"]["metadata"]["annotations"]
        assert annotations["roomful.dev/passwords"] == "other"


@pytest.mark.parametrize("workload", everything())
def test_everything_belongs_to_the_cluster(workload: Manifest) -> None:
    """Deleting the cluster deletes all of it, without waiting for anyone."""
    (owner,) = workload["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("RoomfulCluster", "chat", True)
    assert owner["blockOwnerDeletion"] is False


@pytest.mark.parametrize("component", ["edges", "shards", "archive"])
def test_people_may_add_to_pods(component: str) -> None:
    """Every component takes the same additions."""
    pod = {
        "annotations": {"a": "1"},
        "labels": {"team": "chat", "app.kubernetes.io/name": "not-ours"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    }
    spec: dict[str, Any] = {"archive": ARCHIVE, "imagePullSecrets": [{"name": "registry"}]}
    spec[component] = {**spec.get(component, {}), "pod": pod}
    kind = {"edges": "edge", "shards": "shard", "archive": "archiver"}[component]
    for workload in workloads(cluster(spec)):
        if workload["metadata"]["labels"]["app.kubernetes.io/component"] != kind:
            continue
        template = workload["spec"]["template"]
        assert template["metadata"]["annotations"] == {"a": "1"}
        assert template["metadata"]["labels"]["team"] == "chat"
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "roomful"
        for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
            assert template["spec"][field] == pod[field]
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert environment(workload)["TZ"] == "UTC"
        assert {"name": "more", "emptyDir": {}} in template["spec"]["volumes"]
        assert {"name": "more", "mountPath": "/more"} in container(workload)["volumeMounts"]


# Edges --------------------------------------------------------------------------------------


def test_an_edge_has_time_to_drain() -> None:
    """The grace period holds the wait before SIGTERM, the drain, and what is in flight."""
    one = build_edges(cluster({"edges": {"drainSeconds": 40}}), replicas=2)
    spec = one["spec"]["template"]["spec"]
    wait = container(one)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= wait + 40 + 10
    assert environment(one)["ROOMFUL_DRAIN_WINDOW_S"] == "40"


def test_a_namespace_that_goes_is_looked_at_again_soon() -> None:
    """
    Kubernetes looks after half of the longest grace period, by when its pods are long gone.

    With 95 s a namespace took 63 s, though its last pod ended after 11.
    """
    spec = build_edges(cluster(), replicas=2)["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] // 2 + 1 <= 35


def test_edges_roll_one_by_one() -> None:
    """There is never an edge less while edges are replaced."""
    spec = build_edges(cluster(), replicas=3)["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["minReadySeconds"] > 0


def test_edges_know_the_servers_of_all_shards() -> None:
    """They learn the topology from any of them, whose addresses they read when they start."""
    shards = [Address("10.96.0.1", 6379), Address("10.96.0.2", 6379)]
    servers = build_servers(cluster(), shards)
    entry = environment(build_edges(cluster(), replicas=2))["ROOMFUL_SHARDS"]["configMapKeyRef"]
    assert entry["name"] == servers["metadata"]["name"]
    addresses = servers["data"][entry["key"]]
    assert addresses == "redis://10.96.0.1:6379,redis://10.96.0.2:6379"


def test_settings_of_edges_win() -> None:
    """Any setting of the server can be given."""
    one = cluster({"edges": {"settings": {"ROOMFUL_LOG_LEVEL": "debug"}}, "origins": ["https://a"]})
    variables = environment(build_edges(one, replicas=1))
    assert variables["ROOMFUL_LOG_LEVEL"] == "debug"
    assert variables["ROOMFUL_ORIGINS"] == "https://a"


def test_tokens_can_be_signed_with_a_given_secret() -> None:
    """A secret of people's own is used, and none is made then."""
    given = cluster({"auth": {"secret": {"name": "jwt", "key": "hs256"}}})
    variables = environment(build_edges(given, replicas=1))
    assert variables["ROOMFUL_AUTH_SECRET"] == {"secretKeyRef": {"name": "jwt", "key": "hs256"}}


def test_a_proxy_sees_each_edge() -> None:
    """Of the two Services of edges one is headless; both say what is spoken there."""
    observed = settled(cluster())
    assert found(observed, "Service", "chat-edges")["spec"]["clusterIP"] == "None"
    for name in ("chat-edge", "chat-edges"):
        (port,) = found(observed, "Service", name)["spec"]["ports"]
        assert port["appProtocol"] == "kubernetes.io/ws"


def test_an_edge_says_where_others_reach_it() -> None:
    """The address is the pod's own, filled in by the kubelet."""
    variables = environment(build_edges(cluster(), replicas=2))
    assert list(variables).index("POD_IP") < list(variables).index("ROOMFUL_ADVERTISE")
    assert variables["ROOMFUL_ADVERTISE"] == "$(POD_IP):8080"


def test_edges_read_the_archive() -> None:
    """Where there is one, edges and archiver have the same URL, from the same secret."""
    observed = settled(cluster({"archive": ARCHIVE}))
    for name in ("chat-edge", "chat-archiver"):
        url = environment(found(observed, "Deployment", name))["ROOMFUL_ARCHIVE_URL"]
        assert url == {"secretKeyRef": {"name": "postgres", "key": "uri"}}
    without = environment(found(settled(cluster()), "Deployment", "chat-edge"))
    assert "ROOMFUL_ARCHIVE_URL" not in without


# Shards -------------------------------------------------------------------------------------


def test_each_server_has_an_address_that_stays() -> None:
    """A Service for each server, reachable before it is ready: the controller has to."""
    observed = settled(cluster({"shards": {"count": 1, "replicas": 2}}))
    for name in ("chat-s1-0", "chat-s1-1", "chat-s1-2"):
        spec = found(observed, "Service", name)["spec"]
        assert spec["selector"]["statefulset.kubernetes.io/pod-name"] == name
        assert spec["publishNotReadyAddresses"] is True


def test_a_lost_service_gets_its_address_again() -> None:
    """The topology knows servers by address: a Service that is made anew asks for the old one."""
    one = cluster({"shards": {"count": 1, "replicas": 1}})
    name = one.shards.names[0]
    services = build_shard_services(one, name, {"chat-s1-0": "10.96.0.77"})
    addresses = {each["metadata"]["name"]: each["spec"].get("clusterIP") for each in services}
    assert addresses == {"chat-s1": "None", "chat-s1-0": "10.96.0.77", "chat-s1-1": None}


def test_servers_boot_sealed_and_say_who_they_are() -> None:
    """No server takes a role by itself; each announces the address of its own Service."""
    observed = settled(cluster({"shards": {"count": 1, "replicas": 1, "memory": "64Mi"}}))
    config = found(observed, "ConfigMap", "chat-s1")["data"]
    for name in ("chat-s1-0", "chat-s1-1"):
        lines = config[f"{name}.conf"].splitlines()
        address = found(observed, "Service", name)["spec"]["clusterIP"]
        assert "replicaof 127.0.0.1 1" in lines
        assert f"replica-announce-ip {address}" in lines
        assert f"maxmemory {64 * 2**20 + BACKLOG_BYTES}" in lines
        assert lines[0] == "include /etc/roomful-users/users.conf"


def test_a_server_finds_its_own_configuration() -> None:
    """The pod's name says which of the files is its own."""
    one = build_shard_set(cluster(), cluster().shards.names[0])
    assert container(one)["command"] == ["redis-server", "/etc/roomful/$(POD_NAME).conf"]
    pod_name = {"fieldRef": {"fieldPath": "metadata.name"}}
    assert environment(one)["POD_NAME"] == pod_name


def test_data_outlives_everything() -> None:
    """No claim is deleted by itself, and only the operator replaces pods."""
    spec = build_shard_set(cluster(), cluster().shards.names[0])["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["podManagementPolicy"] == "Parallel"


def test_a_server_has_memory_for_a_rewrite() -> None:
    """The limit is data and a half, and what the server itself needs."""
    one = cluster({"shards": {"memory": "1Gi"}})
    limit = int(
        container(build_shard_set(one, one.shards.names[0]))["resources"]["limits"]["memory"]
    )
    assert 1.5 * 2**30 < limit < 1.7 * 2**30


def test_servers_of_a_shard_are_on_different_nodes() -> None:
    """A pod rather waits than shares a node with another server of its shard."""
    one = build_shard_set(cluster(), cluster().shards.names[0])
    node, zone = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert node["topologyKey"] == "kubernetes.io/hostname"
    assert node["whenUnsatisfiable"] == "DoNotSchedule"
    assert node["labelSelector"]["matchLabels"]["roomful.dev/shard"] == "s1"
    assert (zone["topologyKey"], zone["whenUnsatisfiable"]) == (
        "topology.kubernetes.io/zone",
        "ScheduleAnyway",
    )


@pytest.mark.parametrize("workload", everything())
def test_a_busy_machine_restarts_nothing(workload: Manifest) -> None:
    """Who answers slowly is left alone: only a minute without any answer is an end."""
    probe = container(workload)["livenessProbe"]
    assert probe["timeoutSeconds"] >= 5
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60


@pytest.mark.parametrize("component", ["edge", "archiver"])
def test_a_lost_node_takes_no_component_whole(component: str) -> None:
    """
    Pods of one template spread over nodes, also where nodes have no zones.

    The scheduler weighs no wish of a pod's topologySpreadConstraints on a node that lacks a key
    which any of them names: a zone in there would undo the spread over nodes.
    """
    (one,) = (
        one
        for one in workloads(cluster({"archive": ARCHIVE}))
        if one["metadata"]["name"] == f"chat-{component}"
    )
    spec = one["spec"]["template"]["spec"]
    (node,) = spec["topologySpreadConstraints"]
    assert node["topologyKey"] == "kubernetes.io/hostname"
    assert node["whenUnsatisfiable"] == "ScheduleAnyway"
    assert node["matchLabelKeys"] == ["pod-template-hash"]
    wishes = "preferredDuringSchedulingIgnoredDuringExecution"
    (zone,) = spec["affinity"]["podAntiAffinity"][wishes]
    assert zone["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"
    labels = one["spec"]["selector"]["matchLabels"]
    for term in (node, zone["podAffinityTerm"]):
        assert term["labelSelector"]["matchLabels"] == labels


def test_a_template_changes_only_on_purpose() -> None:
    """
    A new release of the operator replaces no pod whose template is the same.

    When this fails on purpose, say so in the changelog: every cluster's pods are replaced.
    """
    one = cluster()
    templates = {
        "edge": build_edges(one, replicas=2),
        "shard": build_shard_set(one, one.shards.names[0]),
    }
    digests = {
        name: hashlib.sha256(
            msgspec.json.encode(workload["spec"]["template"], order="sorted")
        ).hexdigest()[:12]
        for name, workload in templates.items()
    }
    assert digests == {"edge": "ba65f1c49d62", "shard": "153906e76125"}
