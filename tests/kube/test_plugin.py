"""What `kubectl roomful` tells who gave an order, by the events of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from kube.api_server import ApiServer, running_api_server
from kube.objects import cluster, document
from roomful_operator.api import CLUSTERS, KubernetesApi
from roomful_operator.orders import FAILOVER
from roomful_operator.plugin import OrderFailed, order
from roomful_operator.status import Condition
from roomful_operator.telling import Telling
from support.deadline import until, within


@pytest.fixture
async def server() -> AsyncIterator[tuple[ApiServer, KubernetesApi]]:
    """Give an API server with a cluster, and a connection to it."""
    async with running_api_server() as (running, configuration):
        running.objects[CLUSTERS.path("rooms", "chat")] = document(annotations={})
        api = KubernetesApi(configuration)
        yield running, api
        await api.aclose()


async def _at_once(request: Awaitable[Any]) -> Any:
    return await request


async def answered(running: ApiServer, api: KubernetesApi, said: Condition) -> str:
    """Give an order as a person does, and let an operator say this of it."""
    telling = Telling(api, _at_once)
    # Of an earlier order, and of another cluster: neither is the answer.
    await telling.post_event(cluster(), Condition("Ordered", True, "FailoverOrdered", "earlier"))
    asked = asyncio.create_task(order(api, "rooms", "chat", FAILOVER, "s1"))
    await until(lambda: carried_by(running) == {FAILOVER: "s1"})
    stranger = Condition("Ordered", False, "FailoverRefused", "another one")
    await telling.post_event(cluster(uid="another"), stranger)
    await telling.post_event(cluster(), said)
    return await within(asked)


def carried_by(running: ApiServer) -> dict[str, str]:
    """Give the orders that the cluster carries."""
    found = running.objects[CLUSTERS.path("rooms", "chat")]["metadata"]["annotations"]
    assert isinstance(found, dict)
    return found


async def test_an_order_that_is_taken_is_told(server: tuple[ApiServer, KubernetesApi]) -> None:
    """In the operator's own words."""
    said = Condition("Ordered", True, "FailoverOrdered", "s1 has been handed to chat-s1-1")
    assert await answered(*server, said) == "s1 has been handed to chat-s1-1"


async def test_an_order_that_is_refused_fails(server: tuple[ApiServer, KubernetesApi]) -> None:
    """With the reason, so that the exit status is one of failure."""
    said = Condition("Ordered", False, "FailoverRefused", "there is no shard s9")
    with pytest.raises(OrderFailed, match="refused: there is no shard s9"):
        await answered(*server, said)


async def test_an_order_that_nobody_takes_is_told(server: tuple[ApiServer, KubernetesApi]) -> None:
    """It stays for an operator that comes later."""
    running, api = server
    with pytest.raises(OrderFailed, match="no operator has taken the order"):
        await order(api, "rooms", "chat", FAILOVER, "s1", timeout_s=0)
    assert carried_by(running) == {FAILOVER: "s1"}
