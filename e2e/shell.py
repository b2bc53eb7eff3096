"""Programs that the end-to-end tests run: docker, kind, kubectl, helm, roomful."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["ROOT", "CommandFailed", "Shell", "eventually", "say"]

Found = TypeVar("Found")
ROOT = Path(__file__).resolve().parents[1]


class CommandFailed(AssertionError):
    """A program ended badly; the words are its own."""


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs programs with some environment."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *command: str, timeout_s: float = 120, stdin: str | None = None) -> str:
        """Give what a program prints; raises CommandFailed when it fails."""
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as exc:
            raise CommandFailed(f"{' '.join(command)}: took longer than {timeout_s:g} s") from exc
        if done.returncode:
            raise CommandFailed(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return done.stdout

    def start(self, *command: str, log: Path) -> subprocess.Popen[str]:
        """Start a program whose output is to be read later; its diagnostics go to *log*."""
        with log.open("w") as stderr:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def json(self, *command: str, timeout_s: float = 60) -> Any:
        """Give what a program prints as JSON."""
        return json.loads(self.run(*command, timeout_s=timeout_s))


def eventually(
    look: Callable[[], Found], what: str, *, timeout_s: float = 60, every_s: float = 0.5
) -> Found:
    """
    Give what *look* finds as soon as it is true.

    Raises:
        AssertionError: it was not in time; with what it found last.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = found = look()
            if found:
                return found
        except CommandFailed as exc:
            last = exc
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s:g} s: {what}; last: {last}")


def say(words: str) -> None:
    """Tell whoever waits what is going on."""
    print(f"e2e: {words}", file=sys.stderr, flush=True)
