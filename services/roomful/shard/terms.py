"""What a connection knows of its shard's terms: offsets tell who gave them."""

from __future__ import annotations

from collections.abc import Sequence

from roomful.cluster.topology import TERM_SIZE

__all__ = ["AnotherTerm", "Terms"]


class AnotherTerm(Exception):
    """What was published has an offset that no primary of this connection's term gives."""


class Terms:
    """The failovers of a shard, and which offsets its present primary gives."""

    # Mutable state: the first offset that the primary does not give, as far as is known.
    def __init__(self, newest: int, failovers: Sequence[tuple[int, int]] = ()) -> None:
        """
        Know what `roomful_v1_terms` says.

        Args:
            newest: the shard's newest offset.
            failovers: of each the offset that the next term began after, and the newest one
                before it that was kept.
        """
        self._failovers = sorted(failovers)
        self._end = 0
        self.know(newest)

    def lost_above(self, offset: int) -> int | None:
        """Give the newest offset kept at the failover after *offset*; None: there was none."""
        return next((kept for base, kept in self._failovers if base > offset), None)

    def know(self, offset: int) -> None:
        """Know that the primary, in the same term, has given *offset*."""
        self._end = max(self._end, (offset // TERM_SIZE + 1) * TERM_SIZE)

    def check(self, offset: int) -> None:
        """
        See whether the primary has published *offset*.

        What a server publishes that follows the next primary has missed what that one stored
        before. A bucket from a shard of a higher term looks the same, once.

        Raises:
            AnotherTerm: not as far as is known.
        """
        if offset >= self._end:
            raise AnotherTerm(f"{offset} is of another term")
