"""A member notices a message that is missing, doubled or out of order."""

from __future__ import annotations

import pytest

from bench.member import Ledger
from bench.wire import ProtocolFault


@pytest.mark.parametrize(
    "numbers", [(2,), (1, 1), (1, 3), (1, 2, 1)], ids=["hole", "double", "later hole", "old again"]
)
def test_wrong_number_is_a_fault(numbers: tuple[int, ...]) -> None:
    """The last of the numbers is refused, those before it are not."""
    ledger = Ledger()
    for number in numbers[:-1]:
        ledger.enter("s0", number)
    with pytest.raises(ProtocolFault):
        ledger.enter("s0", numbers[-1])


def test_senders_are_counted_apart() -> None:
    """Each sender's messages are numbered from 1."""
    ledger = Ledger()
    for sender in ("s0", "s1", "s2"):
        ledger.enter(sender, 1)
    ledger.enter("s1", 2)
    with pytest.raises(ProtocolFault):
        ledger.enter("s0", 3)
