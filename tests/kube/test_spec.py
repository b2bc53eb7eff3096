"""Reading RoomfulCluster objects."""

from __future__ import annotations

import pytest

from kube.objects import cluster
from roomful_operator.spec import BadSpec, parse_quantity


def test_everything_but_the_image_has_a_default() -> None:
    """An object with an image is a whole cluster."""
    one = cluster()
    assert (one.name, one.image) == ("chat", "roomful/server:1")
    assert (one.edges.replicas, one.shards.count, one.shards.members) == (2, 2, 3)
    assert one.archive is None
    assert not one.is_paused


def test_shards_are_named_by_number() -> None:
    """A topology's names are lower case letters and digits: s1, s2, ..."""
    assert cluster({"shards": {"count": 3}}).shards.names == ("s1", "s2", "s3")


@pytest.mark.parametrize(("value", "is_paused"), [("true", True), ("", True), ("false", False)])
def test_the_annotation_pauses(value: str, is_paused: bool) -> None:
    """Whatever is written there stops all changes, but for `false`."""
    annotations = {"roomful.dev/paused": value}
    assert cluster(annotations=annotations).is_paused is is_paused


def test_a_wrong_field_is_named() -> None:
    """The refusal says where the mistake is."""
    with pytest.raises(BadSpec, match=r"edges\.drainSeconds"):
        cluster({"edges": {"drainSeconds": "long"}})


def test_an_unknown_field_is_no_mistake() -> None:
    """An object of a newer CRD can be read by an older operator."""
    assert cluster({"somethingNew": {"a": 1}}).shards.count == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("2", 2.0), ("1Gi", 2**30), ("1.5k", 1500.0), ("64Mi", 64 * 2**20)],
)
def test_quantities(text: str, value: float) -> None:
    """Quantities are read as Kubernetes reads them."""
    assert parse_quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "much", "1Xi", "1 Gi"])
def test_what_is_no_quantity(text: str) -> None:
    """Anything else is refused with the text in the sentence."""
    with pytest.raises(BadSpec, match="quantity"):
        parse_quantity(text)
