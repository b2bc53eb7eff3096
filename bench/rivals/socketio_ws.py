"""socket.io from npm with its default engine (ws): in memory, and with its Redis adapter."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.rivals.base import Rival
from bench.rivals.stores import REDIS, prepare_redis

__all__ = ["SOCKETIO", "SOCKETIO_REDIS"]

_DIRECTORY = Path(__file__).resolve().parent / "socketio"
_PACKAGES = ("socket.io", "engine.io", "ws", "socket.io-adapter", "jsonwebtoken")
_REDIS_PACKAGES = ("@socket.io/redis-adapter", "redis")


def _prepare() -> None:
    installed = _DIRECTORY / "node_modules" / ".package-lock.json"
    lock = _DIRECTORY / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--silent"], cwd=_DIRECTORY, check=True)


def _command(port: int) -> list[str]:
    return ["node", str(_DIRECTORY / "server.js"), "--port", str(port)]


def _environment(secret: str, store: list[str]) -> dict[str, str]:
    redis = {"REDIS_URL": f"redis://{store[0]}"} if store else {}
    return {"AUTH_SECRET": secret, "NODE_ENV": "production", **redis}


def _versions_of(names: tuple[str, ...]) -> dict[str, str]:
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    packages = json.loads((_DIRECTORY / "package-lock.json").read_text())["packages"]
    return {"Node": node.stdout.strip().removeprefix("v")} | {
        name: packages[f"node_modules/{name}"]["version"] for name in names
    }


def _versions() -> dict[str, str]:
    return _versions_of(_PACKAGES)


def _versions_with_redis() -> dict[str, str]:
    return _versions_of(_PACKAGES + _REDIS_PACKAGES)


def _prepare_with_redis() -> None:
    _prepare()
    prepare_redis()


SOCKETIO = Rival(
    key="socketio",
    title="socket.io",
    note="[`server.js`](../bench/rivals/socketio/server.js): the default engine (ws) and the "
    "in-memory adapter, no compression (its default), `NODE_ENV=production`",
    prepare=_prepare,
    command=_command,
    environment=_environment,
    versions=_versions,
)

SOCKETIO_REDIS = Rival(
    key="socketio-redis",
    title="socket.io, Redis adapter",
    note="the same server with `@socket.io/redis-adapter` on one Redis: what goes to a room goes "
    "to every server through Redis, and is stored nowhere; its ack says that it was handed over",
    prepare=_prepare_with_redis,
    command=_command,
    environment=_environment,
    versions=_versions_with_redis,
    store=REDIS,
)
