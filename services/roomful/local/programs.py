"""
The servers that this machine has: Redis from 7.0 or Valkey from 8 on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from roomful.local.layout import BadCluster

__all__ = ["find_server_program"]

OLDEST: Final = {"redis": (7, 0), "valkey": (8, 0)}
INSTALL: Final = (
    "install one (Debian, Ubuntu: apt install redis-server; Fedora: dnf install valkey; "
    "macOS: brew install redis), or say where it is: --redis-server PATH"
)


def find_server_program(given: str | None) -> str:
    """
    Give the path of redis-server or valkey-server; *given* if it is one.

    Raises:
        BadCluster: there is none, or it is too old; the words say what to install.
    """
    candidates = [given] if given else ["redis-server", "valkey-server"]
    for name in candidates:
        if path := shutil.which(name):
            return _checked(path)
    if given:
        raise BadCluster(f"{given} is no program; {INSTALL}")
    raise BadCluster(f"shards need redis-server or valkey-server, and neither is here: {INSTALL}")


def _checked(path: str) -> str:
    # Redis server v=7.0.15 sha=...; Valkey server v=8.1.1 sha=...
    try:
        said = subprocess.run(  # noqa: S603 - the program that the user named
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BadCluster(f"{path} does not run: {exc}") from exc
    match = re.match(r"(redis|valkey) server v=(\d+)\.(\d+)", said, re.IGNORECASE)
    if match is None:
        raise BadCluster(f"{path} is neither redis-server nor valkey-server; {INSTALL}")
    product, version = match[1].lower(), (int(match[2]), int(match[3]))
    if version < OLDEST[product]:
        needed = ".".join(map(str, OLDEST[product]))
        raise BadCluster(
            f"{Path(path).name} is {version[0]}.{version[1]}, and {needed} is needed; {INSTALL}"
        )
    return path
