"""Members of a room that read all they hear, and hold the server to it; some of them send."""

from __future__ import annotations

from array import array
from time import perf_counter_ns

import msgspec

from bench.peer import Peer
from bench.wire import MESSAGE_MARK, ProtocolFault

__all__ = ["Ledger", "Member", "Sender"]

_CONTENT_BYTES = 64  # a chat line

_MESSAGE = b"42" + MESSAGE_MARK
_ACK = b"43"

_decode = msgspec.json.Decoder().decode


def _read_content(packet: bytes) -> str | None:
    """Read the content of a `message` event; None if *packet* is something else."""
    if not packet.startswith(_MESSAGE):
        return None
    content = _decode(packet[2:])[1]["content"]
    assert isinstance(content, str)
    return content


class Ledger:
    """What one member of a room has heard: of each sender number 1, 2, 3 …, else a fault."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def enter(self, sender: str, number: int) -> None:
        """Enter message *number* of *sender*."""
        expected = self._last.get(sender, 0) + 1
        if number != expected:
            raise ProtocolFault(f"heard message {number} of {sender}, and not {expected}")
        self._last[sender] = number


class Member:
    """
    Reads all that one peer hears: each message of each sender must come once and in order.

    With *times*, notes there for each message the nanoseconds since it was due, which its
    content says.
    """

    __slots__ = ("_ledger", "_times", "peer")

    def __init__(self, peer: Peer, times: array[int] | None = None) -> None:
        self.peer = peer
        self._ledger = Ledger()
        self._times = times
        peer.on_packet = self.on_packet

    def on_packet(self, packet: bytes) -> None:
        """Take one packet of the server."""
        now_ns = 0 if self._times is None else perf_counter_ns()
        content = _read_content(packet)
        if content is None:
            self.on_other(packet)
            return
        self.peer.deliveries += 1
        sender, number, due_ns, _ = content.split(":", 3)
        self._ledger.enter(sender, int(number))
        if self._times is not None:
            self._times.append(now_ns - int(due_ns))
        self.on_message(sender)

    def on_message(self, sender: str) -> None:
        """A message of *sender* was heard."""

    def on_other(self, packet: bytes) -> None:
        """Something else than a message was heard."""


class Sender(Member):
    """
    A member that sends to its room under a *name*; each ack must be a success, and in order.

    `sent`, `acked` and `heard` count its own messages from the start.
    """

    __slots__ = ("_name", "_room", "acked", "heard", "sent")

    def __init__(self, peer: Peer, room: str, name: str, times: array[int] | None = None) -> None:
        super().__init__(peer, times)
        self._room = room
        self._name = name
        self.sent = self.acked = self.heard = 0

    def send_next(self, due_ns: int = 0) -> None:
        """Send the next message, and say in it when it was due."""
        self.sent += 1
        content = f"{self._name}:{self.sent}:{due_ns}:".ljust(_CONTENT_BYTES, ".")
        message = {"roomId": self._room, "content": content, "id": f"{self._name}-{self.sent}"}
        self.peer.emit("message", message, self.sent)

    def on_message(self, sender: str) -> None:
        """A message was heard; it may be an own one."""
        if sender == self._name:
            self.heard += 1

    def on_other(self, packet: bytes) -> None:
        """An ack, or an event that this load does not look at."""
        if not packet.startswith(_ACK):
            return
        expected = b"43%d[" % (self.acked + 1)
        if not packet.startswith(expected) or b'"success":true' not in packet:
            raise ProtocolFault(f"not the ack {expected!r}: {packet[:200]!r}")
        self.acked += 1
