"""Envelopes over time: what older and newer edges wrote and read (shard/message.py)."""

from __future__ import annotations

import msgspec

from roomful.shard.message import Entry, Envelope
from roomful.shard.publication import decode_message, decode_read
from shard.recording import make_envelope

TRACE = bytes(range(24))


class _OldEnvelope(msgspec.Struct, array_like=True):
    """An envelope as it was before it had a trace."""

    room: str
    event: str
    id: str
    user: str
    timestamp: int
    body: bytes
    attachments: tuple[bytes, ...] = ()


OLD = msgspec.msgpack.encode(_OldEnvelope("r", "message", "1", "alice", 5, b"{"))


def test_envelope_that_was_stored_before_traces_is_read() -> None:
    """Logs, archives and journals are full of them."""
    envelope = msgspec.msgpack.decode(OLD, type=Envelope)
    assert (envelope.id, envelope.trace) == ("1", None)


def test_older_edge_reads_an_envelope_with_a_trace() -> None:
    """During a rolling update it hears what newer edges publish."""
    envelope = msgspec.structs.replace(make_envelope("r", "1"), trace=TRACE)
    old = msgspec.msgpack.decode(msgspec.msgpack.encode(envelope), type=_OldEnvelope)
    assert (old.id, old.body) == (envelope.id, envelope.body)


def test_trace_comes_with_publications_reads_and_entries() -> None:
    """The three forms in which an envelope leaves a log, a journal or a chunk of SQLite."""
    envelope = msgspec.structs.replace(make_envelope("r", "1"), trace=TRACE)
    publication, _ = decode_message(msgspec.msgpack.encode([0, 1, [[2, envelope]]]))
    found, _ = decode_read(msgspec.msgpack.encode([[2, 0, envelope]]))
    entries = msgspec.msgpack.decode(msgspec.msgpack.encode([Entry(2, envelope)]), type=list[Entry])
    assert publication.entries[0].envelope == envelope  # type: ignore[union-attr]
    assert found[0].envelope == envelope
    assert entries[0].envelope == envelope
