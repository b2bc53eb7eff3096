"""The attacks that reach a shard, on an edge whose rooms are on real servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from functions.server import PRODUCTS
from hostile.test_operations import (
    test_content_that_is_no_json_is_refused,
    test_duplicate_keys_do_not_fool_the_check,
    test_nobody_joins_the_room_of_a_user,
    test_nobody_leaves_the_own_room,
    test_nobody_uses_the_room_of_a_user,
    test_odd_events_come_as_they_are,
    test_odd_json_beside_binary,
    test_odd_json_is_refused_or_stays_readable,
    test_odd_names_are_rooms_like_others,
)
from hostile.test_packets import test_deep_json_in_an_event
from hostile.test_sizes import (
    ROOMS_PER_CONNECTION,
    test_flood_without_acks_harms_only_its_sender,
    test_largest_message_passes,
    test_ten_thousand_joins_on_one_connection,
)
from remote.cluster import Cluster, running_cluster
from support.server import Server, serving

__all__ = [
    "test_content_that_is_no_json_is_refused",
    "test_deep_json_in_an_event",
    "test_duplicate_keys_do_not_fool_the_check",
    "test_flood_without_acks_harms_only_its_sender",
    "test_largest_message_passes",
    "test_nobody_joins_the_room_of_a_user",
    "test_nobody_leaves_the_own_room",
    "test_nobody_uses_the_room_of_a_user",
    "test_odd_events_come_as_they_are",
    "test_odd_json_beside_binary",
    "test_odd_json_is_refused_or_stays_readable",
    "test_odd_names_are_rooms_like_others",
    "test_ten_thousand_joins_on_one_connection",
]

SHARD_GROWTH_BYTES = 96 << 20
"""What a shard may keep after one attack: a flood of 30,000 messages is stored, in part."""


@pytest.fixture(scope="module", params=PRODUCTS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two shards."""
    with running_cluster(request.param, tmp_path_factory.mktemp("shards"), shards=2) as running:
        yield running


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An edge with the limits that test_sizes.py has."""
    limits: Mapping[str, str] = {
        "limits_messages_per_second": "500",
        "limits_message_burst": "12000",
        "limits_user_messages_per_second": "0",
        "limits_rooms_per_connection": str(ROOMS_PER_CONNECTION),
    }
    directory = tmp_path_factory.mktemp("edge")
    with serving(directory, settings={**cluster.settings, **limits}) as running:
        yield running


@pytest.fixture(autouse=True)
def _shards_are_bounded(cluster: Cluster) -> Iterator[None]:
    """After each attack the shards are there, and have not grown without a bound."""
    before = {name: used(cluster, name) for name in cluster.members}
    yield
    for name, bytes_before in before.items():
        assert used(cluster, name) - bytes_before < SHARD_GROWTH_BYTES


def used(cluster: Cluster, name: str) -> int:
    """Give the bytes that a shard's primary has."""
    (member,) = (one for one in cluster.members.values() if one.name == name)
    memory: int = member.calls.command("INFO", "memory")["used_memory"]
    return memory
