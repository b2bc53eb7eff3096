"""A primary is lost: real servers, and what the controller makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from control.driving import Driven
from control.servers import Fleet
from roomful.cluster.cursor import ShardName
from roomful.cluster.shard_facts import Wish
from roomful.control.view import Phase
from roomful.control.waits import Change, Listener

MakeFleet = Callable[..., Fleet]
Control = Callable[..., Driven]
S1 = ShardName("s1")


@pytest.mark.parametrize(("replicas", "acks"), [(1, 0), (1, 1), (2, 1), (2, 2)])
async def test_a_lost_primary_is_replaced_and_comes_back_as_a_replica(
    make_fleet: MakeFleet, control: Control, replicas: int, acks: int
) -> None:
    """With the next term and everything that was acknowledged; also where nothing is promised."""
    fleet = make_fleet(shards=1, replicas=replicas)
    driven = control(fleet, acks=acks)
    await driven.serve()
    first = fleet.servers[0]
    first.store("kept", "value")
    # All: without acks by replicas nothing is promised, and yet what is there is not thrown away.
    first.command("WAIT", replicas, 10_000)
    first.kill()
    if acks == replicas:
        # Every server but one is needed for an ack: nothing is acknowledged until it is back.
        status = await driven.until(lambda _: driven.record().term == 2 or _is_stuck(driven))
        first.start()
    status = await driven.until(lambda status: status.is_serving and driven.record().term == 2)
    assert driven.record().primary != first.address
    assert status.topology is not None
    assert fleet.at(driven.record().primary).command("GET", "kept") == b"value"
    if acks < replicas:
        first.start()
    await driven.until(lambda _: driven.shard().is_whole)
    assert first.address in driven.shard().online


def _is_stuck(driven: Driven) -> bool:
    return "follow it" in driven.shard().reason


async def test_a_promotion_that_nobody_heard_of_does_not_win_later(
    make_fleet: MakeFleet, control: Control
) -> None:
    """
    Its term is newer, and it lacks what the recorded primary acknowledged since.

    A controller promoted it and died, and the primary had only been cut off and went on.
    """
    fleet = make_fleet(shards=1, replicas=2)
    driven = control(fleet, acks=1)
    await driven.until(lambda _: driven.shard().is_whole)
    primary, unheard, other = fleet.servers
    unheard.command("REPLICAOF", "NO", "ONE")
    unheard.command("FCALL", "roomful_v1_take_term", 0, "s1", 2)
    unheard.pause()
    primary.store("kept", "value")
    assert primary.command("WAIT", 1, 10_000) == 1
    primary.kill()
    unheard.resume()
    await driven.until(lambda status: status.is_serving and driven.record().term > 1)
    assert driven.record().primary == other.address
    assert driven.record().term == 3
    assert other.command("GET", "kept") == b"value"
    await driven.until(lambda _: unheard.address in driven.shard().online)
    assert unheard.command("GET", "kept") == b"value"


async def test_without_a_quorum_the_shard_is_blocked_until_someone_comes_or_forces_it(
    make_fleet: MakeFleet, control: Control
) -> None:
    """The missing replica may have the only copy of what was acknowledged: the words name it."""
    fleet = make_fleet(shards=1, replicas=2)
    driven = control(fleet, acks=1)
    await driven.until(lambda _: driven.shard().is_whole)
    primary, missing, left = fleet.servers
    missing.kill()
    primary.kill()
    await driven.until(lambda _: driven.shard().phase is Phase.BLOCKED)
    assert str(missing.address) in driven.shard().reason
    assert "promote --force" in driven.shard().reason
    assert driven.record().term == 1
    driven.controller.wishes[S1] = Wish(force=True)
    await driven.until(lambda _: fleet.at(left.address).info()["role"] == "master")
    missing.start()
    await driven.until(lambda status: status.is_serving and driven.record().term == 2)
    assert driven.record().primary == left.address


@pytest.mark.parametrize("how", ["flushed", "lost"])
async def test_a_shard_whose_data_is_nowhere_begins_anew_by_force_only(
    make_fleet: MakeFleet, control: Control, how: str
) -> None:
    """Not while a server is missing, which may have it; what clients had heard is a hole."""
    fleet = make_fleet(shards=2, replicas=1)
    driven = control(fleet, acks=1)
    await driven.until(lambda _: driven.shard().is_whole)
    first, second = fleet.shards["s1"]
    if how == "flushed":
        # Killed before it has heard of that, the replica would have everything in its file.
        assert first.on_one_connection(("FLUSHALL",), ("WAIT", 1, 10_000))[1] == 1
        second.kill()
    else:
        for server in (first, second):
            server.kill()
            shutil.rmtree(server.directory)
        first.start()
    driven.controller.wishes[S1] = Wish(force=True)
    await driven.until(lambda _: driven.shard().phase is Phase.BLOCKED)
    del driven.controller.wishes[S1]
    second.start()
    await driven.until(lambda _: "promote --force s1" in driven.shard().reason)
    assert (driven.shard().phase, driven.record().term) == (Phase.BLOCKED, 1)

    driven.controller.wishes[S1] = Wish(force=True)
    await driven.until(lambda status: status.is_serving and driven.record().term == 2)
    primary = fleet.at(driven.record().primary)
    assert primary.command("HGETALL", "roomful:terms") == {str(2 << 40).encode(): b"0"}
    topology = driven.controller.topology
    assert topology is not None
    buckets = [f"{{{bucket}}}b" for bucket in topology.buckets_of(S1)]
    records = primary.command("MGET", *buckets)
    assert isinstance(records, list)
    assert set(records) == {b"OWNED 1"}


async def test_a_role_is_handed_over_without_a_loss(
    make_fleet: MakeFleet, control: Control
) -> None:
    """The primary pauses, gives everything, and is a replica from then on; the term is new."""
    fleet = make_fleet(shards=1, replicas=1)
    driven = control(fleet, acks=1)
    await driven.serve()
    first, second = fleet.servers
    first.store("kept", "value")
    await driven.controller.hand_over(S1, second.address)
    await driven.until(lambda status: status.is_serving and driven.record().term == 2)
    assert driven.record().primary == second.address
    assert second.command("GET", "kept") == b"value"
    await driven.until(lambda _: driven.shard().is_whole)
    assert driven.shard().online == (first.address,)


async def test_how_long_each_change_took_is_told_once(
    make_fleet: MakeFleet, control: Control
) -> None:
    """A hand-over, and a failover: that one takes as long as a silent primary is waited for."""
    heard: list[tuple[Change, float]] = []
    listener = Listener(lambda change, took_s: heard.append((change, took_s)))
    fleet = make_fleet(shards=1, replicas=2)
    driven = control(fleet, acks=1, listener=listener)
    await driven.until(lambda _: driven.shard().is_whole)
    assert heard == []
    await driven.controller.hand_over(S1, fleet.servers[1].address)
    await driven.until(lambda status: status.is_serving and driven.record().term == 2)
    await driven.until(lambda _: driven.shard().is_whole)
    fleet.at(driven.record().primary).kill()
    await driven.until(lambda status: status.is_serving and driven.record().term == 3)
    assert [change for change, _ in heard] == [Change.HAND_OVER, Change.FAILOVER]
    assert heard[1][1] >= driven.controller.pace.fail_after_s
