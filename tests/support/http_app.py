"""What an edge asks over HTTP, such as a webhook, served in the loop of the test."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

__all__ = ["serving_app"]


@asynccontextmanager
async def serving_app(app: Starlette) -> AsyncIterator[str]:
    """Serve *app* for the length of the block; gives its URL, without a slash at the end."""
    # With the protocol given, or asyncio leaves Nagle's algorithm on and answers take 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="warning")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await server.shutdown(sockets=[listener])
