"""What the chart renders, with each option on and off."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from chart.conftest import CHART, ROOT, Manifest, Render, tool

ALL_ON: Manifest = {
    "ingress": {"enabled": True, "host": "chat.example.com", "className": "haproxy"},
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}]},
    "tracing": {"collector": {"enabled": True}},
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}
EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.fixture(params=[{}, ALL_ON], ids=["defaults", "all on"])
def values(request: pytest.FixtureRequest) -> Manifest:
    """Give sets of values that everything has to hold for."""
    found = request.param
    assert isinstance(found, dict)
    return found


# Every pod ----------------------------------------------------------------------------------


def test_pods_are_restricted(render: Render, values: Manifest) -> None:
    """Every pod passes Pod Security `restricted`, and has a root that is read-only."""
    for name, spec in render(values).pods():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_services_do_not_come_in_as_variables(render: Render, values: Manifest) -> None:
    """A Service named `roomful` would set ROOMFUL_PORT, which is a setting."""
    assert all(spec["enableServiceLinks"] is False for _, spec in render(values).pods())


def test_only_the_operator_has_a_token(render: Render, values: Manifest) -> None:
    """Nobody else asks the API server for anything."""
    with_token = {
        name
        for name, spec in render(values).pods()
        if spec.get("automountServiceAccountToken", True)
    }
    assert with_token == {"chat-operator"}


def test_every_container_says_what_it_needs(render: Render, values: Manifest) -> None:
    """Requests and a memory limit are set everywhere."""
    for name, spec in render(values).pods():
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name


def test_a_busy_machine_restarts_nothing(render: Render) -> None:
    """
    Who answers slowly is left alone: only a minute without any answer is an end.

    HAProxy with the default of a second was restarted on a busy node, and cut every client.
    """
    probed = 0
    for name, spec in render().pods():
        for container in spec["containers"]:
            if (probe := container.get("livenessProbe")) is None:
                continue
            probed += 1
            assert probe["timeoutSeconds"] >= 5, name
            assert probe.get("periodSeconds", 10) * probe["failureThreshold"] >= 60, name
    assert probed >= 2


@pytest.mark.parametrize("component", ["operator", "loadBalancer"])
def test_people_may_add_to_pods(render: Render, component: str) -> None:
    """The chart's own pods take the same additions as those that the operator makes."""
    pod: Manifest = {
        "annotations": {"a": "1"},
        "labels": {"team": "chat"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    }
    values = {component: {"pod": pod}, "imagePullSecrets": [{"name": "registry"}]}
    template = render(values).one("Deployment", f"chat-{component.lower()}")["spec"]["template"]
    assert template["metadata"]["annotations"]["a"] == "1"
    assert template["metadata"]["labels"]["team"] == "chat"
    (container,) = template["spec"]["containers"]
    for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert template["spec"][field] == pod[field]
    assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["extraEnv"][0] in container["env"]
    assert pod["extraVolumes"][0] in template["spec"]["volumes"]
    assert pod["extraVolumeMounts"][0] in container["volumeMounts"]


# Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"operator": {"replicaCoutn": 3}}, "replicaCoutn"),
        ({"cluster": {"shards": {"cuont": 3}}}, "cuont"),
        ({"cluster": {"edges": {"autoscaling": {"minReplica": 3}}}}, "minReplica"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"loadBalancer": {"idleTimeoutSeconds": 30}}, "idle clients would be cut"),
        ({"gateway": {"enabled": True}}, "parentRefs"),
    ],
)
def test_mistakes_are_refused(render: Render, values: Manifest, word: str) -> None:
    """A typo or a bad combination ends in a sentence that names it."""
    assert word in render(values).error


def test_it_can_be_a_part_of_another_chart(render: Render) -> None:
    """A parent chart's `global` and `enabled` are no mistakes."""
    assert not render({"global": {"a": {"b": 1}}, "enabled": True}).error


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_are_good(render: Render, path: Path) -> None:
    """Every example of values renders."""
    assert not render(yaml.safe_load(path.read_text())).error


def test_there_are_examples() -> None:
    """Of each way in: a load balancer's Service, an Ingress, a Gateway."""
    assert {"gateway-values", "ingress-values", "kind-values"} <= {path.stem for path in EXAMPLES}


def test_images_by_digest_win(render: Render) -> None:
    """A digest is used instead of a tag."""
    spec = render({"image": {"tag": "1", "digest": "sha256:abc"}}).of("RoomfulCluster")[0]["spec"]
    assert spec["image"] == "roomful/server@sha256:abc"


def test_the_cluster_is_what_the_values_say(render: Render) -> None:
    """Parts of `cluster` go into the RoomfulCluster as they are, and it outlives the release."""
    archive = {"dsn": {"name": "postgres", "key": "uri"}}
    values = {
        "cluster": {"shards": {"count": 3}, "archive": archive, "origins": ["https://a"]},
        "tracing": {"endpoint": "http://otel:4318", "ratio": 0.5},
    }
    (one,) = render(values).of("RoomfulCluster")
    assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert one["spec"] == {
        "image": "roomful/server:0.1.0",
        "imagePullPolicy": "IfNotPresent",
        "shards": {"count": 3},
        "archive": archive,
        "origins": ["https://a"],
        "tracing": {"endpoint": "http://otel:4318", "ratio": 0.5},
    }


def test_parts_can_be_left_out(render: Render) -> None:
    """Operator, cluster and load balancer each alone."""
    names = {"operator", "cluster", "loadBalancer"}
    for name in names:
        rendered = render({name: {"enabled": False}})
        kinds = {one["metadata"]["name"] for one in rendered.of("Deployment")}
        assert ("chat-operator" in kinds) is (name != "operator")
        assert ("chat-loadbalancer" in kinds) is (name != "loadBalancer")
        assert bool(rendered.of("RoomfulCluster")) is (name != "cluster")


# The load balancer --------------------------------------------------------------------------


def haproxy(render: Render, values: Manifest | None = None) -> str:
    """Give HAProxy's configuration."""
    text = render(values).one("ConfigMap", "chat-loadbalancer")["data"]["haproxy.cfg"]
    assert isinstance(text, str)
    return text


def test_the_balancer_finds_edges_by_name(render: Render) -> None:
    """It asks for each edge's own readiness, and looks them up in the headless Service."""
    text = haproxy(render)
    assert "chat-edges.rooms.svc.cluster.local:8080" in text
    assert "http-check send meth GET uri /readyz" in text


def test_stickiness_is_a_choice(render: Render) -> None:
    """With it a cookie keeps a client at its edge, without it no cookie is set."""
    assert "cookie ROOMFUL insert" in haproxy(render)
    assert "cookie" not in haproxy(render, {"loadBalancer": {"stickySessions": False}})


@pytest.mark.parametrize("is_sticky", [True, False])
def test_haproxy_takes_its_configuration(render: Render, tmp_path: Path, is_sticky: bool) -> None:
    """The program itself finds no fault."""
    program = tool("haproxy")
    path = tmp_path / "haproxy.cfg"
    path.write_text(haproxy(render, {"loadBalancer": {"stickySessions": is_sticky}}))
    done = subprocess.run([program, "-c", "-f", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_time_to_stop_is_enough(render: Render) -> None:
    """The pod's grace period holds the wait before the signal and HAProxy's own limit."""
    spec = render().one("Deployment", "chat-loadbalancer")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= 45 + 5
    assert "hard-stop-after 45s" in haproxy(render)


def test_a_changed_configuration_is_a_new_pod(render: Render) -> None:
    """HAProxy reads its file at the start only."""
    sums = set()
    for is_sticky in (True, False):
        rendered = render({"loadBalancer": {"stickySessions": is_sticky}})
        template = rendered.one("Deployment", "chat-loadbalancer")["spec"]["template"]
        sums.add(template["metadata"]["annotations"]["checksum/config"])
    assert len(sums) == 2


# Ways in, traces, metrics -------------------------------------------------------------------


def test_options_are_off_by_default(render: Render) -> None:
    """Nothing that needs another program in the Kubernetes cluster is made unasked."""
    kinds = {one["kind"] for one in render().objects}
    assert not kinds & {"Ingress", "HTTPRoute", "ServiceMonitor", "PodMonitor", "PrometheusRule"}


def test_routes_go_to_the_balancer_or_the_edges(render: Render) -> None:
    """Where there is no balancer of ours, the Ingress and the route go to the edges' Service."""
    for is_on, backend in ((True, ("chat", 80)), (False, ("chat-edge", 8080))):
        rendered = render({**ALL_ON, "loadBalancer": {"enabled": is_on}})
        (path,) = rendered.of("Ingress")[0]["spec"]["rules"][0]["http"]["paths"]
        service = path["backend"]["service"]
        assert (service["name"], service["port"]["number"]) == backend
        (rule,) = rendered.of("HTTPRoute")[0]["spec"]["rules"]
        assert (rule["backendRefs"][0]["name"], rule["backendRefs"][0]["port"]) == backend
        assert rule["timeouts"] == {"request": "0s"}


def test_the_collector_is_where_traces_go(render: Render) -> None:
    """Its address is the cluster's tracing endpoint, and its configuration names its exporters."""
    rendered = render(ALL_ON)
    spec = rendered.of("RoomfulCluster")[0]["spec"]
    assert spec["tracing"]["endpoint"] == "http://chat-collector:4318"
    config = yaml.safe_load(rendered.one("ConfigMap", "chat-collector")["data"]["config.yaml"])
    assert config["service"]["pipelines"]["traces"]["exporters"] == ["debug"]


def test_alerts_and_dashboard_ask_for_metrics_that_exist(render: Render) -> None:
    """Every metric of ours that a rule or a panel names is one that a program of ours has."""
    from roomful_operator.metrics import Statistics

    edge = ROOT / "services/roomful/edge"
    source = "".join((edge / name).read_text() for name in ("report.py", "outboxes.py"))
    known = {f"roomful_{name}" for name in re.findall(r'Sample\(\s*"([a-z_]+)"', source)}
    known |= {metric.name for metric in Statistics().registry.collect()}
    rendered = render(ALL_ON)
    (rule,) = rendered.of("PrometheusRule")
    dashboard = json.loads(rendered.one("ConfigMap", "chat-dashboard")["data"]["roomful.json"])
    expressions = [one["expr"] for group in rule["spec"]["groups"] for one in group["rules"]]
    expressions += [one["targets"][0]["expr"] for one in dashboard["panels"]]
    assert len(expressions) > 10
    for expression in expressions:
        for name in re.findall(r"roomful_[a-z_]+", expression):
            base = re.sub("_(total|bucket|count|sum)$", "", name)
            assert base in known, expression


def test_each_alert_has_a_part_of_the_runbook(render: Render) -> None:
    """Whoever is woken finds what to look at and what to do, one link away."""
    (rule,) = render(ALL_ON).of("PrometheusRule")
    alerts = [one for group in rule["spec"]["groups"] for one in group["rules"]]
    assert len(alerts) > 5
    page = (ROOT / "docs/operations.md").read_text()
    parts = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    for alert in alerts:
        name = alert["alert"]
        assert alert["annotations"]["runbook_url"] == (
            f"https://roomful.dev/operations#{name.lower()}"
        )
        assert len(parts[name].split()) > 15, name
    assert {name for name in parts if name.startswith("Roomful")} == {
        alert["alert"] for alert in alerts
    }


def test_the_helm_test_goes_from_edge_to_edge(render: Render) -> None:
    """It signs in with the cluster's own secret, and asks for each edge by its own address."""
    pod = render().one("Pod", "chat-test-message")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    variables = {one["name"]: one for one in container["env"]}
    assert variables["EDGES"]["value"] == "chat-edges.rooms.svc.cluster.local"
    reference = variables["ROOMFUL_AUTH_SECRET"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "chat-auth", "key": "secret"}
    compile(container["args"][0], "test_message.py", "exec")


# As a whole ---------------------------------------------------------------------------------


def test_no_pod_holds_up_a_namespace_that_goes(render: Render) -> None:
    """Kubernetes looks at it again after half of the longest grace period."""
    specs = [one["spec"]["template"]["spec"] for one in render(ALL_ON).of("Deployment")]
    graces = [spec.get("terminationGracePeriodSeconds", 30) for spec in specs]
    assert len(graces) > 1
    assert max(graces) // 2 + 1 <= 35


def test_lint(render: Render) -> None:
    """Helm's own linter finds nothing."""
    for name in ("roomful", "roomful-crds"):
        command = [tool("helm"), "lint", "--strict", str(ROOT / "charts" / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_objects_are_valid(render: Render, values: Manifest) -> None:
    """kubeconform finds every object valid; kinds of other projects are left to them."""
    import os

    program = tool("kubeconform")
    skipped = "RoomfulCluster,HTTPRoute,ServiceMonitor,PodMonitor,PrometheusRule"
    command = [program, "-strict", "-summary", "-skip", skipped]
    if location := os.environ.get("KUBECONFORM_SCHEMAS"):
        command += ["-schema-location", location]
    done = subprocess.run(
        command, input=render(values).text, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
