"""The work of Roomful's core events on python-socketio, as its documentation shows it."""

from __future__ import annotations

import argparse
import os
import time
import uuid
from typing import Any

import jwt
import socketio  # type: ignore[import-untyped]  # python-socketio has no types
import uvicorn

__all__: list[str] = []

_SECRET = os.environ.get("AUTH_SECRET", "")

server = socketio.AsyncServer(
    async_mode="asgi",
    cors_allowed_origins="*",
    # In order, one after another: what a sender of a room expects.
    async_handlers=False,
    client_manager=socketio.AsyncRedisManager(os.environ.get("REDIS_URL", "redis://localhost")),
)


@server.event  # type: ignore[untyped-decorator]
async def connect(sid: str, _environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
    """Check the token, as everyone does."""
    try:
        claims = jwt.decode((auth or {})["token"], _SECRET, algorithms=["HS256"])
    except (KeyError, jwt.PyJWTError):
        raise socketio.exceptions.ConnectionRefusedError("Authentication failed") from None
    await server.save_session(sid, {"user": claims["sub"]})


@server.on("join-room")  # type: ignore[untyped-decorator]
async def join_room(sid: str, room: str) -> dict[str, Any]:
    """Let the client in, and tell the others."""
    session = await server.get_session(sid)
    await server.enter_room(sid, room)
    joined = {"userId": session["user"], "roomId": room, "timestamp": _now_ms()}
    await server.emit("user-joined", joined, room=room, skip_sid=sid)
    return {"success": True, "roomId": room}


@server.on("message")  # type: ignore[untyped-decorator]
async def message(sid: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send to the room, and ack."""
    room = body["roomId"]
    if room not in server.rooms(sid):
        return {"success": False, "error": {"code": "NOT_JOINED"}}
    session = await server.get_session(sid)
    identity, timestamp = body.get("id") or uuid.uuid4().hex, _now_ms()
    sent = {
        "id": identity,
        "roomId": room,
        "userId": session["user"],
        "content": body["content"],
        "timestamp": timestamp,
    }
    await server.emit("message", sent, room=room)
    return {"success": True, "id": identity, "timestamp": timestamp}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve python-socketio for the benchmark.")
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(
        socketio.ASGIApp(server),
        port=parser.parse_args().port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
    )
