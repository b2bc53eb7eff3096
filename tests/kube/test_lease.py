"""One of several operators is at work, and another one when it is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from kube.api_server import ApiServer, running_api_server
from roomful_operator.api import KubernetesApi
from roomful_operator.lease import DEADLINE_S, LEASE_S, Election, LeaseClock

LEASE = "/apis/coordination.k8s.io/v1/namespaces/rooms/leases/chat-operator"


@dataclass
class Candidates:
    """Two operators with clocks of their own, and the API server between them."""

    server: ApiServer
    times: list[float]
    first: Election
    second: Election


@pytest.fixture
async def candidates() -> AsyncIterator[Candidates]:
    """Give two operators that have not tried yet."""
    async with running_api_server() as (server, configuration):
        times = [1000.0, 50.0]
        api = KubernetesApi(configuration)

        def candidate(number: int) -> Election:
            clock = LeaseClock(lambda: times[number])
            where = {"namespace": "rooms", "name": "chat-operator"}
            return Election(api, **where, identity=f"pod-{number}", clock=clock)

        yield Candidates(server, times, candidate(0), candidate(1))
        await api.aclose()


async def test_who_comes_first_is_at_work(candidates: Candidates) -> None:
    """The other one waits, and says so of itself."""
    await candidates.first.attempt()
    await candidates.second.attempt()
    assert (candidates.first.is_held, candidates.second.is_held) == (True, False)


async def test_a_renewed_lease_is_never_taken(candidates: Candidates) -> None:
    """As long as it changes, nobody else takes it, however much time goes by."""
    for _ in range(10):
        await candidates.first.attempt()
        await candidates.second.attempt()
        candidates.times[0] += DEADLINE_S / 2
        candidates.times[1] += LEASE_S * 2
        assert not candidates.second.is_held
    assert candidates.server.objects[LEASE]["spec"]["leaseTransitions"] == 1


async def test_a_lease_that_does_not_change_is_taken(candidates: Candidates) -> None:
    """After LEASE_S by the clock of who waits; the times in the Lease are not compared."""
    await candidates.first.attempt()
    await candidates.second.attempt()
    candidates.times[1] += LEASE_S - 0.1
    await candidates.second.attempt()
    assert not candidates.second.is_held
    candidates.times[1] += 0.2
    await candidates.second.attempt()
    assert candidates.second.is_held
    assert candidates.server.objects[LEASE]["spec"]["holderIdentity"] == "pod-1"


async def test_who_cannot_renew_stops_before_another_begins(candidates: Candidates) -> None:
    """The holder gives up by itself after DEADLINE_S, before anyone else may take the Lease."""
    await candidates.first.attempt()
    candidates.server.is_away = True
    candidates.times[0] += DEADLINE_S - 0.1
    await candidates.first.attempt()
    assert candidates.first.is_held
    candidates.times[0] += 0.2
    assert not candidates.first.is_held
    assert DEADLINE_S < LEASE_S


async def test_who_lost_it_meanwhile_sees_it(candidates: Candidates) -> None:
    """An operator that slept finds another one's name, and stops."""
    await candidates.first.attempt()
    await candidates.second.attempt()
    candidates.times[1] += LEASE_S
    await candidates.second.attempt()
    await candidates.first.attempt()
    assert (candidates.first.is_held, candidates.second.is_held) == (False, True)


async def test_who_stops_gives_it_back(candidates: Candidates) -> None:
    """The next one need not wait for its end."""
    await candidates.first.attempt()
    await candidates.first.release()
    assert not candidates.first.is_held
    await candidates.second.attempt()
    assert candidates.second.is_held
