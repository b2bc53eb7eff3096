"""python-socketio on uvicorn, with its Redis manager."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.rivals.base import Rival
from bench.rivals.stores import REDIS, prepare_redis

__all__ = ["PYTHON_SOCKETIO"]

_SERVER = Path(__file__).resolve().parent / "python_socketio_server.py"
_PACKAGES = ("python-socketio", "python-engineio", "uvicorn", "uvloop", "websockets", "redis")


def _command(port: int) -> list[str]:
    return [sys.executable, str(_SERVER), "--port", str(port)]


def _environment(secret: str, store: list[str]) -> dict[str, str]:
    return {"AUTH_SECRET": secret, "REDIS_URL": f"redis://{store[0]}"}


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python} | {name: version(name) for name in _PACKAGES}


PYTHON_SOCKETIO = Rival(
    key="python-socketio",
    title="python-socketio, Redis manager",
    note="[`python_socketio_server.py`](../bench/rivals/python_socketio_server.py) on uvicorn with "
    "uvloop and its `AsyncRedisManager` on one Redis; its ack says that it was handed over",
    prepare=prepare_redis,
    command=_command,
    environment=_environment,
    versions=_versions,
    store=REDIS,
)
