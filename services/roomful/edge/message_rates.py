"""
How fast each connection and each user of an edge may send.

Nothing here reads a clock: *now* comes in as an argument, in seconds, from one monotonic source.
"""

from __future__ import annotations

from roomful.edge.limits import SHARE, LimitSettings, TokenBucket

__all__ = ["MessageRate", "MessageRates"]


class _UserRate:
    """A user's bucket, how many connections share it, and what they took of it this round."""

    __slots__ = ("bucket", "connections", "taken")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.connections = 0
        self.taken = 0.0


class MessageRate:
    """One connection's share: its own bucket and the bucket of its user."""

    __slots__ = ("_own", "_round", "_shared", "user")

    def __init__(
        self,
        user: str,
        own: TokenBucket | None,
        shared: _UserRate | None,
        round_: dict[str, _UserRate],
    ) -> None:
        self.user = user
        self._own = own
        self._shared = shared
        self._round = round_

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take from both buckets and return 0.0, or from neither and return the seconds to wait."""
        own, shared = self._own, self._shared
        if own is not None:
            wait_s = own.take(now, amount)
            if wait_s:
                return wait_s
        if shared is not None:
            wait_s = shared.bucket.take(now, amount)
            if not wait_s:
                if not shared.taken:
                    self._round[self.user] = shared
                shared.taken += amount
            elif own is not None:
                own.give_back(amount)
            return wait_s
        return 0.0


class MessageRates:
    """
    The message rates of all connections of an edge.

    A user's bucket outlives the last connection until it would be full again, so coming back gives
    no new burst. At most *idle_users* such buckets are kept; the longest idle goes first.
    """

    # State: _users has a bucket per known user; _idle says since when those without a connection
    # are idle and without a debt, longest first; _round has who took anything since the last round.
    __slots__ = ("_idle", "_idle_users", "_refill_s", "_round", "_settings", "_users")

    def __init__(self, settings: LimitSettings, *, idle_users: int = 100_000) -> None:
        self._settings = settings
        self._idle_users = idle_users
        self._users: dict[str, _UserRate] = {}
        self._idle: dict[str, float] = {}
        self._round: dict[str, _UserRate] = {}
        rate = settings.user_messages_per_second
        self._refill_s = settings.user_message_burst / rate if rate else 0.0

    def __len__(self) -> int:
        """Users whose bucket is held."""
        return len(self._users)

    def open(self, user: str, now: float) -> MessageRate:
        """Begin the rates of a new connection of *user*; ``close`` ends them."""
        settings = self._settings
        own = (
            TokenBucket(settings.messages_per_second, settings.message_burst, now)
            if settings.messages_per_second
            else None
        )
        return MessageRate(user, own, self._share(user, now), self._round)

    def close(self, rate: MessageRate, now: float) -> None:
        """End what ``open`` began, exactly once per connection."""
        if not self._settings.user_messages_per_second:
            return
        shared = self._users[rate.user]
        shared.connections -= 1
        if shared.connections == 0:
            self._idle[rate.user] = now + shared.bucket.charge(now, 0.0)
        self._forget_idle(now)

    def charge(self, user: str, amount: float, now: float) -> None:
        """Take *amount* messages that *user* sent on another edge, also before coming here."""
        if not self._settings.user_messages_per_second:
            return
        self._forget_idle(now)
        shared = self._known(user, now)
        debt_s = shared.bucket.charge(now, amount)
        if shared.connections == 0:
            self._idle.pop(user, None)
            self._idle[user] = now + debt_s

    def next_round(self) -> dict[str, int]:
        """Give the messages of each user who took SHARE of a second's limit since the last call."""
        least = SHARE * self._settings.user_messages_per_second
        found = {}
        for user, shared in self._round.items():
            if shared.taken >= least:
                found[user] = int(shared.taken)
            shared.taken = 0.0
        self._round.clear()
        return found

    def _share(self, user: str, now: float) -> _UserRate | None:
        if not self._settings.user_messages_per_second:
            return None
        self._forget_idle(now)
        shared = self._known(user, now)
        self._idle.pop(user, None)
        shared.connections += 1
        return shared

    def _known(self, user: str, now: float) -> _UserRate:
        shared = self._users.get(user)
        if shared is None:
            rate, burst = self._settings.user_messages_per_second, self._settings.user_message_burst
            shared = self._users[user] = _UserRate(TokenBucket(rate, burst, now))
        return shared

    def _forget_idle(self, now: float) -> None:
        """Drop idle buckets that are full by now, and the longest idle above the bound."""
        while self._idle:
            user = next(iter(self._idle))
            is_full = now - self._idle[user] >= self._refill_s
            if not is_full and len(self._idle) <= self._idle_users:
                return
            del self._idle[user]
            del self._users[user]
