"""What the chart lets the operator do, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chart.conftest import Manifest, Render


def rules(rendered: Any) -> Iterator[Manifest]:
    """Give every rule of every role."""
    for kind in ("Role", "ClusterRole"):
        for role in rendered.of(kind):
            yield from role["rules"]


@pytest.mark.parametrize("is_wide", [False, True])
def test_no_right_is_for_everything(render: Render, is_wide: bool) -> None:
    """There is no star in any rule, and secrets are not listed."""
    for rule in rules(render({"operator": {"clusterWide": is_wide}})):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if "secrets" in rule["resources"]:
            assert not {"list", "watch", "delete", "update"} & set(rule["verbs"])


def test_within_a_namespace_a_role_is_enough(render: Render) -> None:
    """Without clusterWide nothing of the chart is outside its namespace, and secrets are named."""
    rendered = render({})
    assert not rendered.of("ClusterRole")
    assert not rendered.of("ClusterRoleBinding")
    named = {
        tuple(rule["verbs"]): rule.get("resourceNames")
        for rule in rules(rendered)
        if "secrets" in rule["resources"]
    }
    assert named == {
        ("create",): None,
        ("get", "patch"): ["chat-redis"],
        ("get",): ["chat-auth"],
    }


def test_the_operator_has_rights_for_all_it_makes(render: Render) -> None:
    """What roomful_operator applies, it may list, create, patch and delete."""
    from roomful_operator.api import OWNED

    allowed = {
        (group, resource): set(rule["verbs"])
        for rule in rules(render({}))
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    for kind in OWNED.values():
        group = kind.api.rpartition("/")[0]
        assert {"list", "create", "patch", "delete"} <= allowed[group, kind.plural]
