"""Where servers that share rooms keep them: a Redis, or a shard of Roomful's with a replica."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.rivals.base import Store

__all__ = ["REDIS", "SHARD", "prepare_redis"]

_ROOMFUL = Path(sys.executable).parent / "roomful"


def prepare_redis() -> None:
    """
    See to it that there is a redis-server.

    Raises:
        FileNotFoundError: saying what to install.
    """
    if shutil.which("redis-server") is None:
        raise FileNotFoundError("redis-server is missing (Debian: apt-get install redis-server)")


def _redis(directory: Path, port: int) -> list[list[str]]:
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    return [["redis-server", *options]]


def _shard(directory: Path, port: int) -> list[list[str]]:
    shape = ["--edges", "0", "--shards", "1", "--replicas", "1"]
    place = ["--shard-port", str(port), "--state-dir", str(directory / "cluster")]
    return [[str(_ROOMFUL), "cluster", *shape, *place]]


def _versions() -> dict[str, str]:
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    words = dict(word.split("=", 1) for word in said.stdout.split() if "=" in word)
    return {"Redis": words["v"]}


REDIS = Store(_redis, 1, _versions)
"""One Redis as a message broker: nothing is kept."""

SHARD = Store(_shard, 2, _versions)
"""One shard as `roomful cluster` runs it: a primary, a replica, append-only files, a controller."""
