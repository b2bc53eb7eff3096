"""A controller killed after each of its orders in a failover: the next one goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import redis

from control.driving import Driven
from control.servers import Fleet, SealedServer
from roomful.cluster import failover
from roomful.cluster.topology import ShardRecord
from roomful.control.server import Server
from support.deadline import DEADLINE_S

MakeFleet = Callable[..., Fleet]
Control = Callable[..., Driven]


class Killed(BaseException):
    """What ends a controller: nothing catches it."""


class Mortal:
    """What kills a controller after its *number*th order, which is carried out."""

    # Mutable state: the orders that are left.
    def __init__(self, number: int) -> None:
        self.left = number
        self._order = Server._order

    async def order(self, server: Server, *words: str | int | bytes) -> Any:
        """Take the place of a server's orders."""
        if self.left == 0:
            raise Killed
        self.left -= 1
        return await self._order(server, *words)


async def lead_until_killed(driven: Driven, term: int) -> bool:
    """Whether the controller comes to serve *term* before it is killed."""
    try:
        await driven.until(lambda status: status.is_serving and driven.record().term == term)
    except Killed:
        return False
    except BaseExceptionGroup as group:
        if group.subgroup(Killed) is None:
            raise
        return False
    finally:
        await driven.controller.aclose()
    return True


def cut_off(server: SealedServer) -> None:
    """Let a primary answer no replicas and no new controllers, and go on for everyone else."""
    server.command("ACL", "SETUSER", "replica", "-psync")
    server.command("ACL", "SETUSER", "controller", "-info")
    server.command("CLIENT", "KILL", "TYPE", "replica")


def write(server: SealedServer, key: str, patience_s: float = 0.0, *, replicas: int = 1) -> bool:
    """Whether *key* is written and *replicas* have it, as an edge would acknowledge it."""
    end = time.monotonic() + patience_s
    while True:
        try:
            _, having = server.on_one_connection(("SET", key, "value"), ("WAIT", replicas, 100))
            if isinstance(having, int) and having >= replicas:
                return True
        except redis.RedisError:
            pass  # it is a replica by now, or wants more replicas than it has
        if time.monotonic() > end:
            return False


@pytest.mark.parametrize("is_back", [True, False], ids=["cut off", "dead"])
async def test_killed_after_any_order_it_loses_nothing(
    make_fleet: MakeFleet, control: Control, monkeypatch: pytest.MonkeyPatch, *, is_back: bool
) -> None:
    """
    The old primary is dead, or was only cut off and goes on when the controller is killed.

    Whoever serves afterwards has all that any of them acknowledged, and the rest follow it.
    """
    fleet = make_fleet(shards=1, replicas=2)
    driven = control(fleet, acks=1)
    await driven.serve()
    acked: list[str] = []
    for number in count():
        await driven.until(lambda _: driven.shard().is_whole)  # noqa: B023
        old = driven.record()
        primary = fleet.at(old.primary)
        acked.append(f"before {number}")
        assert write(primary, acked[-1], DEADLINE_S)
        await driven.controller.aclose()
        cut_off(primary) if is_back else primary.kill()
        with monkeypatch.context() as patched:
            mortal = Mortal(number)

            async def order(server: Server, *words: str | int | bytes) -> Any:
                return await mortal.order(server, *words)  # noqa: B023

            patched.setattr(Server, "_order", order)
            is_over = await lead_until_killed(control(fleet, acks=1), old.term + 1)
        if is_back:
            # But SYNC, which a replica tries next: with it, it would never confirm anything.
            primary.command("ACL", "SETUSER", "replica", "+psync")
            primary.command("ACL", "SETUSER", "controller", "+info")
            servers = [fleet.at(one) for one in old.replicas]
            listens = any(one.info().get("master_port") == old.primary.port for one in servers)
            if write(primary, f"after {number}", DEADLINE_S if listens and not is_over else 0.0):
                acked.append(f"after {number}")
        driven = control(fleet, acks=1)
        status = await driven.until(lambda status: status.is_serving)
        if not is_back:
            primary.start()
        assert status.topology is not None
        now = fleet.at(driven.record().primary)
        assert [key for key in acked if now.command("GET", key) is None] == []
        if is_over:
            break
    assert number > 8


async def lost_between_two_halves(fleet: Fleet, control: Control) -> list[str]:
    """
    Cut a primary and one replica of three off from the controller, and give what is lost by it.

    They acknowledge meanwhile as edges see it. Two replicas are one too few to be sure of all.
    """
    driven = control(fleet, acks=1)
    await driven.until(lambda status: status.is_serving and driven.shard().is_whole)
    old = driven.record()
    primary, (near, *others) = fleet.at(old.primary), [fleet.at(one) for one in old.replicas]
    assert write(primary, "before", DEADLINE_S, replicas=3)
    primary.command("ACL", "SETUSER", "replica", "-psync")
    for server in (primary, near):
        server.command("ACL", "SETUSER", "controller", "-info")
    for server in others:
        server.command("CLIENT", "KILL", "TYPE", "master")
    # One that tries to reach the primary just now is taken for one that copies, and counts later.
    await driven.until(
        lambda _: "2 of 3 replicas" in driven.shard().reason or driven.record().term > old.term
    )
    assert write(primary, "cut off", DEADLINE_S)

    primary.command("ACL", "SETUSER", "replica", "+psync")
    for server in (primary, near):
        server.command("ACL", "SETUSER", "controller", "+info")
    await driven.until(lambda status: status.is_serving and driven.shard().is_whole)
    now = fleet.at(driven.record().primary)
    return [key for key in ("before", "cut off") if now.command("GET", key) is None]


async def test_what_is_acknowledged_on_the_other_side_of_a_partition_is_not_lost(
    make_fleet: MakeFleet, control: Control
) -> None:
    """With fewer than R > N - W replicas that have stopped listening nobody is promoted."""
    assert await lost_between_two_halves(make_fleet(shards=1, replicas=3), control) == []


async def test_with_one_replica_less_fenced_the_same_check_finds_the_loss(
    make_fleet: MakeFleet, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard broken on purpose: R = N - W."""

    def too_few(record: ShardRecord, acks: int) -> int:
        return len(record.replicas) - acks

    monkeypatch.setattr(failover, "quorum", too_few)
    assert await lost_between_two_halves(make_fleet(shards=1, replicas=3), control) == ["cut off"]
