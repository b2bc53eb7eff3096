"""A member notices a message that is missing, doubled or out of order."""

from __future__ import annotations

import pytest

from bench.member import Ledger, read_content
from bench.wire import ProtocolFault


@pytest.mark.parametrize(
    "numbers", [(2,), (1, 1), (1, 3), (1, 2, 1)], ids=["hole", "double", "later hole", "old again"]
)
def test_wrong_number_is_a_fault(numbers: tuple[int, ...]) -> None:
    """The last of the numbers is refused, those before it are not."""
    ledger = Ledger()
    for number in numbers[:-1]:
        ledger.enter(b"s0", number)
    with pytest.raises(ProtocolFault):
        ledger.enter(b"s0", numbers[-1])


def test_senders_are_counted_apart() -> None:
    """Each sender's messages are numbered from 1."""
    ledger = Ledger()
    for sender in (b"s0", b"s1", b"s2"):
        ledger.enter(sender, 1)
    ledger.enter(b"s1", 2)
    with pytest.raises(ProtocolFault):
        ledger.enter(b"s0", 3)


def test_content_is_read_where_a_server_puts_it() -> None:
    """Whatever comes before it in the event and after it; another one's words are no content."""
    content = b"s1:12:345:".ljust(64, b".")
    room = rb'"roomId":"\"content\":\"s0:1:0:"'
    packet = b'42["message",{%b,"content":"%b","timestamp":1},"5"]' % (room, content)
    assert read_content(packet) == (b"s1", 12, 345)


@pytest.mark.parametrize(
    "content",
    [b"s1:1:0:" + b"." * 20, b"s1:1:0:".ljust(63, b".") + b"x", b"s1:1:".ljust(64, b"."), b""],
    ids=["shorter", "not the padding", "fields missing", "empty"],
)
def test_other_content_is_a_fault(content: bytes) -> None:
    """What did not come back as it was sent is noticed."""
    with pytest.raises(ProtocolFault):
        read_content(b'42["message",{"content":"%b","timestamp":1}]' % content)


def test_message_without_content_is_a_fault() -> None:
    """A server that leaves it out is noticed."""
    with pytest.raises(ProtocolFault):
        read_content(b'42["message",{"timestamp":1}]')
