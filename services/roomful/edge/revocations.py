"""Which users and tokens were revoked, and until when: bounded, the soonest to lapse go first."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from roomful.edge.auth import Identity

__all__ = ["TOKEN", "USER", "Revocations"]

USER: Final = "user"
TOKEN: Final = "token"  # noqa: S105 - a kind of subject, not a secret
Subject = tuple[str, str]  # (USER or TOKEN, its id)


class Revocations:
    """
    What was revoked and until when; at most *maximum*, the soonest to lapse is dropped first.

    A user's entry also says before which moment a token must have been issued to be refused.
    """

    # State: _entries has subject -> (issued before, lapses at); _order is a heap of (lapses at,
    # subject) in which an entry that was made longer keeps its old, earlier place too.
    __slots__ = ("_entries", "_maximum", "_order")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._entries: dict[Subject, tuple[float, float]] = {}
        self._order: list[tuple[float, Subject]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, subject: Subject, before: float, lapses_at: float, now: float) -> int:
        """Add one, or make it longer; return how many that had not lapsed were dropped for it."""
        known = self._entries.get(subject)
        if known is not None:
            before = max(before, known[0])
            lapses_at = max(lapses_at, known[1])
        if known is None or lapses_at > known[1]:
            heapq.heappush(self._order, (lapses_at, subject))
        self._entries[subject] = (before, lapses_at)
        return self._trim(now)

    def has(self, identity: Identity, now: float) -> bool:
        """Whether *identity*'s token is among them."""
        if not self._entries:
            return False
        of_user = self._entries.get((USER, identity.user))
        if of_user is not None and now < of_user[1]:
            issued_at = identity.issued_at
            if issued_at is None or issued_at <= of_user[0]:
                return True
        if identity.token_id is None:
            return False
        of_token = self._entries.get((TOKEN, identity.token_id))
        return of_token is not None and now < of_token[1]

    def _trim(self, now: float) -> int:
        dropped = 0
        while self._order:
            lapses_at, subject = self._order[0]
            is_current = self._entries[subject][1] == lapses_at
            has_lapsed = lapses_at <= now
            if is_current and not has_lapsed and len(self._entries) <= self._maximum:
                break
            heapq.heappop(self._order)
            if is_current:
                del self._entries[subject]
                dropped += not has_lapsed
        if len(self._order) > 2 * self._maximum:  # one user again and again leaves old places
            self._order = [(entry[1], subject) for subject, entry in self._entries.items()]
            heapq.heapify(self._order)
        return dropped
