"""Orders and what confirms them belong to one connection: with it the lead is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from control.servers import Fleet, SealedServer
from roomful.control.link import ServerUnreachable
from roomful.control.server import NAME, Server
from support.deadline import DEADLINE_S
from support.users import CONTROLLER


@pytest.fixture
def sealed(make_fleet: Callable[..., Fleet]) -> SealedServer:
    """Start one server."""
    (server,) = make_fleet(shards=1, replicas=0).servers
    return server


@pytest.fixture
async def led(sealed: SealedServer) -> AsyncIterator[Server]:
    """Lead a server whose connection was lost, which somebody else has noticed."""
    server = Server(sealed.address, CONTROLLER, timeout_s=DEADLINE_S)
    await server.observe()
    assert server.is_lead
    sealed.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(ServerUnreachable):
        await server.outbox()
    yield server
    server.close()


async def test_an_order_never_goes_over_another_connection(
    led: Server, sealed: SealedServer
) -> None:
    """Who decided it may have slept since, and another controller has gone on."""
    with pytest.raises(ServerUnreachable, match="does not have the lead"):
        await led.promote()
    assert sealed.info()["role"] == "slave"
    await led.observe()
    await led.promote()
    assert sealed.info()["role"] == "master"


async def test_nothing_is_confirmed_over_another_connection(led: Server) -> None:
    """A server knows only of each connection what it has written: of a new one nothing."""
    with pytest.raises(ServerUnreachable, match="connection"):
        await led.wait(1, 0.1)


async def test_the_library_is_not_installed_without_the_lead(led: Server) -> None:
    """It would take the place of a newer one."""
    with pytest.raises(ServerUnreachable, match="does not have the lead"):
        await led.equip()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_who_ask_at_once_share_one_connection(led: Server, sealed: SealedServer) -> None:
    """A pass and a move under way, after a loss: a second one would be closed by nobody."""
    await asyncio.gather(led.observe(), led.info("server"), led.observe())
    clients = sealed.command("CLIENT", "LIST")
    assert str(clients).count(NAME) == 1
