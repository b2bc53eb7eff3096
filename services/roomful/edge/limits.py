"""
What one edge allows: sizes, counts and rates, and the counters that hold them.

Nothing here reads a clock: *now* comes in as an argument, in seconds, from one monotonic source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

from roomful.protocol.errors import RefusalCode, Refused

__all__ = [
    "SHARE",
    "ConnectionCounts",
    "LimitSettings",
    "TokenBucket",
]

SHARE: Final = 0.1
"""Of a user's limit: who uses so much on one edge is told to the others (edge/usage.py)."""

# Fields for which 0 means "no limit"; every other one must be above 0.
_MAY_BE_ZERO = frozenset(
    {
        "connections_per_user",
        "connections_per_address",
        "handshakes_per_second",
        "messages_per_second",
        "user_messages_per_second",
    }
)


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """
    Every limit of an edge, each on by default unless its comment says why not.

    Raises:
        ValueError: a value is negative, not finite, or 0 where 0 has no meaning; names all of them.
    """

    # Bytes of one packet with its attachments. Socket.IO's own default (maxHttpBufferSize), so
    # what an application sent through it before still fits.
    payload_bytes: int = 1_000_000
    # Binary attachments of one packet. Chat sends one or two; an unbounded number was
    # CVE-2026-33151 of socket.io-parser.
    attachments: int = 10
    # Socket.IO namespaces of one connection. The edge serves "/"; the rest is room for refusals.
    namespaces: int = 4
    # Continuation frames of one WebSocket message. Real stacks fragment by 4 to 64 KiB; a million
    # one-byte fragments was CVE-2026-48779 of ws.
    fragments: int = 128
    # Rooms one connection is in at a time. Four times Centrifugo's 128 channels: a user's whole
    # list of groups fits, and the resume record stays near 128 KiB with the longest names.
    rooms_per_connection: int = 512

    # Connections of one edge. At 9.1 KB each, 0.9 GB; more edges are better than more per edge,
    # because all of them come back at once when one dies. An edge raises its own limit of open
    # files for them; where the system allows fewer (ulimit -Hn), it takes fewer, and says so. As
    # many sessions may be on long-polling, which share connections.
    connections: int = 100_000
    # Connections of one user over all edges; 0 = no limit. Tabs and devices are below 20; a client
    # that leaks connections is stopped before it takes an edge. Edges tell each other every second
    # who has a tenth of it, so of E edges the last may be let in (E - 1) tenths above.
    connections_per_user: int = 100
    # Connections from one address; 0 = no limit, the default: behind a NAT or a load balancer
    # that hides addresses, thousands of people share one.
    connections_per_address: int = 0

    # New connections per second of one edge; 0 = no limit. Below what a core can do, so that those
    # who are connected keep being served while everyone of a lost edge comes back.
    handshakes_per_second: float = 2_000.0
    # New connections taken at once. A killed neighbour's 20,000 clients are let in without a
    # refusal, more are spread over their retries.
    handshake_burst: int = 20_000
    # Packets per second of one connection; 0 = no limit. Far above people and most bots, below
    # what stalls an edge (the prototype stores 34,000 per second and core).
    messages_per_second: float = 2_500.0
    # Packets of one connection taken at once: two seconds' worth, a client's queue after a resume.
    message_burst: int = 5_000
    # Packets per second of one user over all connections on all edges; 0 = no limit. Twice a
    # connection's: two busy devices work, a hundred connections do not give a hundredfold. Edges
    # tell each other every second who took a tenth of it: what is too much then is waited for.
    user_messages_per_second: float = 5_000.0
    # Packets of one user taken at once.
    user_message_burst: int = 10_000

    # Bytes that may wait for a slow client before it is closed with SLOW_CLIENT (it can resume).
    # Centrifugo's 1 MiB: seconds of a busy room, and 1,000 slow ones cost 1 GiB, not more.
    send_buffer_bytes: int = 1 << 20

    # Seconds for the head of a request; longer is a slowloris, not a network.
    header_timeout_s: float = 10.0
    # Seconds for the body of a request: payload_bytes at 0.5 Mbit/s.
    body_timeout_s: float = 15.0
    # Seconds from the open connection to a successful CONNECT; Socket.IO's own default.
    connect_timeout_s: float = 45.0

    def __post_init__(self) -> None:
        bad = [
            f"{field.name} must be {'0 or more' if field.name in _MAY_BE_ZERO else 'above 0'}"
            for field in fields(self)
            if not _is_allowed(getattr(self, field.name), may_be_zero=field.name in _MAY_BE_ZERO)
        ]
        if bad:
            raise ValueError("limits: " + "; ".join(bad))


def _is_allowed(value: float, *, may_be_zero: bool) -> bool:
    return math.isfinite(value) and (value > 0 or (may_be_zero and value == 0))


class TokenBucket:
    """
    At most burst + rate * t in any t seconds, and as much at once as has been saved up.

    Starts full. A *now* before an earlier one adds nothing and takes nothing away.
    """

    # State: the tokens left at the moment _at.
    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if not (rate > 0 and burst > 0):
            raise ValueError("a token bucket needs a rate and a burst above 0")
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> float:
        """
        Take *amount* tokens and return 0.0, or take nothing and say how long to wait.

        Returns:
            0.0 when taken; else the seconds after which the same take succeeds if nobody takes
            in between; ``math.inf`` for more than the burst.
        """
        tokens = self._tokens
        if now > self._at:
            tokens += (now - self._at) * self._rate
            if tokens > self._burst:
                tokens = self._burst
            self._at = now
        if tokens >= amount:
            self._tokens = tokens - amount
            return 0.0
        self._tokens = tokens
        if amount > self._burst:
            return math.inf
        # 1 µs more than the quotient, so that rounding of a large *now* cannot refuse twice.
        return (amount - tokens) / self._rate + 1e-6

    def charge(self, now: float, amount: float) -> float:
        """
        Take *amount* that was used elsewhere, even if that leaves a debt.

        Returns:
            the seconds until the debt is paid, 0.0 for none.
        """
        self.take(now, 0.0)
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)

    def give_back(self, amount: float = 1.0) -> None:
        """Undo a take of *amount* that was not used."""
        self._tokens = min(self._burst, self._tokens + amount)

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:g}/{self._burst:g} at {self._rate:g}/s>"


class ConnectionCounts:
    """
    How many connections there are, in all, per address and per user; refuses those above a limit.

    A connection enters with its address when it is accepted and with its user when it has signed
    in; each successful entry is left exactly once. Only who is connected now takes memory.
    """

    # State: the three counts; a user or an address without a connection has no key. heavy has the
    # users of _users with the share of their limit that other edges are told of.
    __slots__ = ("_addresses", "_connections", "_settings", "_users", "elsewhere", "heavy")

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._connections = 0
        self._addresses: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self.heavy: dict[str, int] = {}
        """By user with a share of the limit: the connections here. To be read only."""
        self.elsewhere: Callable[[str], int] = lambda _user: 0
        """Gives a user's connections on other edges, as far as they are known."""

    @property
    def connections(self) -> int:
        """Connections that have entered and not left."""
        return self._connections

    @property
    def users(self) -> int:
        """Distinct users with a connection."""
        return len(self._users)

    @property
    def addresses(self) -> int:
        """Distinct addresses with a connection."""
        return len(self._addresses)

    @property
    def is_over(self) -> bool:
        """Whether there are more than the limit: the edge was full before the newest came."""
        return self._connections > self._settings.connections

    def enter(self, address: str, *, spare: int = 0) -> None:
        """
        Count a connection from *address*; "" has no limit of its own.

        Args:
            spare: so many above the limits are let in.

        Raises:
            Refused: OVERLOADED when the edge is full, RATE_LIMITED when the address has its
                maximum; nothing was counted.
        """
        if self._connections >= self._settings.connections + spare:
            raise Refused(RefusalCode.OVERLOADED, "this edge has its maximum of connections")
        maximum = self._settings.connections_per_address if address else 0
        maximum += spare if maximum else 0
        _count_in(self._addresses, address, maximum, "this address has")
        self._connections += 1

    def leave(self, address: str) -> None:
        """Forget a connection that entered from *address*."""
        _count_out(self._addresses, address)
        self._connections -= 1

    def enter_user(self, user: str) -> None:
        """
        Count a connection as signed in by *user*.

        Raises:
            Refused: RATE_LIMITED when the user has the maximum, with those on other edges that
                are known of; nothing was counted.
        """
        maximum = self._settings.connections_per_user
        elsewhere = self.elsewhere(user) if maximum else 0
        _count_in(self._users, user, maximum, "this user has", elsewhere)
        self._weigh(user)

    def leave_user(self, user: str) -> None:
        """Forget a connection that *user* signed in."""
        _count_out(self._users, user)
        self._weigh(user)

    def _weigh(self, user: str) -> None:
        maximum = self._settings.connections_per_user
        count = self._users.get(user, 0)
        if maximum and count and count >= maximum * SHARE:
            self.heavy[user] = count
        else:
            self.heavy.pop(user, None)

    def __repr__(self) -> str:
        return (
            f"<ConnectionCounts connections={self._connections} users={len(self._users)} "
            f"addresses={len(self._addresses)}>"
        )


def _count_in(
    counts: dict[str, int], key: str, maximum: int, whose: str, elsewhere: int = 0
) -> None:
    count = counts.get(key, 0)
    if 0 < maximum <= count + elsewhere:
        raise Refused(RefusalCode.RATE_LIMITED, f"{whose} the maximum of {maximum} connections")
    counts[key] = count + 1


def _count_out(counts: dict[str, int], key: str) -> None:
    """One less for *key*; a KeyError is a caller's bug: it left what it had not entered."""
    count = counts[key]
    if count == 1:
        del counts[key]
    else:
        counts[key] = count - 1
