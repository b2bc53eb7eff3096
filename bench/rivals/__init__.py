"""The servers that can be compared; a new one is one module here and one line below."""

from collections.abc import Sequence

from bench.rivals.base import Rival, Store
from bench.rivals.floor import FLOOR
from bench.rivals.python_socketio import PYTHON_SOCKETIO
from bench.rivals.roomful import ROOMFUL, ROOMFUL_REDIS
from bench.rivals.socketio_ws import SOCKETIO, SOCKETIO_REDIS

__all__ = ["COMPARABLE", "OWN", "RIVALS", "ROOMFUL", "ROOMFUL_REDIS", "Rival", "Store", "rivals_of"]

RIVALS = {rival.key: rival for rival in (SOCKETIO, SOCKETIO_REDIS, PYTHON_SOCKETIO)}
"""What Roomful is compared with."""

COMPARABLE = {**RIVALS, FLOOR.key: FLOOR}
"""What it can be compared with: also what is not a server that anybody could use."""

OWN = {False: ROOMFUL, True: ROOMFUL_REDIS}
"""Roomful, by whether its rooms are shared through Redis."""


def rivals_of(rivals: Sequence[Rival], *, is_shared: bool) -> list[Rival]:
    """Give those of *rivals* that share rooms through Redis, or those that do not."""
    return [rival for rival in rivals if (rival.store is not None) == is_shared]
