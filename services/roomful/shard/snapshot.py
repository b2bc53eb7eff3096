"""
An embedded shard on disk between a graceful stop and the next start: whole, in one file, where what
its journal wrote has to be put together again.

The file is taken away as it is read: a process that is killed later must not be followed by one
that begins from the same snapshot again and gives the same offsets to other messages.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from roomful.shard.memory import MemoryShard, MemoryState

__all__ = ["VERSION", "Snapshot"]

logger = logging.getLogger("roomful.shard")

VERSION = 2


class _File(msgspec.Struct):
    version: int
    state: MemoryState


class Snapshot:
    """One snapshot file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, directory: str, port: int) -> Snapshot | None:
        """Give the snapshot of the process at *port*; None if there is no directory for it."""
        return cls(Path(directory) / f"shard-{port}.msgpack") if directory else None

    def take(self) -> MemoryState | None:
        """Give what is in the file, if there is one, and take the file away."""
        try:
            data = self._path.read_bytes()
            self._path.unlink()
            file = msgspec.msgpack.decode(data, type=_File)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            logger.warning("snapshot not readable", extra={"why": str(exc)})
            return None
        if file.version != VERSION:
            logger.warning("snapshot of another version", extra={"version": file.version})
            return None
        logger.info("snapshot taken", extra={"entries": len(file.state.entries)})
        return file.state

    def restore(self, shard: MemoryShard) -> bool:
        """Put the snapshot into *shard*, which is new, and take the file away."""
        state = self.take()
        if state is None:
            return False
        shard.restore(state)
        return True

    def write(self, shard: MemoryShard) -> None:
        """Write *shard* down: whole, or not at all."""
        state = shard.dump()
        data = msgspec.msgpack.encode(_File(VERSION, state))
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as exc:
            # Nothing can be done but say so: the process is on its way out.
            logger.error("snapshot not written", extra={"why": exc.strerror})
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return
        logger.info("snapshot written", extra={"entries": len(state.entries), "bytes": len(data)})
