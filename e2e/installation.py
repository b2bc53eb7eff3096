"""A kind cluster with the chart installed from this tree, and what tests do to it."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.shell import ROOT, CommandFailed, Shell, eventually, say

__all__ = ["IMAGES", "NAMESPACE", "RELEASE", "Installation", "installed"]

NAMESPACE = "rooms"
RELEASE = "chat"
NODE_PORT = 30080
VALUES = ROOT / "charts/roomful/ci/kind-values.yaml"
IMAGES = {"server": "roomful/server:dev", "operator": "roomful/operator:dev"}
FOREIGN = ("redis:8", "haproxy:3.0")


@dataclass(frozen=True, slots=True)
class Installation:
    """The running chart."""

    name: str
    """Of the kind cluster."""
    port: int
    """Of this machine, where the load balancer is."""
    shell: Shell

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    def kubectl(self, *words: str, timeout_s: float = 60, stdin: str | None = None) -> str:
        """Run kubectl in the release's namespace."""
        command = ("kubectl", "--namespace", NAMESPACE, *words)
        return self.shell.run(*command, timeout_s=timeout_s, stdin=stdin)

    def get(self, kind: str, name: str = "", *, labels: str = "") -> Any:
        """Give an object, or the list of all."""
        chosen = ("--selector", labels) if labels else ()
        words = ("get", kind, *([name] if name else []), *chosen, "--output", "json")
        found = json.loads(self.kubectl(*words))
        return found if name else found["items"]

    def helm(self, *words: str, timeout_s: float = 120) -> str:
        """Run helm in the release's namespace."""
        return self.shell.run("helm", "--namespace", NAMESPACE, *words, timeout_s=timeout_s)

    def bring(self, *images: str) -> None:
        """Load those of *images* that this machine has; the nodes pull the others themselves."""
        have = self.shell.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
        if here := [image for image in images if image in have]:
            load = ("kind", "load", "docker-image", "--name", self.name)
            self.shell.run(*load, *here, timeout_s=600)

    def upgrade(self, *words: str) -> None:
        """Upgrade the release to other values, and wait until it serves with them."""
        values = ("--values", str(VALUES))
        self.helm("upgrade", RELEASE, "charts/roomful", *values, *words)
        self.kubectl("rollout", "status", f"deployment/{RELEASE}-loadbalancer", "--timeout=90s")
        self.settle()

    def patch(self, changes: dict[str, Any]) -> None:
        """Change the RoomfulCluster."""
        self.kubectl("patch", "roomful", RELEASE, "--type=merge", f"--patch={json.dumps(changes)}")

    def status(self) -> dict[str, Any]:
        """Give the status of the RoomfulCluster."""
        found = self.get("roomful", RELEASE).get("status", {})
        assert isinstance(found, dict)
        return found

    def condition(self, kind: str) -> dict[str, str]:
        """Give a condition of the RoomfulCluster."""
        (found,) = (one for one in self.status().get("conditions", ()) if one["type"] == kind)
        assert isinstance(found, dict)
        return found

    def settle(self, timeout_s: float = 180) -> None:
        """Wait until the cluster is Ready, as seen for its newest specification."""

        def is_ready() -> bool:
            one = self.get("roomful", RELEASE)
            status = one.get("status", {})
            return bool(
                status.get("observedGeneration") == one["metadata"]["generation"]
                and status.get("state") == "Ready"
            )

        eventually(is_ready, "the cluster is Ready", timeout_s=timeout_s)

    def pods(self, component: str, shard: str = "") -> list[str]:
        """Give the names of a component's pods that are not on their way out."""
        labels = f"app.kubernetes.io/component={component}"
        if shard:
            labels += f",roomful.dev/shard={shard}"
        return [
            pod["metadata"]["name"]
            for pod in self.get("pods", labels=labels)
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def primary(self, shard: str = "s1") -> str:
        """Give the pod that is a shard's primary."""
        (found,) = (one["primary"] for one in self.status()["shards"] if one["name"] == shard)
        assert isinstance(found, str)
        assert found
        return found

    def buckets(self) -> dict[str, int]:
        """Give how many buckets each shard has."""
        return {shard["name"]: shard["buckets"] for shard in self.status()["shards"]}

    def leader(self) -> str:
        """Give the operator that is at work."""
        holder = self.get("lease", f"{RELEASE}-operator")["spec"]["holderIdentity"]
        assert isinstance(holder, str)
        return holder

    def metrics(self) -> dict[str, float]:
        """Give the metrics of the operator at work, by name and labels."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{self.leader()}:8081/proxy/metrics"
        lines = self.kubectl("get", "--raw", path).splitlines()
        parted = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in parted}

    def resize(self, count: int) -> None:
        """Ask for another number of shards."""
        self.patch({"spec": {"shards": {"count": count}}})

    def process(self, pod: str) -> tuple[str, str]:
        """Give the node of a pod, and the number that its process has there."""
        found = self.get("pod", pod)
        container = found["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        node = found["spec"]["nodeName"]
        for line in self.node(node, "ctr", "--namespace", "k8s.io", "task", "ls").splitlines():
            if line.startswith(container):
                return node, line.split()[1]
        raise AssertionError(f"{pod} has no process on {node}")

    def node(self, node: str, *command: str, timeout_s: float = 60) -> str:
        """Run a command on a node."""
        return self.shell.run("docker", "exec", node, *command, timeout_s=timeout_s)

    def secret(self) -> str:
        """Give what tokens are signed with."""
        data = self.get("secret", f"{RELEASE}-auth")["data"]["secret"]
        return base64.b64decode(data).decode()

    @contextmanager
    def load(
        self, log: Path, *, seconds: float, rate: int = 50, clients: int = 20
    ) -> Iterator[Load]:
        """Have `roomful verify` load the cluster through the load balancer."""
        shell = Shell({**self.shell.environment, "ROOMFUL_AUTH_SECRET": self.secret()})
        program = str(ROOT / ".venv/bin/roomful")
        shape = ["--clients", str(clients), "--rooms", "10", "--rate", str(rate)]
        shape += ["--duration", str(seconds), "--faults", "none"]
        process = shell.start(program, "verify", self.url, *shape, log=log)
        try:
            eventually(lambda: "sending" in log.read_text(), "the load has begun")
            yield Load(process, log, seconds)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def keep_logs(self, directory: Path) -> None:
        """Write down what all pods said, and what there is."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, words in {
            "objects.yaml": ("get", "roomful,pods,services,deploy,sts", "--output", "yaml"),
            "events.txt": ("get", "events", "--sort-by=.lastTimestamp"),
        }.items():
            self._keep(directory / name, *words)
        for pod in self.get("pods"):
            name = pod["metadata"]["name"]
            self._keep(directory / f"{name}.log", "logs", name, "--all-containers")
            restarts = [one["restartCount"] for one in pod["status"].get("containerStatuses", ())]
            if any(restarts):
                self._keep(directory / f"{name}.before.log", "logs", name, "--previous")

    def _keep(self, path: Path, *words: str) -> None:
        try:
            path.write_text(self.kubectl(*words))
        except CommandFailed as exc:
            path.write_text(str(exc))


@dataclass(slots=True)
class Load:
    """A load that runs beside what a test does."""

    process: subprocess.Popen[str]
    log: Path
    seconds: float

    @property
    def is_running(self) -> bool:
        """Whether it still sends, or at least looks at what it sent."""
        return self.process.poll() is None

    def report(self) -> dict[str, Any]:
        """Wait until the load has ended; gives what was found."""
        # Beyond the load: everyone has to be back, and all logs are read.
        output, _ = self.process.communicate(timeout=self.seconds + 180)
        assert output, self.log.read_text()
        found = json.loads(output)
        assert isinstance(found, dict)
        return found


@contextmanager
def installed(directory: Path) -> Iterator[Installation]:
    """
    Build the images, make a cluster, install the chart; and remove the cluster at the end.

    With ROOMFUL_E2E_KEEP it stays, and ROOMFUL_E2E_CLUSTER=NAME takes one that stayed.
    """
    shell = Shell()
    if kept := os.environ.get("ROOMFUL_E2E_CLUSTER"):
        yield _reused(shell, kept, directory)
        return
    for target, image in IMAGES.items():
        say(f"building {image}")
        options = ("--network", "host", "--target", target, "--tag", image)
        shell.run("docker", "build", *options, ".", timeout_s=900)
    name = f"roomful-e2e-{os.getpid()}"
    port = _free_port()
    config = directory / "kubeconfig"
    shell = Shell({"KUBECONFIG": str(config)})
    nodes: list[dict[str, Any]] = [
        {
            "role": "control-plane",
            "extraPortMappings": [
                {"containerPort": NODE_PORT, "hostPort": port, "listenAddress": "127.0.0.1"}
            ],
        },
        {"role": "worker"},
        {"role": "worker"},
    ]
    shape = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}
    node_image = os.environ.get("KIND_NODE_IMAGE")
    chosen = ("--image", node_image) if node_image else ()
    say(f"making the kind cluster {name}")
    create = ("kind", "create", "cluster", "--name", name, *chosen, "--wait", "120s")
    shell.run(*create, "--config", "-", stdin=json.dumps(shape), timeout_s=600)
    try:
        say("loading images")
        one = Installation(name, port, shell)
        one.bring(*IMAGES.values(), *FOREIGN)
        say("installing the chart")
        one.helm(
            *("install", RELEASE, "charts/roomful", "--values", str(VALUES)),
            "--create-namespace",
        )
        started = time.monotonic()
        one.settle()
        one.kubectl("rollout", "status", f"deployment/{RELEASE}-loadbalancer", "--timeout=120s")
        say(f"ready {time.monotonic() - started:.0f} s after the installation")
        yield one
    finally:
        if "ROOMFUL_E2E_KEEP" in os.environ:
            say(f"kept: kind cluster {name}, its load balancer at port {port}")
        else:
            shell.run("kind", "delete", "cluster", "--name", name, timeout_s=120)


def _reused(shell: Shell, name: str, directory: Path) -> Installation:
    config = directory / "kubeconfig"
    config.write_text(shell.run("kind", "get", "kubeconfig", "--name", name))
    bound = shell.run("docker", "port", f"{name}-control-plane", f"{NODE_PORT}/tcp")
    return Installation(name, int(bound.split(":")[1]), Shell({"KUBECONFIG": str(config)}))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number
