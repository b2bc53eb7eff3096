"""What the operator's metrics say of what clients have to wait for, in a real cluster."""

from __future__ import annotations

import pytest

from e2e.installation import NAMESPACE, RELEASE, Installation
from e2e.shell import eventually

pytestmark = pytest.mark.full

CLUSTER = f'cluster="{NAMESPACE}/{RELEASE}"'


def shards(found: dict[str, float], gauge: str) -> dict[str, float]:
    """Give what a gauge says of each shard."""
    head = f"roomful_cluster_shard_{gauge}{{{CLUSTER},"
    return {name.split('"')[3]: value for name, value in found.items() if name.startswith(head)}


def waits(found: dict[str, float], histogram: str, within_s: float, kind: str = "") -> list[float]:
    """Give how many waits there were, and how many of them were over *within_s*."""
    labels = f'{CLUSTER},kind="{kind}"' if kind else CLUSTER
    name = f"roomful_cluster_{histogram}_seconds"
    count = found[f"{name}_count{{{labels}}}"]
    return [count, count - found[f'{name}_bucket{{{labels},le="{within_s}"}}']]


def carries(chart: Installation, order: str) -> bool:
    """Whether an order is still to be taken."""
    return order in chart.get("roomful", RELEASE)["metadata"].get("annotations", {})


@pytest.mark.parametrize(("kind", "within_s"), [("hand-over", 15.0), ("failover", 30.0)])
def test_a_new_primary_can_be_seen(chart: Installation, kind: str, within_s: float) -> None:
    """The shard's term goes up by one, no other's does, and the wait is one of its kind."""
    before = chart.metrics()
    if kind == "hand-over":
        chart.kubectl("annotate", "roomful", RELEASE, "roomful.dev/failover=s1")
    else:
        chart.kubectl("delete", "pod", chart.primary("s1"), "--grace-period=0", "--force")
    terms = shards(before, "term")
    terms["s1"] += 1
    eventually(lambda: shards(chart.metrics(), "term") == terms, "the next term")
    chart.settle()
    count, late = waits(before, "primary_change", within_s, kind)
    print({name: value for name, value in chart.metrics().items() if f'kind="{kind}"' in name})
    assert waits(chart.metrics(), "primary_change", within_s, kind) == [count + 1, late]


def test_moving_buckets_can_be_seen(chart: Installation) -> None:
    """Each that moves is counted with the time that it was closed; none is on two shards."""
    before = chart.metrics()
    # Wherever it is, one of the two moves it.
    for shard in ("s1", "s2"):
        chart.kubectl("annotate", "roomful", RELEASE, f"roomful.dev/move-bucket=8={shard}")
        eventually(lambda: not carries(chart, "roomful.dev/move-bucket"), f"taken: to {shard}")
    count, late = waits(before, "bucket_closed", 5.0)
    eventually(lambda: waits(chart.metrics(), "bucket_closed", 5.0)[0] > count, "it has moved")
    chart.settle()
    after = chart.metrics()
    print({name: value for name, value in after.items() if "bucket_closed" in name})
    assert waits(after, "bucket_closed", 5.0)[1] == late
    assert sum(shards(after, "buckets").values()) == 1024
