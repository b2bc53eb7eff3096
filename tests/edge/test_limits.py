"""Limits: no bucket gives more than it promises, no count drifts, nothing is kept of the past."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from roomful.edge.limits import (
    ConnectionCounts,
    LimitSettings,
    TokenBucket,
)
from roomful.edge.message_rates import MessageRate, MessageRates
from roomful.protocol.errors import RefusalCode, Refused

RATES = st.floats(min_value=0.01, max_value=1e6)
BURSTS = st.integers(min_value=1, max_value=100_000)
STARTS = st.sampled_from([0.0, 12_345.678, 1.8e9])  # process start, monotonic, since the epoch
STEPS = st.lists(
    st.tuples(
        st.floats(min_value=0.0, max_value=100.0) | st.just(0.0) | st.floats(-5.0, 0.0),
        st.floats(min_value=0.01, max_value=50.0) | st.just(1.0),
    ),
    max_size=60,
)


@given(rate=RATES, burst=BURSTS, start=STARTS, steps=STEPS)
def test_bucket_never_gives_more_than_burst_and_rate_allow(
    rate: float, burst: int, start: float, steps: list[tuple[float, float]]
) -> None:
    """In any window of t seconds at most burst + rate * t, also when time stands or goes back."""
    bucket = TokenBucket(rate, burst, start)
    now, taken = start, []
    for step_s, amount in steps:
        now += step_s
        if bucket.take(now, amount) == 0.0:
            taken.append((now, amount))
    newest = start
    high: list[tuple[float, float]] = []
    for at, amount in taken:
        newest = max(newest, at)
        high.append((newest, amount))
    for first in range(len(high)):
        total = 0.0
        for at, amount in high[first:]:
            total += amount
            allowed = burst + rate * (at - high[first][0])
            rounding = 1e-9 * allowed + rate * math.ulp(at) * len(high)
            assert total <= allowed + rounding


@given(rate=RATES, burst=BURSTS, start=STARTS, steps=STEPS)
def test_waiting_as_told_is_enough(
    rate: float, burst: int, start: float, steps: list[tuple[float, float]]
) -> None:
    """Who is refused and waits for the seconds given is served; above the burst, never."""
    bucket = TokenBucket(rate, burst, start)
    now = start
    for step_s, amount in steps:
        now += max(step_s, 0.0)
        wait_s = bucket.take(now, amount)
        if amount > burst:
            assert wait_s == math.inf
        elif wait_s:
            now += wait_s
            assert bucket.take(now, amount) == 0.0


def test_bucket_gives_its_whole_burst_at_once_and_no_more() -> None:
    """A new bucket is full, to the token, whatever the clock's zero is."""
    bucket = TokenBucket(2_500.0, 5_000, 1.8e9)
    assert all(bucket.take(1.8e9) == 0.0 for _ in range(5_000))
    assert bucket.take(1.8e9) == pytest.approx(1 / 2_500, abs=2e-6)


def test_refused_take_costs_nothing() -> None:
    """A take that was refused leaves the tokens for a smaller one."""
    bucket = TokenBucket(1.0, 10, 0.0)
    assert bucket.take(0.0, 7) == 0.0
    assert bucket.take(0.0, 4) == pytest.approx(1.0, abs=2e-6)
    assert bucket.take(0.0, 3) == 0.0


def test_what_is_given_back_never_overfills() -> None:
    """Giving back undoes a take, and no more than the burst is ever in the bucket."""
    bucket = TokenBucket(1.0, 3, 0.0)
    bucket.take(0.0, 1)
    bucket.give_back(1)
    bucket.give_back(1)
    assert bucket.take(0.0, 3) == 0.0
    assert bucket.take(0.0, 1) > 0.0


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (1.0, 0), (-1.0, 1)])
def test_bucket_without_rate_or_burst_is_a_bug(rate: float, burst: int) -> None:
    """No limit is no bucket, not a bucket of nothing."""
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst, 0.0)


def test_settings_name_every_bad_field() -> None:
    """One error says all that is wrong; 0 is a value only where it means no limit."""
    with pytest.raises(ValueError, match="payload_bytes must be above 0.*send_buffer_bytes"):
        LimitSettings(payload_bytes=0, send_buffer_bytes=-1)
    with pytest.raises(ValueError, match="handshakes_per_second must be 0 or more"):
        LimitSettings(handshakes_per_second=math.nan)
    LimitSettings(connections_per_user=0, messages_per_second=0, handshakes_per_second=0)


SMALL = LimitSettings(connections=5, connections_per_user=2, connections_per_address=3)


class CountsAgainstModel(RuleBasedStateMachine):
    """Connections come, sign in and go in any order; counts are those of a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = ConnectionCounts(SMALL)
        self.open: list[str] = []
        self.signed_in: list[str] = []

    @rule(address=st.sampled_from("abc"))
    def enter(self, address: str) -> None:
        """Full edge, then full address, then in."""
        expected = (
            RefusalCode.OVERLOADED
            if len(self.open) == SMALL.connections
            else RefusalCode.RATE_LIMITED
            if self.open.count(address) == SMALL.connections_per_address
            else None
        )
        if expected is None:
            self.counts.enter(address)
            self.open.append(address)
            return
        with pytest.raises(Refused) as refused:
            self.counts.enter(address)
        assert refused.value.code is expected

    @rule(user=st.sampled_from("xyz"))
    def enter_user(self, user: str) -> None:
        """At most so many of a user."""
        if self.signed_in.count(user) < SMALL.connections_per_user:
            self.counts.enter_user(user)
            self.signed_in.append(user)
            return
        with pytest.raises(Refused) as refused:
            self.counts.enter_user(user)
        assert refused.value.code is RefusalCode.RATE_LIMITED

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Any of those inside may leave."""
        address = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(address)
        self.counts.leave(address)

    @precondition(lambda self: self.signed_in)
    @rule(data=st.data())
    def leave_user(self, data: st.DataObject) -> None:
        """Any of those signed in may leave."""
        user = data.draw(st.sampled_from(sorted(self.signed_in)))
        self.signed_in.remove(user)
        self.counts.leave_user(user)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        """Who is gone takes no memory: only keys with a connection are held."""
        assert self.counts.connections == len(self.open)
        assert self.counts.addresses == len(set(self.open))
        assert self.counts.users == len(set(self.signed_in))


test_counts_are_exact_in_any_order = CountsAgainstModel.TestCase


def test_zero_is_no_limit_for_users_and_addresses() -> None:
    """Behind one load balancer everyone has one address: the default lets them in."""
    counts = ConnectionCounts(LimitSettings(connections_per_user=0))
    for _ in range(1_000):
        counts.enter("192.0.2.1")
        counts.enter_user("ann")
    assert (counts.connections, counts.users, counts.addresses) == (1_000, 1, 1)


def test_leaving_twice_is_a_bug_that_shows() -> None:
    """Counts must not drift silently: who leaves without having entered fails."""
    counts = ConnectionCounts(SMALL)
    counts.enter("a")
    counts.leave("a")
    with pytest.raises(KeyError):
        counts.leave("a")
    with pytest.raises(KeyError):
        counts.leave_user("x")
    assert counts.connections == 0


RATED = LimitSettings(
    messages_per_second=10, message_burst=4, user_messages_per_second=10, user_message_burst=6
)


def take_all(rate: MessageRate, now: float) -> int:
    """Take until refused; return how often that went well."""
    taken = 0
    while rate.take(now) == 0.0:
        taken += 1
    return taken


def test_connections_of_a_user_share_the_user_bucket() -> None:
    """Each connection has its own burst, all together the user's; other users have theirs."""
    rates = MessageRates(RATED)
    first, second, other = rates.open("ann", 0.0), rates.open("ann", 0.0), rates.open("bob", 0.0)
    assert take_all(first, 0.0) == 4
    assert take_all(second, 0.0) == 2
    assert take_all(other, 0.0) == 4


def test_refusal_by_the_user_bucket_costs_the_connection_nothing() -> None:
    """What the user's bucket refuses is not taken from the connection's."""
    rates = MessageRates(replace(RATED, user_messages_per_second=1_000))
    first, second = rates.open("ann", 0.0), rates.open("ann", 0.0)
    assert (take_all(first, 0.0), take_all(second, 0.0)) == (4, 2)
    assert take_all(second, 0.006) == 2  # 0.06 tokens came back to its own bucket, 6 to the user's


def test_coming_back_gives_no_new_user_burst() -> None:
    """A user that reconnects has what was left, and what time gave back."""
    rates = MessageRates(RATED)
    connection = rates.open("ann", 0.0)
    assert take_all(connection, 0.0) == 4
    rates.close(connection, 0.0)
    connection = rates.open("ann", 0.1)
    assert take_all(connection, 0.1) == 3  # 6 - 4 + 1


def test_user_that_came_back_is_not_forgotten_while_connected() -> None:
    """Idle ends with the next connection: the bucket stays, however long that one lives."""
    rates = MessageRates(RATED)
    rates.close(rates.open("ann", 0.0), 0.0)
    connection = rates.open("ann", 0.1)
    rates.close(rates.open("bob", 9.0), 9.0)
    take_all(connection, 9.0)
    assert take_all(rates.open("ann", 9.0), 9.0) == 2


def test_users_are_forgotten_once_their_bucket_is_full() -> None:
    """Nothing is kept of users that are gone for longer than a refill."""
    rates = MessageRates(RATED)
    for number in range(50):
        rates.close(rates.open(f"user-{number}", 0.0), 0.0)
    assert len(rates) == 50
    rates.close(rates.open("late", 0.7), 0.7)
    assert len(rates) == 1


def test_idle_users_are_bounded_and_the_connected_stay() -> None:
    """A crowd that comes and goes within a refill cannot fill the memory."""
    rates = MessageRates(RATED, idle_users=10)
    stayed = rates.open("stays", 0.0)
    take_all(stayed, 0.0)
    for number in range(1_000):
        rates.close(rates.open(f"user-{number}", 0.0), 0.0)
    assert len(rates) == 11
    assert take_all(rates.open("stays", 0.0), 0.0) == 2


def test_user_with_a_connection_left_keeps_the_bucket() -> None:
    """Closing one of two connections makes nobody idle."""
    rates = MessageRates(RATED)
    first, second = rates.open("ann", 0.0), rates.open("ann", 0.0)
    rates.close(first, 0.0)
    rates.close(rates.open("bob", 9.0), 9.0)
    assert len(rates) == 2
    rates.close(second, 9.0)
    rates.open("cyd", 10.0)
    assert len(rates) == 1


def test_zero_rates_are_no_limit() -> None:
    """With both rates off nothing is refused and nothing is kept."""
    rates = MessageRates(LimitSettings(messages_per_second=0, user_messages_per_second=0))
    connection = rates.open("ann", 0.0)
    assert all(connection.take(0.0) == 0.0 for _ in range(20_000))
    rates.close(connection, 0.0)
    assert len(rates) == 0


def test_what_was_sent_elsewhere_is_paid_here() -> None:
    """It leaves a debt if the bucket has less; time pays it, at the user's rate."""
    rates = MessageRates(replace(RATED, message_burst=100, messages_per_second=1_000))
    connection = rates.open("ann", 0.0)
    rates.charge("ann", 16, 0.0)
    assert take_all(connection, 0.9) == 0  # 6 - 16 + 9 = -1
    assert take_all(connection, 1.3) == 3
    assert take_all(rates.open("bob", 1.3), 1.3) == 6


def test_a_debt_is_kept_for_a_user_who_is_not_here_yet_until_it_is_paid() -> None:
    """Neither going to another edge nor coming back gives a new burst."""
    rates = MessageRates(RATED)
    rates.charge("ann", 16, 0.0)
    rates.charge("bob", 1, 0.0)
    connection = rates.open("ann", 0.9)
    assert take_all(connection, 0.9) == 0
    rates.close(connection, 0.9)
    rates.charge("cyd", 1, 1.5)
    assert len(rates) == 2
    rates.charge("cyd", 1, 1.61)  # ann's debt was paid at 1.0, and the bucket is full at 1.6
    assert len(rates) == 1


def test_users_charged_from_elsewhere_are_bounded() -> None:
    """However many users other edges tell of."""
    rates = MessageRates(RATED, idle_users=10)
    for number in range(1_000):
        rates.charge(f"user-{number}", 1, 0.0)
    assert len(rates) <= 11


def test_only_users_above_the_share_are_told_and_each_message_once() -> None:
    """A tenth of a second's limit; the next round begins at nothing."""
    rates = MessageRates(replace(RATED, user_messages_per_second=30, user_message_burst=30))
    ann, bob = rates.open("ann", 0.0), rates.open("bob", 0.0)
    for connection, count in ((ann, 3), (bob, 2)):
        for _ in range(count):
            assert connection.take(0.0) == 0.0
    assert rates.next_round() == {"ann": 3}
    assert rates.next_round() == {}
    assert ann.take(0.0) == 0.0
    assert rates.next_round() == {}


def test_connections_elsewhere_count() -> None:
    """Together with those here they may not be more than the maximum."""
    counts = ConnectionCounts(LimitSettings(connections_per_user=20))
    counts.elsewhere = {"ann": 19, "bob": 0}.__getitem__
    counts.enter_user("ann")
    with pytest.raises(Refused):
        counts.enter_user("ann")
    assert counts.heavy == {}
    counts.enter_user("bob")
    counts.enter_user("bob")
    assert counts.heavy == {"bob": 2}
    counts.leave_user("bob")
    assert counts.heavy == {}
