"""socket.io from npm with its default engine (ws) and its in-memory adapter."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.rivals.base import Rival

__all__ = ["SOCKETIO"]

_DIRECTORY = Path(__file__).resolve().parent / "socketio"
_PACKAGES = ("socket.io", "engine.io", "ws", "socket.io-adapter", "jsonwebtoken")


def _prepare() -> None:
    installed = _DIRECTORY / "node_modules" / ".package-lock.json"
    lock = _DIRECTORY / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--silent"], cwd=_DIRECTORY, check=True)


def _commands(port: int) -> list[list[str]]:
    return [["node", str(_DIRECTORY / "server.js"), "--port", str(port)]]


def _environment(secret: str) -> dict[str, str]:
    return {"AUTH_SECRET": secret, "NODE_ENV": "production"}


def _versions() -> dict[str, str]:
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    packages = json.loads((_DIRECTORY / "package-lock.json").read_text())["packages"]
    return {"Node": node.stdout.strip().removeprefix("v")} | {
        name: packages[f"node_modules/{name}"]["version"] for name in _PACKAGES
    }


SOCKETIO = Rival(
    key="socketio",
    title="socket.io",
    note="[`server.js`](../bench/rivals/socketio/server.js): the default engine (ws) and the "
    "in-memory adapter, no compression (its default), `NODE_ENV=production`",
    prepare=_prepare,
    commands=_commands,
    environment=_environment,
    versions=_versions,
)
