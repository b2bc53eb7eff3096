"""The comparison of what was acknowledged and heard with the logs: it has to find every fault."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.verify.ledger import Faults, Key, Ledger, Stored, key_of, key_text, parse_key

ROOM = "room"


def sent(count: int, *, acked: bool = True) -> Ledger:
    """Give a ledger in which messages 1 to *count* were sent each after the ack of the last."""
    ledger = Ledger()
    for number in range(1, count + 1):
        ledger.send(key_of(0, number), ROOM, float(number))
        if acked:
            ledger.ack(key_of(0, number), 10 * number, number + 0.5)
    return ledger


def log(*numbers: int) -> list[Stored]:
    """Give a log that has these messages at the offsets of their acks."""
    return [Stored(10 * number, key_of(0, number)) for number in numbers]


def hears(ledger: Ledger, *numbers: int, joined_at: float = 0.0, is_open: bool = True) -> None:
    """Let a reader hear these messages."""
    stretch = ledger.begin("reader", ROOM, joined_at)
    for number in numbers:
        stretch.hear(key_of(0, number), 10 * number)
    stretch.is_open = is_open


def counts(faults: Faults) -> tuple[int, int, int]:
    """Give what was lost, duplicated and reordered."""
    return faults.lost, faults.duplicated, faults.reordered


def test_a_run_without_faults_has_none() -> None:
    """Everyone heard the log, from different joins on."""
    ledger = sent(5)
    hears(ledger, 1, 2, 3, 4, 5)
    hears(ledger, 4, 5, joined_at=3.2)

    assert counts(ledger.check({ROOM: log(1, 2, 3, 4, 5)})) == (0, 0, 0)


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        pytest.param((1, 2, 4, 5), (1, 0, 0), id="one is missing in the middle"),
        pytest.param((3, 4, 5), (2, 0, 0), id="the first ones are missing"),
        pytest.param((1, 2, 3), (2, 0, 0), id="the last ones are missing"),
        pytest.param((), (5, 0, 0), id="all are missing"),
        pytest.param((1, 2, 2, 3, 4, 5), (0, 1, 0), id="one comes twice"),
        pytest.param((1, 3, 2, 4, 5), (0, 0, 1), id="two are swapped"),
    ],
)
def test_what_a_reader_heard_is_compared_with_the_log(
    heard: Sequence[int], expected: tuple[int, int, int]
) -> None:
    """Each kind of fault is found and counted as what it is."""
    ledger = sent(5)
    hears(ledger, *heard)

    assert counts(ledger.check({ROOM: log(1, 2, 3, 4, 5)})) == expected


def test_nothing_is_owed_after_a_gap_that_was_told() -> None:
    """A stretch that ended early may end anywhere, but has no hole inside."""
    ledger = sent(5)
    hears(ledger, 1, 2, is_open=False)
    hears(ledger, 2, 4, is_open=False, joined_at=1.7)

    assert counts(ledger.check({ROOM: log(1, 2, 3, 4, 5)})) == (1, 0, 0)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        pytest.param((1, 3), (1, 0, 0), id="an acknowledged message is gone"),
        pytest.param((1, 2, 3, 2), (0, 1, 1), id="one is stored twice"),
    ],
)
def test_the_log_itself_is_checked(kept: Sequence[int], expected: tuple[int, int, int]) -> None:
    """An acknowledged message is in the log once, and offsets grow."""
    assert counts(sent(3).check({ROOM: log(*kept)})) == expected


def test_a_log_that_breaks_the_order_of_acks_is_reordered() -> None:
    """What was acknowledged before another was sent is before it in the log."""
    ledger = sent(3)
    swapped = [Stored(10, key_of(0, 1)), Stored(20, key_of(0, 3)), Stored(30, key_of(0, 2))]

    assert ledger.check({ROOM: swapped}).reordered >= 1


def test_an_ack_with_another_offset_than_the_log_is_found() -> None:
    """The offset of the ack is where the message is."""
    ledger = sent(1)

    assert counts(ledger.check({ROOM: [Stored(11, key_of(0, 1))]})) == (0, 0, 1)


def test_a_second_ack_with_another_offset_is_a_message_twice() -> None:
    """A retry gives the offset that the first one gave."""
    ledger = sent(2)
    ledger.ack(key_of(0, 1), 10, 9.0)
    ledger.ack(key_of(0, 2), 30, 9.0)

    assert counts(ledger.check({ROOM: log(1, 2)})) == (0, 1, 0)


def test_what_was_not_acknowledged_may_be_there_or_not() -> None:
    """Nothing was promised about it, but who heard the room heard it too if it is stored."""
    ledger = sent(2, acked=False)
    hears(ledger, 1, 2)

    assert counts(ledger.check({ROOM: log(1, 2)})) == (0, 0, 0)
    assert counts(ledger.check({ROOM: []})) == (0, 0, 0)
    assert ledger.rewound({ROOM: log(1)}) == 1


def test_what_went_with_a_primary_is_no_place_in_the_log() -> None:
    """It is stored again later, by its sender's retry: who heard it before has to be told."""
    for is_told, expected in ((True, (0, 0, 0)), (False, (0, 0, 1))):
        ledger = sent(5)
        stretch = ledger.begin("reader", ROOM, 0.0)
        stretch.hear(key_of(0, 1), 10)
        stretch.hear(key_of(0, 4), 25)
        if is_told:
            ledger.gap([stretch])
            stretch = ledger.begin("reader", ROOM, 2.7)
        else:
            stretch.hear(key_of(0, 2), 20)
        for number in (3, 4, 5):
            stretch.hear(key_of(0, number), 10 * number)

        assert counts(ledger.check({ROOM: log(1, 2, 3, 4, 5)})) == expected
        assert ledger.rewound({ROOM: log(1, 2, 3, 4, 5)}) == 1


@given(sender=st.integers(0, 1 << 20), count=st.integers(1, 1 << 30))
def test_a_key_survives_the_wire(sender: int, count: int) -> None:
    """key_text and parse_key are each other's inverse."""
    assert parse_key(key_text(key_of(sender, count))) == key_of(sender, count)


@pytest.mark.parametrize("text", ["", "v", "v1", "v1.", "x1.2", "v1.2.3", "v-1.2", 7, None])
def test_a_foreign_id_is_no_key(text: object) -> None:
    """Ids of others are told from ours."""
    assert parse_key(text) is None


@given(
    length=st.integers(1, 12),
    data=st.data(),
)
def test_every_change_of_what_was_heard_is_a_fault(length: int, data: st.DataObject) -> None:
    """Whatever sequence a reader heard instead of the whole log, some fault is counted."""
    numbers = list(range(1, length + 1))
    heard = data.draw(
        st.lists(st.sampled_from(numbers), max_size=length + 2).filter(lambda one: one != numbers)
    )
    ledger = sent(length)
    hears(ledger, *heard)

    assert ledger.check({ROOM: log(*numbers)}).total > 0
    assert Key(0) not in ledger.sent
