"""
Writes the CRD of RoomfulCluster into the charts, or checks (--check) that it is fresh there.

Fields, defaults, bounds and descriptions come from roomful_operator/spec.py: there is one place
to change. What a schema of single fields cannot say is in the rules here (CEL, checked by the API
server, so no webhook has to be up).
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from roomful_operator import spec

ROOT: Final = Path(__file__).resolve().parent.parent
# Helm installs what is in crds/ before all else, and never upgrades it. The chart of its own is
# for those who want Helm to do that too.
CHARTS: Final = (
    ROOT / "charts/roomful/crds/roomfulclusters.yaml",
    ROOT / "charts/roomful-crds/templates/roomfulclusters.yaml",
)

RULES: Final = {
    "Cluster": [],
    "Autoscaling": [
        ("self.minReplicas <= self.maxReplicas", "minReplicas is above maxReplicas"),
    ],
    "ShardScaling": [("self.minCount <= self.maxCount", "minCount is above maxCount")],
    "Shards": [
        ("self.acks <= self.replicas", "acks is above replicas: nothing would be acknowledged"),
        (
            "self.acks == oldSelf.acks && self.fsync == oldSelf.fsync",
            "what an acknowledgement means cannot be changed after the cluster was made",
        ),
        (
            "self.storageSize == oldSelf.storageSize"
            " && self.storageClassName == oldSelf.storageClassName",
            "the storage of servers cannot be changed after the cluster was made",
        ),
    ],
}
# Long enough for anyone, and NAME-s120-8 stays a label's value.
NAME_RULE: Final = (
    "self.metadata.name.size() <= 40",
    "the name is longer than 40 characters",
)

COLUMNS: Final = [
    ("Edges", "integer", ".status.edges.ready", 0),
    ("Connections", "integer", ".status.edges.connections", 0),
    ("Shards", "integer", ".status.shardCount", 0),
    ("ReadyShards", "integer", ".status.readyShards", 0),
    ("State", "string", ".status.state", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
]

HEADER: Final = "# Written by scripts/crd.py from operator/roomful_operator/spec.py.\n"


def read_descriptions() -> dict[str, dict[str, str]]:
    """Return what the docstrings say: by class and field, "" for the class itself."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(spec)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found[node.name] = fields = {"": ast.get_docstring(node) or ""}
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                fields[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


class Structural:
    """Turns msgspec's JSON schema into the structural schema that a CRD has to have."""

    def __init__(self) -> None:
        _, self._parts = msgspec.json.schema_components([spec.Cluster])
        self._texts = read_descriptions()

    def part(self, name: str) -> dict[str, Any]:
        """Return the schema of the class *name*."""
        source = self._parts[name]
        texts = self._texts[name]
        properties = {}
        for field, schema in source["properties"].items():
            built = self._build(schema)
            text = texts.get(re.sub("([A-Z])", r"_\1", field).lower())
            properties[field] = {**({"description": text} if text else {}), **built}
        built = {
            "type": "object",
            "description": texts[""].split("\n\n")[0],
            "properties": properties,
        }
        if source.get("required"):
            built["required"] = source["required"]
        if RULES.get(name):
            built["x-kubernetes-validations"] = [
                {"rule": rule, "message": message} for rule, message in RULES[name]
            ]
        return built

    def _build(self, schema: dict[str, Any]) -> dict[str, Any]:
        default = {"default": schema["default"]} if "default" in schema else {}
        if "anyOf" in schema:  # something, or not there
            (schema,) = (one for one in schema["anyOf"] if one != {"type": "null"})
            default = {}
        if "$ref" in schema:
            # Deeper defaults are the API server's work; these it wants for its own rules.
            whole = default.get("default") or {}
            shallow = {name: value for name, value in whole.items() if _is_scalar(value)}
            inner = {"default": shallow} if default else {}
            return {**self.part(schema["$ref"].rpartition("/")[2]), **inner}
        if "enum" in schema:
            return {"type": "string", "enum": schema["enum"], **default}
        kept = {name: value for name, value in schema.items() if name not in ("items", "default")}
        if schema["type"] == "array":
            items = schema.get("items", {})
            return {**kept, "items": self._build(items) if items else _ANYTHING, **default}
        if schema["type"] == "object":
            values = schema.get("additionalProperties", {})
            if not isinstance(values, dict) or not values:
                return {**_ANYTHING, **default}
            return {**kept, "additionalProperties": self._build(values), **default}
        return {**kept, **default}


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


_ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_NUMBERS: Final = ("replicas", "ready", "desired", "connections")


def build_status() -> dict[str, Any]:
    """Return the schema of the status."""
    text, number = {"type": "string"}, {"type": "integer"}
    condition = {
        "type": "object",
        "required": ["type", "status", "reason", "lastTransitionTime"],
        "properties": {
            **dict.fromkeys(("type", "status", "reason", "message"), text),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    }
    return {
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "state": text,
            "edges": {
                "type": "object",
                "properties": {**dict.fromkeys(_NUMBERS, number), "selector": text},
            },
            **dict.fromkeys(("shardCount", "readyShards", "topologyGeneration"), number),
            "shards": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {**_ANYTHING, "required": ["name"], "properties": {"name": text}},
            },
            "autoscaling": _ANYTHING,
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition,
            },
        },
    }


def build_crd() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition."""
    built = Structural().part("Cluster")
    # These two come from the object's head.
    for name in ("identity", "isPaused"):
        del built["properties"][name]
    built["required"] = ["image"]
    rule, message = NAME_RULE
    schema = {
        "type": "object",
        "description": built.pop("description"),
        "required": ["spec"],
        "properties": {"spec": built, "status": build_status()},
        "x-kubernetes-validations": [{"rule": rule, "message": message}],
    }
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.edges.replicas",
                "statusReplicasPath": ".status.edges.replicas",
                "labelSelectorPath": ".status.edges.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority}
            for name, kind, path, priority in COLUMNS
        ],
    }
    names = {
        "kind": "RoomfulCluster",
        "listKind": "RoomfulClusterList",
        "plural": "roomfulclusters",
        "singular": "roomfulcluster",
        "shortNames": ["roomful"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "roomfulclusters.roomful.dev",
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": "roomful.dev",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }


def main() -> int:
    """Do what the command line asks for; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    text = HEADER + yaml.safe_dump(build_crd(), sort_keys=False, width=96)
    stale = [path for path in CHARTS if not path.exists() or path.read_text() != text]
    for path in stale:
        if arguments.check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not fresh (scripts/crd.py)\n")
        else:
            path.write_text(text)
    return bool(stale) and arguments.check


if __name__ == "__main__":
    sys.exit(main())
