"""A client that speaks plain JSON at /ws and resumes with the cursor it heard last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from roomful.verify.client import Client, Link, World, decode, encode

__all__ = ["PlainClient"]


class PlainClient(Client):
    """Plain JSON at /ws."""

    # Mutable state: the newest cursor, and the rooms it stands for.
    def __init__(self, world: World, number: int, rooms: Sequence[str]) -> None:
        super().__init__(world, number, rooms)
        self._cursor: str | None = None

    def _path(self, token: str) -> tuple[str, dict[str, str]]:
        return "/ws", {"Authorization": f"Bearer {token}"}

    async def _enter(self, link: Link) -> None:
        if self._cursor is not None and self.stretches:
            body = {"cursor": self._cursor, "rooms": list(self.stretches)}
            reply = await self._request(link, "resume", body)
            if reply.get("recovered"):
                self.world.statistics.recovered += 1
            else:
                self._gap()
        await self._join(link)

    def on_text(self, link: Link, text: bytes) -> None:
        """Take one object."""
        self._heard_at = time.monotonic()
        body = decode(text)
        match body.get("type"):
            case "ack":
                self._on_ack(int(body["ref"]), body)
            case "message":
                self._hear(body)
        # A cursor counts once the client is in its rooms: the one that comes with "connected" is
        # of a session that has none yet.
        if body.get("type") != "connected" and isinstance(cursor := body.get("cursor"), str):
            self._cursor = cursor

    def _encode_request(self, number: int, operation: str, body: dict[str, Any]) -> bytes:
        return encode({"type": operation, "ref": number, **body})
