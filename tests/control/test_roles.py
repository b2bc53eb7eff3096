"""Roles of real servers: sealed at first, given by the controller, and found again by the next."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from control.driving import Driven
from control.servers import Fleet
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.spec import ClusterSpec
from roomful.control.view import Phase
from support.deadline import until

MakeFleet = Callable[..., Fleet]
Control = Callable[..., Driven]


def test_a_new_server_is_sealed(make_fleet: MakeFleet) -> None:
    """It takes no write from anyone, whatever it was before it started."""
    (server,) = make_fleet(shards=1, replicas=0).servers
    with pytest.raises(redis.exceptions.ReadOnlyError):
        server.command("SET", "key", "value")


async def test_a_primary_that_comes_back_is_sealed(make_fleet: MakeFleet, control: Control) -> None:
    """With its data, and without its role."""
    fleet = make_fleet(shards=1, replicas=0)
    await control(fleet).serve()
    (server,) = fleet.servers
    server.restart()
    assert server.command("HGET", "roomful:shard", "term") == b"1"
    with pytest.raises(redis.exceptions.ReadOnlyError):
        server.command("SET", "key", "value")


async def test_a_new_cluster_gets_its_roles(make_fleet: MakeFleet, control: Control) -> None:
    """Each shard has a primary with the library and its buckets; replicas follow it."""
    fleet = make_fleet(shards=2, replicas=1)
    driven = control(fleet, acks=1)
    status = await driven.serve()
    topology = status.topology
    assert topology is not None
    assert (topology.generation, topology.acks) == (1, 1)
    for name, record in topology.shards.items():
        first, second = fleet.shards[name]
        assert (record.primary, record.replicas) == (first.address, (second.address,))
        assert record.run_id == first.info()["run_id"]
        assert second.info()["master_link_status"] == "up"
        assert first.command("HMGET", "roomful:shard", "name", "term") == [name.encode(), b"1"]
        setting = first.command("CONFIG", "GET", "min-replicas-to-write")
        assert setting == {b"min-replicas-to-write": b"1"}
        for bucket, owner in enumerate(topology.buckets):
            if owner == name:
                assert first.command("GET", f"{{{bucket}}}b") == b"OWNED 1"
                break


async def test_a_cluster_that_is_as_it_should_be_is_left_alone(
    make_fleet: MakeFleet, control: Control
) -> None:
    """A pass over it writes nothing, neither of this controller nor of the next."""
    fleet = make_fleet(shards=1, replicas=1)
    driven = control(fleet, acks=1)
    await driven.serve()
    await driven.once()
    await driven.controller.aclose()
    again = control(fleet, acks=1)
    offset = fleet.servers[0].info()["master_repl_offset"]
    for _ in range(3):
        status = await again.once()
        assert status.is_serving
        assert status.topology is not None
        assert status.topology.generation == 1
    # Only the pings of the primary, which are 14 bytes each.
    after = fleet.servers[0].info()["master_repl_offset"]
    assert isinstance(after, int)
    assert isinstance(offset, int)
    assert (after - offset) % 14 == 0


async def test_a_cluster_waits_for_all_its_first_servers(
    make_fleet: MakeFleet, control: Control
) -> None:
    """And says for whom: it cannot know whether they hold a topology already."""
    fleet = make_fleet(shards=1, replicas=1)
    fleet.servers[1].stop()
    driven = control(fleet, acks=1)
    await driven.once()
    assert driven.shard().phase is Phase.STARTING
    assert str(fleet.servers[1].address) in driven.shard().reason
    fleet.servers[1].start()
    await driven.serve()


async def test_data_of_somebody_else_is_not_destroyed(
    make_fleet: MakeFleet, control: Control
) -> None:
    """A server that holds keys is no new shard's."""
    fleet = make_fleet(shards=1, replicas=1)
    strange = fleet.servers[1]
    strange.command("REPLICAOF", "NO", "ONE")
    strange.command("SET", "precious", "value")
    driven = control(fleet, acks=1)
    await driven.once()
    assert driven.shard().phase is Phase.BLOCKED
    assert f"{strange.address} holds data" in driven.shard().reason
    assert strange.command("GET", "precious") == b"value"


@pytest.mark.parametrize("replicas", [0, 1, 2])
async def test_everything_restarted_goes_on_with_its_data(
    make_fleet: MakeFleet, control: Control, replicas: int
) -> None:
    """A machine that was switched off and on: same data, next term, nothing to do by hand."""
    fleet = make_fleet(shards=2, replicas=replicas)
    acks = min(replicas, 1)
    driven = control(fleet, acks=acks)
    await driven.serve()
    for servers in fleet.shards.values():
        servers[0].command("SET", "kept", servers[0].directory.name)
        servers[0].command("WAIT", acks, 10_000)
    await driven.controller.aclose()
    for server in fleet.servers:
        server.stop()
    for server in fleet.servers:
        server.start()
    again = control(fleet, acks=acks)
    await again.until(lambda status: status.is_serving and again.record().term == 2)
    await again.until(lambda status: status.is_serving and again.record("s2").term == 2)
    for name in fleet.shards:
        primary = fleet.at(again.record(name).primary)
        assert primary.command("GET", "kept") == f"{name}-0".encode()
    assert again.controller.topology is not None
    assert again.controller.topology.acks == acks


async def test_a_replica_that_restarts_comes_back(make_fleet: MakeFleet, control: Control) -> None:
    """It starts sealed and is attached again; the shard's primary and term stay."""
    fleet = make_fleet(shards=1, replicas=1)
    driven = control(fleet, acks=1)
    await driven.serve()
    before = driven.record()
    fleet.servers[1].kill()
    await driven.until(lambda _: driven.shard().phase is Phase.DEGRADED)
    assert "0 of 1 replicas" in driven.shard().reason
    fleet.servers[1].start()
    await driven.serve()
    assert driven.record() == before


async def test_a_replica_that_follows_another_is_put_right(
    make_fleet: MakeFleet, control: Control
) -> None:
    """Whatever somebody ordered by hand."""
    fleet = make_fleet(shards=1, replicas=2)
    driven = control(fleet, acks=1)
    await driven.serve()
    _, one, other = fleet.servers
    one.command("REPLICAOF", other.address.host, other.address.port)
    other.command("REPLICAOF", "NO", "ONE")
    status = await driven.until(lambda _: len(driven.shard().online) == 2)
    assert status.is_serving
    assert driven.record().term == 1


async def test_the_topology_is_kept_by_all_shards(make_fleet: MakeFleet, control: Control) -> None:
    """A change of one shard is known to the other, so that edges may ask either."""
    fleet = make_fleet(shards=2, replicas=1)
    driven = control(fleet, acks=1)
    await driven.serve()
    fleet.shards["s2"][0].restart()
    await driven.until(lambda status: status.is_serving and driven.record("s2").term == 2)
    await driven.once()
    assert driven.controller.topology is not None
    generation = str(driven.controller.topology.generation).encode()
    for name in fleet.shards:
        primary = fleet.at(driven.record(name).primary)
        assert primary.command("HGET", "roomful:topology", "generation") == generation


async def test_a_command_that_takes_the_lead_makes_nobody_suspect(
    make_fleet: MakeFleet, control: Control
) -> None:
    """Its controller closes the other one's connections: the servers are there all the same."""
    fleet = make_fleet(shards=2, replicas=1)
    driven, command = control(fleet, acks=1), control(fleet, acks=1, insists=True)
    await driven.until(lambda _: bool(driven.controller.status.shards) and driven.shard().is_whole)
    assert (await command.once()).is_leading
    status = await driven.once()
    assert (status.is_leading, status.unreachable) == (False, {})
    await command.controller.aclose()
    assert (await driven.serve()).unreachable == {}


async def test_a_server_that_speaks_something_else_is_told_of(
    make_fleet: MakeFleet, control: Control
) -> None:
    """Nobody listening is a sentence in the status, not a crash."""
    fleet = make_fleet(shards=1, replicas=0)
    fleet.servers[0].address = Address("127.0.0.1", 1)
    driven = control(fleet)
    status = await driven.once()
    assert status.unreachable.keys() == {Address("127.0.0.1", 1)}
    assert driven.shard().phase is Phase.STARTING


@pytest.mark.parametrize(
    ("host", "why"),
    [
        pytest.param("a" * 64, "no host can have this name", id="no name"),
        pytest.param("fe80::1%nowhere", "not known", id="not found"),
    ],
)
async def test_a_name_that_leads_nowhere_hurts_its_shard_only(
    make_fleet: MakeFleet, control: Control, host: str, why: str
) -> None:
    """It is told which server it is and why; another shard that loses its primary gets the next."""
    fleet = make_fleet(shards=1, replicas=1)
    driven = control(fleet, acks=0)
    await driven.until(lambda status: status.is_serving and driven.shard().is_whole)
    nowhere = Address(host, 6379)
    shards = {**driven.controller.spec.shards, ShardName("s2"): (nowhere,)}
    driven.controller.spec = ClusterSpec(shards)
    fleet.servers[0].kill()
    await driven.until(lambda _: driven.shard().phase is Phase.SERVING and driven.shard().term == 2)
    assert driven.shard("s2").phase is Phase.STARTING
    told = driven.controller.status.unreachable[nowhere]
    assert why in told
    assert driven.shard("s2").reason == f"waits for {nowhere} ({told})"


async def test_functions_that_were_flushed_are_loaded_again(
    make_fleet: MakeFleet, control: Control
) -> None:
    """Somebody cleared a primary's functions: it is the same process, and serves as before."""
    fleet = make_fleet(shards=1, replicas=1)
    driven = control(fleet, acks=1)
    await driven.serve()
    await driven.once()
    primary, replica = fleet.servers
    primary.command("FUNCTION", "FLUSH")
    await driven.once()
    assert primary.command("FCALL_RO", "roomful_v1_buckets", 1, "{0}b") == [b"OWNED 1"]
    await until(lambda: replica.command("FUNCTION", "LIST") != [])
    assert driven.record().term == 1


async def test_a_controller_that_waits_outlives_a_server_that_answers_with_rubbish(
    make_fleet: MakeFleet, control: Control
) -> None:
    """Else there would be none when the one that leads is gone."""
    fleet = make_fleet(shards=1, replicas=0)
    leading, waiting = control(fleet), control(fleet)
    await leading.serve()
    fleet.servers[0].command("HSET", "roomful:topology", "generation", 9, "document", "rubbish")
    assert not (await waiting.once()).is_leading
    assert (await leading.once()).is_leading
    fleet.servers[0].command("RENAME", "roomful:topology", "rubbish")
    fleet.servers[0].command("SET", "roomful:topology", "rubbish")
    assert not (await waiting.once()).is_leading
    assert (await leading.once()).is_leading
