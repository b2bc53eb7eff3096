"""
Random names for sessions, from the kernel's randomness, a block of it at a time.

A connection needs three; each by itself costs a system call and an encoding, some µs of the some
200 that a connection may cost.
"""

from __future__ import annotations

import base64
import os
from typing import Final

__all__ = ["secret_name"]

BLOCK_BYTES: Final = 6 * 1024


class _Block:
    # Mutable state: what is left of the block, from *at* on.
    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin with a block of one's own: a fork would give its parent's names again."""
        self._text = ""
        self._at = 0

    def take(self, length: int) -> str:
        """Give *length* characters that nobody was given before."""
        end = self._at + length
        if end > len(self._text):
            self._text = base64.urlsafe_b64encode(os.urandom(BLOCK_BYTES)).decode()
            self._at, end = 0, length
        name = self._text[self._at : end]
        self._at = end
        return name


_block = _Block()
os.register_at_fork(after_in_child=_block.clear)


def secret_name(length: int) -> str:
    """Give a name of *length* characters that fit into a URL, 6 bits of randomness in each."""
    return _block.take(length)
