"""What an acknowledgement means: who has the message by then, and how a primary is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roomful.shard.resp import pack

__all__ = ["Durability"]


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledgement means."""

    acks: int = 0
    """Replicas that have the message."""
    is_fsynced: bool = False
    """Whether the primary and these have it on disk."""

    def pack(self, wait_s: float) -> bytes:
        """Give the command that waits for it; nothing if there is nothing to wait for."""
        if self.is_fsynced:
            return pack("WAITAOF", 1, self.acks, int(wait_s * 1000))
        return pack("WAIT", self.acks, int(wait_s * 1000)) if self.acks else b""

    def is_reached(self, reply: Any) -> bool:
        """Say whether *reply* to that command means that the batch is safe."""
        if self.is_fsynced:
            return isinstance(reply, list) and reply[0] >= 1 and reply[1] >= self.acks
        return isinstance(reply, int) and reply >= self.acks
