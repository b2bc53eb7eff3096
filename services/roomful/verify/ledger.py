"""
What was sent, acknowledged and heard, and what the promise says about it. Pure: no I/O, no clock.

The promise (design.md section 1): an acknowledged message is in its room's log, once; the log is
the one order of the room; and a reader hears, between a join and the next gap that it is told of,
a piece of that log: nothing missing, nothing twice, nothing in another order.

A message is a small number (`key`): its sender and the sender's count. Times are seconds of one
monotonic clock, that of the process that sends and reads.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NewType

__all__ = [
    "FOREIGN",
    "Faults",
    "Key",
    "Ledger",
    "Sent",
    "Stored",
    "Stretch",
    "count_of",
    "key_of",
    "key_text",
    "parse_key",
]

Key = NewType("Key", int)
"""A message: the sender's number times 2**40, and its count of messages, from 1."""

_COUNT_BITS: Final = 40
_EXAMPLES: Final = 20


def key_of(sender: int, count: int) -> Key:
    """Give the key of message *count* of *sender*."""
    return Key(sender << _COUNT_BITS | count)


FOREIGN: Final = key_of(1 << 22, 0)
"""Stands for messages that are none of ours."""


def count_of(key: Key) -> int:
    """Give which of its sender's messages *key* is, from 1."""
    return key & (1 << _COUNT_BITS) - 1


def key_text(key: Key) -> str:
    """Give the id that the message has on the wire."""
    return f"v{key >> _COUNT_BITS}.{count_of(key)}"


def parse_key(text: object) -> Key | None:
    """Read a message's id back; None if it is none of ours."""
    if not isinstance(text, str) or not text.startswith("v"):
        return None
    sender, _, count = text[1:].partition(".")
    if not (sender.isdecimal() and count.isdecimal()):
        return None
    return key_of(int(sender), int(count))


@dataclass(slots=True)
class Sent:
    """A message as its sender knows it."""

    room: str
    began_at: float
    """When it was sent first."""
    acked_at: float | None = None
    offset: int = 0
    """What the ack said; 0: no ack came."""


@dataclass(slots=True)
class Stretch:
    """
    What one reader heard of one room from a join to the next gap that it was told of, or the end.

    A resume that says it missed nothing continues a stretch; one that says it may have begins a
    new one.
    """

    reader: str
    room: str
    joined_at: float
    """When the join was acknowledged: everything sent later is owed."""
    heard: array[int] = field(default_factory=lambda: array("q"))
    """Keys in the order in which they came."""
    offsets: array[int] = field(default_factory=lambda: array("q"))
    """The offset with which each came."""
    is_open: bool = True
    """Whether it reaches to the end: then everything acknowledged is owed."""

    def hear(self, key: Key, offset: int) -> None:
        """Note that the message *key* came, as stored at *offset*."""
        self.heard.append(key)
        self.offsets.append(offset)


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry of a room's log as read at the end."""

    offset: int
    key: Key


@dataclass(slots=True)
class Faults:
    """Broken promises: how many of each kind, and some of them in words."""

    lost: int = 0
    """Acknowledged and not in the log, or owed to a reader and not heard."""
    duplicated: int = 0
    """Twice in a log, or heard twice."""
    reordered: int = 0
    """Heard or stored in another order than the room's, or a sender's."""
    examples: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All of them."""
        return self.lost + self.duplicated + self.reordered

    def add(self, kind: str, sentence: str, count: int = 1) -> None:
        """Count *count* faults of *kind* (a field's name)."""
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{kind}: {sentence}")


class Ledger:
    """Everything that happened, and the comparison at the end."""

    # Mutable state: all messages by key, all stretches, how often a reader was told of a gap, and
    # the acks that gave a message another offset than its first one did.
    def __init__(self) -> None:
        self.sent: dict[Key, Sent] = {}
        self.stretches: list[Stretch] = []
        self.gaps_told = 0
        self.acked = 0
        self._contradicted: list[tuple[Key, int]] = []

    def send(self, key: Key, room: str, now: float) -> None:
        """Note the first sending of *key*; later ones change nothing."""
        self.sent.setdefault(key, Sent(room, now))

    def ack(self, key: Key, offset: int, now: float) -> None:
        """Note that *key* was acknowledged as stored at *offset*; a later ack says the same."""
        sent = self.sent[key]
        if sent.acked_at is None:
            self.acked += 1
            sent.acked_at, sent.offset = now, offset
        elif sent.offset != offset:
            self._contradicted.append((key, offset))

    def begin(self, reader: str, room: str, now: float) -> Stretch:
        """Begin a stretch: *reader* joined *room*."""
        stretch = Stretch(reader, room, now)
        self.stretches.append(stretch)
        return stretch

    def gap(self, stretches: Iterable[Stretch]) -> None:
        """The readers of *stretches* were told that they may have missed something."""
        for stretch in stretches:
            stretch.is_open = False
            self.gaps_told += 1

    # The comparison -------------------------------------------------------------------------

    def check(self, logs: Mapping[str, Sequence[Stored]]) -> Faults:
        """
        Compare what was acknowledged and heard with *logs*, each room's whole log in its order.

        The logs have to reach back to the first message: read them before anything is trimmed.
        """
        faults = Faults()
        for key, offset in self._contradicted:
            sentence = f"{key_text(key)} was acknowledged at {self.sent[key].offset} and {offset}"
            faults.add("duplicated", sentence)
        places: dict[str, dict[Key, int]] = {}
        for room, log in logs.items():
            places[room] = _check_log(faults, room, log)
        self._check_acks(faults, logs, places)
        self._check_order(faults, places)
        for stretch in self.stretches:
            log = logs.get(stretch.room, ())
            self._check_stretch(faults, stretch, log, places.get(stretch.room, {}))
        return faults

    def rewound(self, logs: Mapping[str, Sequence[Stored]]) -> int:
        """
        Count what some reader heard and no log has, or has at another offset: it was never
        acknowledged there, and gone with a primary.

        No broken promise if the reader was told, but worth a look: it was shown and is not there.
        """
        kept = {(stored.key, stored.offset) for log in logs.values() for stored in log}
        heard = {
            (Key(key), offset)
            for stretch in self.stretches
            for key, offset in zip(stretch.heard, stretch.offsets, strict=True)
        }
        return len(heard - kept)

    def _check_acks(
        self,
        faults: Faults,
        logs: Mapping[str, Sequence[Stored]],
        places: Mapping[str, Mapping[Key, int]],
    ) -> None:
        for key, sent in self.sent.items():
            if sent.acked_at is None:
                continue
            place = places.get(sent.room, {}).get(key)
            if place is None:
                sentence = f"{key_text(key)} in {sent.room} was acknowledged at {sent.offset}"
                faults.add("lost", sentence)
            elif logs[sent.room][place].offset != sent.offset:
                found = logs[sent.room][place].offset
                sentence = f"{key_text(key)} was acknowledged at {sent.offset} and is at {found}"
                faults.add("reordered", sentence)

    def _check_order(self, faults: Faults, places: Mapping[str, Mapping[Key, int]]) -> None:
        """What was acknowledged before a message was first sent is before it in the room."""
        for room, place_of in places.items():
            known = [(key, self.sent[key]) for key in place_of if key in self.sent]
            acks = sorted(
                (sent.acked_at, place_of[key]) for key, sent in known if sent.acked_at is not None
            )
            newest, at = -1, 0
            for key, sent in sorted(known, key=lambda one: one[1].began_at):
                while at < len(acks) and acks[at][0] < sent.began_at:
                    newest = max(newest, acks[at][1])
                    at += 1
                if place_of[key] < newest:
                    sentence = f"{key_text(key)} in {room} is before one acknowledged earlier"
                    faults.add("reordered", sentence)

    def _check_stretch(
        self,
        faults: Faults,
        stretch: Stretch,
        log: Sequence[Stored],
        place_of: Mapping[Key, int],
    ) -> None:
        who = f"{stretch.reader} in {stretch.room}"
        first = self._first_owed(stretch, log)
        expected: int | None = None
        seen: set[int] = set()
        rewound: Key | None = None
        all_heard = {
            key
            for key, offset in zip(stretch.heard, stretch.offsets, strict=True)
            if key in place_of and log[place_of[Key(key)]].offset == offset
        }
        for number, offset in zip(stretch.heard, stretch.offsets, strict=True):
            key = Key(number)
            place = place_of.get(key)
            if place is None or log[place].offset != offset:
                # Heard of a primary that was lost with it; it may have been stored again.
                rewound = key
                continue
            if key in seen:
                faults.add("duplicated", f"{who} heard {key_text(key)} twice")
                continue
            seen.add(key)
            if rewound is not None:
                sentence = f"{who} was not told that {key_text(rewound)} is not what is stored"
                faults.add("reordered", sentence)
                rewound = None
            if expected is None:
                expected = place if first is None else min(place, first)
            if place < expected:
                faults.add("reordered", f"{who} heard {key_text(key)} late")
                continue
            if place > expected:
                missing = sum(log[at].key not in all_heard for at in range(expected, place))
                if missing:
                    sentence = f"{who} missed {missing} before {key_text(key)}"
                    faults.add("lost", sentence, missing)
            expected = place + 1
        if not stretch.is_open:
            return
        begin = expected if expected is not None else first
        if begin is not None and (owed := self._acked_after(log, begin)):
            faults.add("lost", f"{who} never heard the last {owed}", owed)

    def _first_owed(self, stretch: Stretch, log: Sequence[Stored]) -> int | None:
        """Give the place of the first entry that was sent after the join for certain."""
        for place, stored in enumerate(log):
            sent = self.sent.get(stored.key)
            if sent is not None and sent.began_at > stretch.joined_at:
                return place
        return None

    def _acked_after(self, log: Sequence[Stored], begin: int) -> int:
        return sum(
            1
            for stored in log[begin:]
            if (sent := self.sent.get(stored.key)) is not None and sent.acked_at is not None
        )


def _check_log(faults: Faults, room: str, log: Sequence[Stored]) -> dict[Key, int]:
    """Check that *log* has each message once and offsets that grow; give each one's place."""
    place_of: dict[Key, int] = {}
    last = 0
    for place, stored in enumerate(log):
        if stored.key in place_of:
            faults.add("duplicated", f"{key_text(stored.key)} is in {room} twice")
        else:
            place_of[stored.key] = place
        if stored.offset <= last:
            faults.add("reordered", f"{room} has offset {stored.offset} after {last}")
        last = stored.offset
    return place_of
