"""
Writes the chart's values.schema.json and README.md from values.yaml, or checks (--check) that they
are fresh.

A value is documented by the comment above it; what stands below it is its default. The parts that
go into a RoomfulCluster as they are have the CRD's own schema, so a typo in them is refused too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from crd import build_crd  # type: ignore[import-not-found]  # run as a script, it is beside

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "charts/roomful"

CHOICES: Final = {
    "image.pullPolicy": ["Always", "IfNotPresent", "Never"],
    "operator.logLevel": ["debug", "info", "warning", "error"],
    "loadBalancer.service.type": ["LoadBalancer", "NodePort", "ClusterIP"],
}
BOUNDS: Final = {
    "operator.replicas": (1, 10),
    "operator.intervalSeconds": (1, 30),
    "loadBalancer.replicas": (1, 100),
    "loadBalancer.maxEdges": (1, 1000),
    "loadBalancer.idleTimeoutSeconds": (1, 86400),
    "loadBalancer.drainSeconds": (1, 3600),
    "loadBalancer.service.port": (1, 65535),
    "loadBalancer.service.nodePort": (0, 32767),
    "tracing.ratio": (0, 1),
}
TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number"}

HEAD: Final = """\
# Roomful

<!-- Written by scripts/chart.py from values.yaml. -->

The chart brings an operator, a `RoomfulCluster` that the operator keeps, and HAProxy in front of
the edges. [docs/kubernetes.md](../../docs/kubernetes.md) has a quick start, and what to do when.

    helm install chat charts/roomful
    kubectl wait roomful/chat --for condition=Ready --timeout 5m
    helm test chat

The CRD is installed with the chart; Helm never upgrades it. Before an upgrade:

    helm show crds charts/roomful | kubectl apply --server-side --force-conflicts -f -

or let Helm do it: `helm install roomful-crds charts/roomful-crds`, and this chart with
`--skip-crds`.

`helm uninstall` leaves the `RoomfulCluster`, and with it the rooms; `kubectl delete roomful NAME`
deletes it. Claims of shards' servers stay until you delete them.

## Values
"""


@dataclass(frozen=True, slots=True)
class Value:
    """One documented value."""

    path: tuple[str, ...]
    text: str
    default: Any

    @property
    def name(self) -> str:
        """The path as it is given to --set."""
        return ".".join(self.path)


def read_values(text: str) -> list[Value]:
    """Return every value that has a comment, in order."""
    document = yaml.safe_load(text)
    found, comment, path = [], list[str](), list[tuple[int, str]]()
    for line in text.splitlines():
        if match := re.match(r" *# ?(.*)", line):
            comment.append(match[1])
            continue
        if match := re.match(r"( *)([A-Za-z_]+):", line):
            indent = len(match[1])
            path = [*(one for one in path if one[0] < indent), (indent, match[2])]
            if comment:
                names = tuple(name for _, name in path)
                found.append(Value(names, " ".join(comment), _at(document, names)))
        comment = []
    return found


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        document = document[name]
    return document


def build_schema(values: list[Value]) -> dict[str, Any]:
    """Return the JSON Schema of the values."""
    spec = _strict(build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    spec = spec["properties"]["spec"]["properties"]
    pod = spec["edges"]["properties"]["pod"]
    root = _section()
    for value in values:
        place = root
        for name in value.path[:-1]:
            place = place["properties"].setdefault(name, _section())
        *_, last = value.path
        if value.path[0] == "cluster" and last in spec:
            schema = spec[last]
            # Helm's own merging needs the empty default, in which the required is missing.
            schema = {name: part for name, part in schema.items() if name != "required"}
        elif last == "pod":
            schema = pod
        else:
            schema = _schema_of(value)
        place["properties"][last] = {**schema, "description": value.text}
    # Values of a parent chart, and whether it wants this one.
    root["properties"] |= {"global": {"type": "object"}, "enabled": {"type": "boolean"}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **root}


def _section() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _schema_of(value: Value) -> dict[str, Any]:
    if value.name in CHOICES:
        return {"type": "string", "enum": CHOICES[value.name]}
    if isinstance(value.default, dict | list):
        return {"type": "object" if isinstance(value.default, dict) else "array"}
    kind = TYPES[type(value.default)]
    low, high = BOUNDS.get(value.name, (None, None))
    return {"type": kind} if low is None else {"type": kind, "minimum": low, "maximum": high}


def _strict(schema: Any) -> Any:
    """Return a CRD's schema as a JSON Schema that refuses what it does not know."""
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: part
        for name, part in schema.items()
        if not name.startswith("x-kubernetes-") and name != "default"
    }
    built: dict[str, Any] = {**kept}
    if "properties" in kept:
        built["properties"] = {name: _strict(part) for name, part in kept["properties"].items()}
        built["additionalProperties"] = False
    elif isinstance(kept.get("additionalProperties"), dict):
        built["additionalProperties"] = _strict(kept["additionalProperties"])
    if "items" in kept:
        built["items"] = _strict(kept["items"])
    return built


def build_readme(values: list[Value]) -> str:
    """Return the chart's README with a table of all values."""
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{value.name}` | `{default}` | {value.text.replace('|', chr(92) + '|')} |")
    return HEAD + "\n" + "\n".join(rows) + "\n"


def main() -> int:
    """Do what the command line asks for; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    # The head of the file is about the file.
    _, _, text = (CHART / "values.yaml").read_text().partition("\n\n")
    values = read_values(text)
    wanted = {
        CHART / "values.schema.json": json.dumps(build_schema(values), indent=2) + "\n",
        CHART / "README.md": build_readme(values),
    }
    stale = [path for path, new in wanted.items() if not path.exists() or path.read_text() != new]
    for path in stale:
        if arguments.check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not fresh (scripts/chart.py)\n")
        else:
            path.write_text(wanted[path])
    return bool(stale) and arguments.check


if __name__ == "__main__":
    sys.exit(main())
