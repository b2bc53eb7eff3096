"""skaffold.yaml names what there is, and its values are ones that the chart takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from chart.conftest import ROOT, Render

SKAFFOLD: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
RELEASE: dict[str, Any] = SKAFFOLD["deploy"]["helm"]["releases"][0]


def merged(below: Any, above: Any) -> Any:
    """Give two sets of values in one, as Helm does."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {
        name: merged(below.get(name), above[name]) if name in above else below[name]
        for name in below.keys() | above.keys()
    }


def overrides(profile: dict[str, Any]) -> dict[str, Any]:
    """Give the values of a release under a profile."""
    values: dict[str, Any] = RELEASE["overrides"]
    for patch in profile.get("patches", ()):
        place, prefix = patch["value"], "/deploy/helm/releases/0/overrides/"
        assert patch["path"].startswith(prefix)
        for name in reversed(patch["path"].removeprefix(prefix).split("/")):
            place = {name: place}
        values = merged(values, place)
    return values


def test_images_are_those_of_the_dockerfile() -> None:
    """Every artifact is a stage of the Dockerfile."""
    stages = re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    targets = [one["docker"]["target"] for one in SKAFFOLD["build"]["artifacts"]]
    assert targets == ["server", "operator"]
    assert set(targets) <= set(stages)


def test_files_are_there() -> None:
    """The chart and its values are where skaffold looks."""
    assert (ROOT / RELEASE["chartPath"] / "Chart.yaml").exists()
    assert all((ROOT / path).exists() for path in RELEASE["valuesFiles"])


@pytest.mark.parametrize(
    "profile", [{"name": "none"}, *SKAFFOLD["profiles"]], ids=lambda one: str(one["name"])
)
def test_the_chart_takes_the_values(render: Render, profile: dict[str, Any]) -> None:
    """With and without each profile."""
    values: dict[str, Any] = {}
    for path in RELEASE["valuesFiles"]:
        values = merged(values, yaml.safe_load((ROOT / path).read_text()))
    rendered = render(merged(values, overrides(profile)))
    assert not rendered.error
    (cluster,) = rendered.of("RoomfulCluster")
    assert cluster["spec"]["edges"]["settings"] == {"ROOMFUL_DEV": "true"}
