"""A port that is kept for a server to come."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from roomful.local.ports import HOST, hold_port, hold_ports, is_free


@pytest.fixture
def held() -> Iterator[list[socket.socket]]:
    """Three ports in a row."""
    with ExitStack() as stack:
        yield [stack.enter_context(one) for one in hold_ports(3)]


def port_of(one: socket.socket) -> int:
    """Give where *one* is bound."""
    port: int = one.getsockname()[1]
    return port


def test_ports_in_a_row_follow_each_other(held: list[socket.socket]) -> None:
    """The first one says them all."""
    first = port_of(held[0])

    assert [port_of(one) for one in held] == [first, first + 1, first + 2]


def test_nobody_else_gets_a_port_that_is_held(held: list[socket.socket]) -> None:
    """Not who asks for it, nor who asks for any row; who connects finds nobody."""
    with pytest.raises(OSError, match="in use"):
        hold_port(port_of(held[1]))
    with ExitStack() as stack:
        others = [stack.enter_context(one) for one in hold_ports(3)]
        assert {port_of(one) for one in others}.isdisjoint({port_of(one) for one in held})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port_of(held[0])), timeout=5)


def test_a_server_can_have_it_and_have_it_again(held: list[socket.socket]) -> None:
    """With its connections still in the system's memory, too; while it runs it is not free."""
    address = (HOST, port_of(held[0]))
    for _ in range(2):
        assert is_free(*address)
        with socket.create_server(address) as server:
            assert not is_free(*address)
            with socket.create_connection(address, timeout=5), server.accept()[0]:
                pass
