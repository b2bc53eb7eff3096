"""A plain JSON client that sends what is no message, or too many."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import cast

import msgspec

from edge.transport import FakeTransport
from edge.world import make_settings
from roomful.edge.edge import Edge
from roomful.edge.json_connection import JsonConnection
from roomful.edge.websocket import Socket
from shard.clock import run, settle
from support.tokens import make_token


def test_what_cannot_be_read_counts_as_a_message() -> None:
    """One who sends nothing else is slowed down as all are."""

    async def check() -> None:
        settings = make_settings()
        limits = replace(settings.limits, messages_per_second=1.0, message_burst=10)
        edge = Edge(replace(settings, limits=limits))
        edge.start()
        socket = FakeTransport()
        connection = JsonConnection(edge, cast(Socket, socket), "", make_token("alice"))
        await settle()
        assert connection.is_signed_in
        socket.unread.clear()
        for _ in range(25):
            connection.on_text(b'{"type":"nonsense"}')
        codes = Counter(msgspec.json.decode(packet)["code"] for packet in socket.unread)
        assert codes == {"UNKNOWN_EVENT": 10, "RATE_LIMITED": 15}
        connection.on_closed()
        await edge.aclose()

    run(check())
