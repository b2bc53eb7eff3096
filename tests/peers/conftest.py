"""Three edges that know each other, for a whole module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.edges import listed_edges
from support.server import Server

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of a test, and where their directory is."""

    servers: list[Server]
    folder: Path


@pytest.fixture(scope="module")
def edge_settings() -> Mapping[str, str]:
    """`ROOMFUL_*` settings of the edges; a module that needs some overrides this."""
    return {}


@pytest.fixture(scope="module")
def edges(
    tmp_path_factory: pytest.TempPathFactory, edge_settings: Mapping[str, str]
) -> Iterator[Edges]:
    """Three running edges."""
    directory = tmp_path_factory.mktemp("edges")
    with listed_edges(directory, 3, edge_settings) as servers:
        yield Edges(servers, directory / "edges")


@pytest.fixture
def room() -> str:
    """A room that is this test's own."""
    return f"room-{next(_numbers)}"
