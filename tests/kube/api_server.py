"""
A small API server over real HTTP: objects by path, versions, conflicts.

It has what a Lease needs. What a real one does beyond is shown in e2e/.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.client import Configuration

__all__ = ["ApiServer", "running_api_server"]


class ApiServer:
    """Its objects, by path; tests may look at and change them."""

    # Mutable state: the objects, the counter of versions, and whether it answers.
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.is_away = False
        self._versions = itertools.count(1)
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        if self.is_away:
            return _failure(503, "away")
        if request.method == "GET":
            found = self.objects.get(request.path)
            return web.json_response(found) if found else _failure(404, "not found")
        body = await request.json()
        path = request.path
        if request.method == "POST":
            path += "/" + body["metadata"]["name"]
            if path in self.objects:
                return _failure(409, "already exists")
        elif body["metadata"].get("resourceVersion") != self._version(path):
            return _failure(409, "the object has been modified")
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[path] = body
        return web.json_response(body)

    def _version(self, path: str) -> str | None:
        found = self.objects.get(path, {}).get("metadata", {}).get("resourceVersion")
        return None if found is None else str(found)


def _failure(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


@asynccontextmanager
async def running_api_server() -> AsyncIterator[tuple[ApiServer, Configuration]]:
    """Run one; gives it, and how a client reaches it."""
    server = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    configuration = Configuration()
    configuration.host = f"http://{host}:{port}"
    try:
        yield server, configuration
    finally:
        await runner.cleanup()
