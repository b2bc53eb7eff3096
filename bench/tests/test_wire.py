"""The load's reading of the wire is exact, however a stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.wire import (
    PING,
    FrameReader,
    MarkerCounter,
    ProtocolFault,
    build_event,
    build_frame,
)

_TEXT = st.text(max_size=400)
_OTHERS = st.sampled_from(
    [b'430[{"success":true}]', b'42["user-joined",{"userId":"u"}]', b'42["cursor",{},"abc"]']
)
_MESSAGES = st.builds(lambda content: build_event_payload("message", {"content": content}), _TEXT)
_PACKETS = st.lists(st.one_of(st.just(PING), _OTHERS, _MESSAGES), max_size=12)
_CUTS = st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=200)


def build_event_payload(name: str, argument: object) -> bytes:
    """Build a server's event: a client's without the mask and the ack id."""
    return unmask(build_event(name, argument, 0)).replace(b"420[", b"42[", 1)


def unmask(frame: bytes) -> bytes:
    """Take a client's frame apart as RFC 6455, section 5.3 says."""
    size, start = frame[1] & 0x7F, 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, start = int.from_bytes(frame[2 : 2 + width], "big"), 2 + width
    mask, body = frame[start : start + 4], frame[start + 4 :]
    assert len(body) == size
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))


def build_server_frame(payload: bytes) -> bytes:
    """Build a server's text frame: not masked."""
    if len(payload) < 126:
        return bytes((0x81, len(payload))) + payload
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """Cut *stream* into pieces of *sizes*, used again and again."""
    pieces, position, turn = [], 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        pieces.append(stream[position : position + size])
        position, turn = position + size, turn + 1
    return pieces


@given(packets=_PACKETS, sizes=_CUTS)
def test_reader_gives_what_was_sent_for_any_cut(packets: list[bytes], sizes: list[int]) -> None:
    """All payloads come out, in order, and nothing is left over."""
    stream = b"".join(map(build_server_frame, packets))
    reader = FrameReader()
    heard = [payload for piece in cut(stream, sizes) for payload in reader.feed(piece)]
    assert heard == packets
    assert reader.is_between_frames


@given(packets=_PACKETS, sizes=_CUTS)
def test_counter_agrees_with_the_reader_for_any_cut(packets: list[bytes], sizes: list[int]) -> None:
    """Deliveries and heartbeats are counted once each, also over a cut."""
    stream = b"".join(map(build_server_frame, packets))
    counter, deliveries, heartbeats = MarkerCounter(), 0, 0
    for piece in cut(stream, sizes):
        buffer = bytearray(piece + b'["message",' * 3)  # old bytes after the end do not count
        more = counter.count(buffer, len(piece))
        deliveries, heartbeats = deliveries + more[0], heartbeats + more[1]
    assert deliveries == sum(packet.startswith(b'42["message",') for packet in packets)
    assert heartbeats == packets.count(PING)


def test_content_that_looks_like_a_delivery_is_not_counted() -> None:
    """A mark inside a JSON string has escaped quotes, so it is no mark."""
    packet = build_event_payload("message", {"content": '42["message",{"content":"x"}]'})
    stream = bytearray(build_server_frame(packet))
    assert MarkerCounter().count(stream, len(stream)) == (1, 0)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_client_frame_is_masked_and_whole(size: int) -> None:
    """A frame of each length form has the mask bit, a key that is not zero, and its payload."""
    payload = bytes(index % 251 for index in range(size))
    frame = build_frame(payload)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    assert unmask(frame) == payload
    assert payload not in frame or size <= 1


def test_other_control_frames_are_a_fault() -> None:
    """A WebSocket ping ends the run; it is not skipped."""
    with pytest.raises(ProtocolFault):
        FrameReader().feed(b"\x89\x00")


@given(packets=_PACKETS, sizes=_CUTS)
def test_a_close_frame_ends_the_stream_behind_all_before_it(
    packets: list[bytes], sizes: list[int]
) -> None:
    """What came before the close frame is read, whatever comes behind it is not."""
    close = b"\x88\x02\x03\xf4"
    stream = b"".join(map(build_server_frame, packets)) + close + build_server_frame(PING)
    reader = FrameReader()
    heard: list[bytes] = []

    for piece in cut(stream, sizes):
        heard += reader.feed(piece)
        if reader.is_closed:
            break

    assert heard == packets
    assert reader.is_closed
