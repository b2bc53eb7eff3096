"""The chart as Helm renders it; without Helm its tests are skipped, but not in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/roomful"
MUST_RUN = "REQUIRE_KUBERNETES_TOOLS"
"""Set where the tools have to be there: a skipped test would hide that they are not."""

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What came out: objects, or the reason why nothing did."""

    objects: tuple[Manifest, ...]
    error: str = ""
    text: str = ""

    def of(self, kind: str) -> list[Manifest]:
        """Give all objects of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        """Give one object."""
        (found,) = (one for one in self.of(kind) if one["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterable[tuple[str, Manifest]]:
        """Give the specification of every pod, with the name of what makes it."""
        for one in self.objects:
            if one["kind"] in ("Deployment", "StatefulSet", "Job"):
                yield one["metadata"]["name"], one["spec"]["template"]["spec"]
            elif one["kind"] == "Pod":
                yield one["metadata"]["name"], one["spec"]


def tool(name: str) -> str:
    """Give the path of a program, skip the test, or fail where it must be there."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed (https://helm.sh, https://github.com/yannh/kubeconform)"
        if os.environ.get(MUST_RUN):
            pytest.fail(f"{message}, and {MUST_RUN} is set")
        pytest.skip(message)
    return path


Render = Callable[..., Rendered]


@pytest.fixture(scope="session")
def render() -> Render:
    """Render the chart, named `chat` in the namespace `rooms`, with values."""
    helm = tool("helm")

    done_before: dict[str, Rendered] = {}

    def run(values: Manifest | None = None) -> Rendered:
        text = yaml.safe_dump(values or {})
        if text not in done_before:
            done_before[text] = once(text)
        return done_before[text]

    def once(text: str) -> Rendered:
        command = [helm, "template", "chat", str(CHART), "--namespace", "rooms", "--values", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        if done.returncode:
            return Rendered((), done.stderr)
        loaded = yaml.safe_load_all(done.stdout)
        return Rendered(tuple(one for one in loaded if one), "", done.stdout)

    return run
