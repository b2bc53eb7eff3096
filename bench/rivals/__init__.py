"""The servers that can be compared; a new one is one module here and one line below."""

from bench.rivals.base import Rival
from bench.rivals.roomful import ROOMFUL
from bench.rivals.socketio_ws import SOCKETIO

__all__ = ["RIVALS", "ROOMFUL", "Rival"]

RIVALS = {rival.key: rival for rival in (SOCKETIO,)}
