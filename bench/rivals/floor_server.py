"""
The least that a message in a room costs on picows and uvloop: one read, an ack, the copies.

Each event is taken for a message to the sender's room, and goes to its members as the bytes that
came. Nothing is checked but where the ack's id ends: no token, no JSON, no rights, no log, no
offset, no ids against doubles, no limits. As in Roomful a member gets what is for it in one write.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import picows
import uvloop

__all__: list[str] = []

_JOIN = b'["join-room"'

rooms: dict[str, list[Client]] = {}


class Client(picows.WSListener):
    """One connection, in at most one room."""

    # Mutable state: how to write to it, and who is in its room.
    write: Callable[[bytes], None]
    members: list[Client]

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Say that the session is open."""
        self.write = transport.underlying_transport.write
        self.write(_frame(b'0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000}'))

    def on_ws_frame(self, _transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take a CONNECT, a join, or a message."""
        payload = frame.get_payload_as_bytes()
        if payload[:2] != b"42":
            if payload[:2] == b"40":
                self.write(_frame(b'40{"sid":"s"}'))
            return
        start = payload.find(b"[", 2)
        ack = _frame(b'43%b[{"success":true}]' % payload[2:start])
        if payload.startswith(_JOIN, start):
            self.members = rooms.setdefault(json.loads(payload[start:])[1], [])
            self.members.append(self)
            self.write(ack)
            return
        copy = _frame(b"42" + payload[start:])
        for member in self.members:
            member.write(copy + ack if member is self else copy)


def _frame(message: bytes) -> bytes:
    size = len(message)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + message


async def _serve(port: int) -> None:
    server = await picows.ws_create_server(
        lambda _request: Client(), "127.0.0.1", port, enable_auto_ping=False, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the floor for the benchmark.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
