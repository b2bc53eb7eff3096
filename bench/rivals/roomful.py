"""Roomful as `roomful serve` starts it: one process, the shard in the process."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.rivals.base import Rival

__all__ = ["ROOMFUL"]

_PROGRAM = Path(sys.executable).parent / "roomful"
_PACKAGES = ("roomful", "uvicorn", "uvloop", "httptools", "picows", "msgspec", "PyJWT")

# One sender stands for many in load a: it comes near the default limit of 2,500 messages/s.
_LIMITS = {
    "ROOMFUL_LIMITS_MESSAGES_PER_SECOND": "1000000",
    "ROOMFUL_LIMITS_USER_MESSAGES_PER_SECOND": "1000000",
}


def _prepare() -> None:
    if not _PROGRAM.exists():
        raise FileNotFoundError(f"{_PROGRAM}: install Roomful first (pip install -e .)")


def _commands(port: int) -> list[list[str]]:
    return [[str(_PROGRAM), "serve", "--port", str(port)]]


def _environment(secret: str) -> dict[str, str]:
    return {"ROOMFUL_AUTH_SECRET": secret, **_LIMITS}


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python} | {name: version(name) for name in _PACKAGES}


ROOMFUL = Rival(
    key="roomful",
    title="Roomful",
    note="`roomful serve` with its defaults, but for the rates that one connection and one user "
    "may send at: " + ", ".join(f"`{name}={value}`" for name, value in _LIMITS.items()),
    prepare=_prepare,
    commands=_commands,
    environment=_environment,
    versions=_versions,
)
