"""
A child process that is kept running: started again when it ends, until it is told to stop.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from roomful.local.layout import BadCluster

__all__ = ["Child"]

logger = logging.getLogger("roomful.local")

STEADY_S: Final = 30.0
"""Who ran so long before it ended is started again at once."""

LONGEST_PAUSE_S: Final = 10.0
LOG_BYTES: Final = 16 << 20
"""A log above this size is put aside at the next start; the one before it is dropped."""

BAD_USAGE: Final = 2
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """One process of the cluster."""

    # Mutable state: the process, whether it shall end, and how often it ended lately.
    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._command = command
        self._log = log
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_stopping = False

    def change(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Let its next start be by another command."""
        self._command, self._environment = command, environment

    def __repr__(self) -> str:
        return f"<Child {self.name} {self.pid}>"

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> None:
        """Start it, and keep it running from now on."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    @property
    def fault(self) -> BaseException | None:
        """Why it is not kept running any more; None: it is."""
        if self._keeper is None or not self._keeper.done() or self._keeper.cancelled():
            return None
        return self._keeper.exception()

    async def stop(self, patience_s: float) -> None:
        """End it in order (SIGTERM), and after *patience_s* by force; returns when it is gone."""
        self._is_stopping = True
        self.terminate()
        if self._process is not None:
            try:
                async with asyncio.timeout(patience_s):
                    await self._process.wait()
            except TimeoutError:
                logger.warning("killed: it did not end by itself", extra={"child": self.name})
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    def terminate(self) -> None:
        """Ask it to end; an edge that is asked twice ends at once."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def last_words(self, lines: int = 12) -> str:
        """Give the end of its log."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - 8192))
                return b"\n".join(file.read().splitlines()[-lines:]).decode(errors="replace")
        except OSError as exc:
            return str(exc)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            assert self._process is not None
            began = loop.time()
            status = await self._process.wait()
            if self._is_stopping:
                return
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            logger.warning("process ended", extra={"child": self.name, "by": how})
            if status == BAD_USAGE:
                raise BadCluster(f"{self.name} does not start:\n{self.last_words()}")
            pause_s = 0.0 if loop.time() - began > STEADY_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s or 0.25)
            if self._is_stopping:
                return
            await self._spawn()
            self.restarts += 1
            logger.info("process started again", extra={"child": self.name, "pid": self.pid})

    async def _spawn(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            # In a session of its own: Ctrl-C is for us, and we stop it in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self._environment is None else {**os.environ, **self._environment},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """Have the kernel end this process (SIGTERM) when the one that started it is gone."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
