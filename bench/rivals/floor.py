"""The floor: what any server on picows and uvloop costs, whatever it checks and stores."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.rivals.base import Rival

__all__ = ["FLOOR"]

_SERVER = Path(__file__).resolve().parent / "floor_server.py"
_PACKAGES = ("picows", "uvloop")


def _command(port: int) -> list[str]:
    return [sys.executable, str(_SERVER), "--port", str(port)]


def _environment(_secret: str, _store: list[str]) -> dict[str, str]:
    return {}


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python} | {name: version(name) for name in _PACKAGES}


FLOOR = Rival(
    key="floor",
    title="the floor",
    note="[`floor_server.py`](../bench/rivals/floor_server.py), no rival: picows on uvloop, which "
    "sends each message on as it came and acks it, and checks and stores nothing",
    prepare=lambda: None,
    command=_command,
    environment=_environment,
    versions=_versions,
)
