"""
Clients that speak Socket.IO with connection-state recovery, as socket.io-client 4.8 does: they
carry the `pid`, and of each event the last argument if that is a string, whatever it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from roomful.verify.client import Client, Link, World, decode, encode

__all__ = ["OwnClient", "StockClient"]


class StockClient(Client):
    """Socket.IO over a WebSocket, with connection-state recovery."""

    # Mutable state: what the client carries to resume.
    def __init__(self, world: World, number: int, rooms: Sequence[str]) -> None:
        super().__init__(world, number, rooms)
        self._pid: str | None = None
        self._offset: str | None = None

    def _path(self, _token: str) -> tuple[str, dict[str, str]]:
        return "/socket.io/?EIO=4&transport=websocket", {}

    async def _enter(self, link: Link) -> None:
        reply = await link.connected
        pid = reply.get("pid")
        if pid is not None and pid == self._pid:
            self.world.statistics.recovered += 1
        else:
            self._pid, self._offset = pid, None
            await self._missed(link)
        await self._join(link)

    async def _missed(self, link: Link) -> None:
        """The session began anew: a stock client does not know what it missed."""
        self._gap()

    def on_text(self, link: Link, text: bytes) -> None:
        """Take one Engine.IO packet."""
        self._heard_at = time.monotonic()
        kind = text[:2]
        if kind == b"42":
            self._on_event(decode(text[2:]))
        elif kind == b"43":
            bracket = text.index(b"[")
            self._on_ack(int(text[2:bracket]), decode(text[bracket:])[0])
        elif text[:1] == b"2":
            link.send(b"3" + text[1:])
        elif text[:1] == b"0":
            auth: dict[str, Any] = {}
            if self._pid is not None:
                auth = {"pid": self._pid, "offset": self._offset}
            link.send(b"40" + encode({**auth, "token": self.world.token(self.name)}))
        elif kind == b"40":
            if not link.connected.done():
                link.connected.set_result(decode(text[2:]))
        elif kind in (b"44", b"41"):
            link.why = f"the server says {text[2:].decode(errors='replace') or 'DISCONNECT'}"
            link.cut()

    def _on_event(self, event: list[Any]) -> None:
        # socket.io-client, lib/socket.ts: any last argument that is a string is the offset.
        if self._pid is not None and isinstance(event[-1], str) and len(event) > 1:
            self._offset = event[-1]
        if event[0] == "message":
            self._hear(event[1])

    def _encode_request(self, number: int, operation: str, body: dict[str, Any]) -> bytes:
        return b"42%d%b" % (number, encode([operation, body]))


class OwnClient(StockClient):
    """A stock client that reads on in the history after a gap, as @roomful/client does."""

    # Mutable state: in each room the newest offset that was heard; while a room's history is being
    # read, what came live meanwhile.
    def __init__(self, world: World, number: int, rooms: Sequence[str]) -> None:
        super().__init__(world, number, rooms)
        self._newest: dict[str, int] = {}
        self._held: dict[str, list[dict[str, Any]]] | None = None

    async def _missed(self, link: Link) -> None:
        """Join again and read on from the newest that is known; it is a gap if that is gone."""
        rooms = list(self.stretches)
        self._held = {room: [] for room in rooms}
        try:
            for room in rooms:
                await self._request(link, "join-room", {"roomId": room})
                known = self._newest.get(room)
                if known is None or not await self._read_on(link, room, known):
                    self.world.statistics.anew += 1
                    self.world.ledger.gap([self.stretches[room]])
                    self.stretches[room] = self.world.ledger.begin(
                        self.name, room, time.monotonic()
                    )
        finally:
            held, self._held = self._held, None
        for room, messages in held.items():
            # The history may have given some of them already.
            newest = self._newest.get(room, 0)
            for body in messages:
                if body["offset"] > newest:
                    self._hear(body)

    async def _read_on(self, link: Link, room: str, known: int) -> bool:
        """Hear what the history has after *known*; False: it no longer has that one itself."""
        after: int | None = known - 1
        is_first = True
        while after is not None:
            query = {"roomId": room, "after": after, "limit": 100}
            page = await self._request(link, "history", query)
            messages = page["messages"]
            if is_first:
                if not messages or messages[0]["offset"] != known:
                    return False
                is_first = False
            for body in messages:
                if body["offset"] > self._newest[room]:
                    self._newest[room] = body["offset"]
                    super()._hear(body)
            after = page["next"]
        return True

    def _hear(self, body: Any) -> None:
        room, offset = body.get("roomId"), body.get("offset")
        if self._held is not None and room in self._held:
            self._held[room].append(body)
        elif isinstance(room, str) and isinstance(offset, int):
            self._newest[room] = max(self._newest.get(room, 0), offset)
            super()._hear(body)
