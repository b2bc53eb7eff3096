"""What Helm says after an installation: where clients connect, and what is risky."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.conftest import CHART, tool

Say = Callable[[dict[str, Any]], str]


@pytest.fixture
def say(tmp_path: Path) -> Say:
    """Give the notes for values; `helm template` leaves them out, so they are put in an object."""
    helm = tool("helm")
    chart = tmp_path / "roomful"
    shutil.copytree(CHART, chart)
    notes = chart / "templates/NOTES.txt"
    text = f'{{{{ define "notes" }}}}{notes.read_text()}{{{{ end }}}}'
    notes.unlink()
    (chart / "templates/notes.yaml").write_text(
        f'{text}\nkind: Notes\ntext: {{{{ include "notes" . | toJson }}}}\n'
    )

    def render(values: dict[str, Any]) -> str:
        command = [helm, "template", "chat", str(chart), "--values", "-"]
        command += ["--namespace", "rooms", "--show-only", "templates/notes.yaml"]
        done = subprocess.run(
            command, input=yaml.safe_dump(values), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return str(yaml.safe_load(done.stdout)["text"])

    return render


def test_defaults_warn_of_nothing(say: Say) -> None:
    """How to wait, how to test, where it is, and where the secret of tokens is."""
    said = say({})
    assert "kubectl -n rooms wait roomful/chat --for condition=Ready" in said
    assert "helm -n rooms test chat" in said
    assert "get service chat -o jsonpath='{.status.loadBalancer.ingress[0]}'" in said
    assert "Sticky sessions are on" in said
    assert "get secret chat-auth" in said
    assert "WARNING" not in said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cluster": {"edges": {"settings": {"ROOMFUL_DEV": "true"}}}}, "sign in as anyone"),
        ({"cluster": {"shards": {"acks": 0}}}, "is lost with the server that took it"),
        ({"cluster": {"shards": {"acks": 2, "replicas": 2}}}, "nothing is acknowledged"),
    ],
    ids=["development", "no acks", "as many acks as replicas"],
)
def test_what_is_risky_is_said(say: Say, values: dict[str, Any], words: str) -> None:
    """One warning for each."""
    said = say(values)
    assert said.count("WARNING") == 1
    assert words in said


def test_without_a_balancer_the_edges_are_named(say: Say) -> None:
    """And with a node port, the port of the nodes."""
    assert "the Service chat-edge on port 8080" in say({"loadBalancer": {"enabled": False}})
    service = {"type": "NodePort", "nodePort": 30080}
    assert "port 30080 of every node" in say({"loadBalancer": {"service": service}})
