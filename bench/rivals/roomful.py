"""Roomful as `roomful serve` starts it: with its rooms in the process, or on a shard."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.rivals.base import Rival
from bench.rivals.stores import SHARD, prepare_redis

__all__ = ["ROOMFUL", "ROOMFUL_REDIS"]

_PROGRAM = Path(sys.executable).parent / "roomful"
_PACKAGES = ("roomful", "uvicorn", "uvloop", "httptools", "picows", "msgspec", "PyJWT")

# One sender stands for many in load a: it comes near the default limit of 2,500 messages/s.
_LIMITS = {
    "ROOMFUL_LIMITS_MESSAGES_PER_SECOND": "1000000",
    "ROOMFUL_LIMITS_USER_MESSAGES_PER_SECOND": "1000000",
}


def _prepare_with_redis() -> None:
    _prepare()
    prepare_redis()


def _prepare() -> None:
    if not _PROGRAM.exists():
        raise FileNotFoundError(f"{_PROGRAM}: install Roomful first (pip install -e .)")


def _command(port: int) -> list[str]:
    return [str(_PROGRAM), "serve", "--port", str(port)]


def _environment(secret: str, store: list[str]) -> dict[str, str]:
    shards = {"ROOMFUL_SHARDS": ",".join(f"redis://{one}" for one in store)} if store else {}
    return {"ROOMFUL_AUTH_SECRET": secret, **_LIMITS, **shards}


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"Python": python} | {name: version(name) for name in _PACKAGES}


ROOMFUL = Rival(
    key="roomful",
    title="Roomful",
    note="`roomful serve` with its defaults, but for the rates that one connection and one user "
    "may send at: " + ", ".join(f"`{name}={value}`" for name, value in _LIMITS.items()),
    prepare=_prepare,
    command=_command,
    environment=_environment,
    versions=_versions,
)

ROOMFUL_REDIS = Rival(
    key="roomful-redis",
    title="Roomful on Redis",
    note="`roomful serve` with `ROOMFUL_SHARDS`, on one shard with one replica (`roomful cluster "
    "--edges 0 --shards 1 --replicas 1`): an ack says that the message is stored on both; the "
    "same limits as above",
    prepare=_prepare_with_redis,
    command=_command,
    environment=_environment,
    versions=_versions,
    store=SHARD,
)
