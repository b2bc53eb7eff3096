"""Finding the other edges of a cluster by their names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from roomful.edge.peers import About, Address, Peers
from support.deadline import within


class Young:
    """A directory in which the other edge is only from the second reading on."""

    # Mutable state: how often it was read.
    def __init__(self) -> None:
        self.readings = 0

    async def edges(self) -> Iterable[About]:
        """Give the edges that are there now."""
        self.readings += 1
        return [About("beef", "127.0.0.1:7")] if self.readings > 1 else []


async def test_an_edge_that_came_a_moment_ago_is_found() -> None:
    """Its first clients may be quicker than the pause between two readings."""
    peers, directory = Peers("cafe"), Young()
    peers.directory = directory
    assert await within(peers.find("beef")) is None
    assert await within(peers.find("beef")) == Address("127.0.0.1", 7)


async def test_names_that_nobody_has_cost_one_reading_together() -> None:
    """However many are made up: they wait for it, and are refused then."""
    peers, directory = Peers("cafe"), Young()
    peers.directory = directory
    await within(peers.find("beef"))
    found = await within(asyncio.gather(*(peers.find(f"{number:04x}") for number in range(100))))
    assert found == [None] * 100
    assert directory.readings == 2
