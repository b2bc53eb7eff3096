"""What the harness has to know about a server in order to start it and to name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Rival"]


@dataclass(frozen=True, slots=True)
class Rival:
    """
    One server that speaks the events of `docs/wire.md` over Socket.IO.

    `commands` gives, for a free port, the commands to start in this order; the last one is the
    server and listens on that port, those before it are what it needs (a Redis, say). All run on
    the server's core, in one process group, in an empty directory of their own. `environment`
    gives what they need to know of the secret that signs the tokens.
    """

    key: str
    title: str
    note: str
    prepare: Callable[[], None]
    commands: Callable[[int], list[list[str]]]
    environment: Callable[[str], dict[str, str]]
    versions: Callable[[], dict[str, str]]
