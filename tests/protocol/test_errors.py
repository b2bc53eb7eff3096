"""The registry of refusals and close codes: what clients may rely on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roomful.protocol.errors import (
    BadFrame,
    BadPacket,
    ClientFault,
    CloseCode,
    RefusalCode,
    Refused,
    RoomfulError,
    TooLarge,
)

WIRE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
RETRYABLE = {
    "RATE_LIMITED",
    "OVERLOADED",
    "DRAINING",
    "SHARD_UNAVAILABLE",
    "ACCESS_UNAVAILABLE",
    "AUTH_UNAVAILABLE",
    "ARCHIVE_LAGGING",
    "ARCHIVE_UNAVAILABLE",
}


def test_retryable_codes() -> None:
    """Exactly those for which the same operation may be sent again unchanged."""
    assert {code.value for code in RefusalCode if code.is_retryable} == RETRYABLE


def test_refusal_codes_are_documented() -> None:
    """Whatever docs/wire.md names is in the registry."""
    section = WIRE[WIRE.index("## Refusals") : WIRE.index("A closed WebSocket carries")]
    named = set(re.findall(r"`([A-Z]{3,}[A-Z_]*)`", section))
    assert named <= {code.value for code in RefusalCode}
    assert named >= RETRYABLE


def test_close_codes_are_documented() -> None:
    """The table of docs/wire.md is the registry, number by number."""
    rows = dict(re.findall(r"^\| (4\d{3}) \| ([A-Z_]+)", WIRE, re.MULTILINE))
    ours = {str(code.value): code.name for code in CloseCode if code >= 4000}
    assert rows == ours


def test_ranges_say_whether_to_come_back() -> None:
    """Below 4500 reconnecting at once is right, from 4500 on something has to change first."""
    at_once = {code.name for code in CloseCode if 4000 <= code < 4500}
    assert at_once == {
        "PING_TIMEOUT",
        "SLOW_CLIENT",
        "RESTART",
        "REPLACED",
        "UPGRADE_TIMEOUT",
        "GAP",
    }


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (BadPacket, CloseCode.BAD_PACKET),
        (BadFrame, CloseCode.PROTOCOL_ERROR),
        (TooLarge, CloseCode.TOO_BIG),
    ],
)
def test_faults_say_how_to_close(fault: type[ClientFault], code: CloseCode) -> None:
    """With a code, and a reason for the one who reads it."""
    one = fault("because")
    assert (one.close_code, one.reason, str(one)) == (code, "because", "because")
    assert isinstance(one, RoomfulError)


def test_a_refusal_says_why() -> None:
    """A code, a sentence, and if the parser knows it the operation."""
    refused = Refused(RefusalCode.FORBIDDEN, "not in this room")
    assert (refused.code, refused.sentence, refused.operation) == (
        "FORBIDDEN",
        "not in this room",
        None,
    )
    assert str(refused) == "FORBIDDEN: not in this room"
    assert Refused(RefusalCode.BAD_REQUEST, "no", "typing").operation == "typing"
