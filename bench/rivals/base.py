"""What the harness has to know about a server in order to start it and to name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Rival", "Store"]


@dataclass(frozen=True, slots=True)
class Store:
    """
    What a server keeps its rooms in, on the load's core: Redis, and what belongs to it.

    `commands` gives, for an empty directory and the first of some free ports, what to start;
    `addresses` where the servers listen, the first of them first.
    """

    commands: Callable[[Path, int], list[list[str]]]
    ports: int
    versions: Callable[[], dict[str, str]]

    def addresses(self, first_port: int) -> list[str]:
        """Give where the store's servers listen."""
        return [f"127.0.0.1:{first_port + number}" for number in range(self.ports)]


@dataclass(frozen=True, slots=True)
class Rival:
    """
    One server that speaks the events of `docs/wire.md` over Socket.IO.

    `command` gives, for a free port, what to start: on the server's core, in a process group and an
    empty directory of its own. `environment` gives what it needs to know: the secret that signs the
    tokens, and the addresses of its `store` (None: it keeps its rooms in the process).
    """

    key: str
    title: str
    note: str
    prepare: Callable[[], None]
    command: Callable[[int], list[str]]
    environment: Callable[[str, list[str]], dict[str, str]]
    versions: Callable[[], dict[str, str]]
    store: Store | None = None
