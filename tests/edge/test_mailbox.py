"""Mail that waits for a poll: whole, in order, within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomful.edge.mailbox import Mailbox
from roomful.protocol.engineio import (
    Binary,
    encode_payload,
)

PLENTY = 1 << 20
PACKETS = st.binary(max_size=30).map(lambda data: b"4" + data.hex().encode())
MAIL = st.lists(PACKETS | st.binary(max_size=40).map(Binary), max_size=12)


@given(mail=MAIL, max_bytes=st.integers(1, 200))
def test_mail_comes_whole_in_order_and_in_bounds(mail: list[bytes], max_bytes: int) -> None:
    """Poll after poll, each within its bytes unless one packet alone is larger."""
    mailbox = Mailbox(PLENTY)
    mailbox.put(mail)
    assert mailbox.size == sum(map(len, mail))
    taken: list[bytes] = []
    while mailbox.has_mail:
        part = mailbox.take(max_bytes)
        assert part
        assert len(part) == 1 or len(encode_payload(part)) <= max_bytes
        taken += part
    assert taken == mail
    assert mailbox.size == 0
    assert mailbox.take(max_bytes) == []


def test_mail_is_bounded() -> None:
    """Above the limit the client is too slow; at the limit it is not."""
    mailbox = Mailbox(10)
    assert mailbox.put([b"x" * 10])
    assert not mailbox.put([b"x"])
    mailbox.take(PLENTY)
    assert mailbox.put([b"x" * 10])
