"""Members of a room that read all they hear, and hold the server to it; some of them send."""

from __future__ import annotations

from array import array
from time import perf_counter_ns

from bench.peer import Peer
from bench.wire import MESSAGE_MARK, ProtocolFault, build_frame, encode

__all__ = ["Ledger", "Member", "Sender", "read_content"]

_CONTENT_BYTES = 64  # a chat line

_MESSAGE = b"42" + MESSAGE_MARK
_ACK = b"43"
# Inside a JSON string its quotes would be escaped: so it is the name of a field and nothing else.
_FIELD = b'"content":"'
_QUOTE = 0x22


def read_content(packet: bytes) -> tuple[bytes, int, int]:
    """
    Read a `message` event: who sent it, as which number, and when it was due (ns).

    The packet is not decoded, which costs the load more than all else it does with it: there is
    nothing to be escaped in what this load sends, so its content comes back byte for byte.

    Raises:
        ProtocolFault: it is no content of this load.
    """
    start = packet.find(_FIELD) + len(_FIELD)
    content = packet[start : start + _CONTENT_BYTES + 1]
    fields = content.split(b":", 3)
    if len(fields) != 4 or content[-1] != _QUOTE or fields[3].strip(b".") != b'"':
        raise ProtocolFault(f"not a message of this load: {packet[:200]!r}")
    return fields[0], int(fields[1]), int(fields[2])


class Ledger:
    """What one member of a room has heard: of each sender number 1, 2, 3 …, else a fault."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}

    def enter(self, sender: bytes, number: int) -> None:
        """Enter message *number* of *sender*."""
        expected = self._last.get(sender, 0) + 1
        if number != expected:
            raise ProtocolFault(f"heard message {number} of {sender!r}, and not {expected}")
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
        if not packet.startswith(_MESSAGE):
            self.on_other(packet)
            return
        now_ns = 0 if self._times is None else perf_counter_ns()
        self.peer.deliveries += 1
        sender, number, due_ns = read_content(packet)
        self._ledger.enter(sender, number)
        if self._times is not None:
            self._times.append(now_ns - due_ns)
        self.on_message(sender)

    def on_message(self, sender: bytes) -> None:
        """A message of *sender* was heard."""

    def on_other(self, packet: bytes) -> None:
        """Something else than a message was heard."""


class Sender(Member):
    """
    A member that sends to its room under a *name*; each ack must be a success, and in order.

    `sent`, `acked` and `heard` count its own messages from the start.
    """

    __slots__ = ("_name", "_start", "acked", "heard", "sent")

    def __init__(self, peer: Peer, room: str, name: str, times: array[int] | None = None) -> None:
        super().__init__(peer, times)
        self._name = name.encode()
        self._start = encode({"roomId": room})[:-1]
        self.sent = self.acked = self.heard = 0

    def send_next(self, due_ns: int = 0) -> None:
        """Send the next message, and say in it when it was due."""
        self.sent += 1
        number, name = self.sent, self._name
        content = (b"%b:%d:%d:" % (name, number, due_ns)).ljust(_CONTENT_BYTES, b".")
        words = number, self._start, content, name, number
        self.peer.send(build_frame(b'42%d["message",%b,"content":"%b","id":"%b-%d"}]' % words))

    def on_message(self, sender: bytes) -> None:
        """A message was heard; it may be an own one."""
        if sender == self._name:
            self.heard += 1
            self.on_progress()

    def on_other(self, packet: bytes) -> None:
        """An ack, or an event that this load does not look at."""
        if not packet.startswith(_ACK):
            return
        expected = b"43%d[" % (self.acked + 1)
        if not packet.startswith(expected) or b'"success":true' not in packet:
            raise ProtocolFault(f"not the ack {expected!r}: {packet[:200]!r}")
        self.acked += 1
        self.on_progress()

    def on_progress(self) -> None:
        """An own message was heard or acknowledged."""
