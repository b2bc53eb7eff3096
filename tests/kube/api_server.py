"""
A small API server over real HTTP: objects by path, lists, versions, conflicts.

An applied object is taken as it is. What a real API server does beyond is shown in e2e/.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.client import Configuration

from roomful_operator.api import CLUSTERS, EVENTS, OWNED, PODS

__all__ = ["ApiServer", "running_api_server"]

COLLECTIONS = {kind.plural for kind in (CLUSTERS, EVENTS, PODS, *OWNED.values())}


class ApiServer:
    """Its objects, by path; tests may look at and change them."""

    # Mutable state: the objects, the counter of versions, whether it answers, what was written.
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.is_away = False
        self.writes: list[str] = []
        self._versions = itertools.count(1)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        if self.is_away:
            return _failure(503, "away")
        if request.method == "GET":
            return self._get(request.path)
        body = await request.json()
        path = request.path
        self.writes.append(f"{request.method} {path}")
        if request.method == "PATCH":
            if request.content_type == "application/merge-patch+json":
                self.objects[path] = _merged(self.objects.get(path, {}), body)
                return web.json_response(self.objects[path])
            return web.json_response(self._apply(path, body))
        if request.method == "POST":
            metadata = body["metadata"]
            generated = metadata.get("generateName", "") + str(next(self._versions))
            path += "/" + metadata.setdefault("name", generated)
            if path in self.objects:
                return _failure(409, "already exists")
        elif body["metadata"].get("resourceVersion") != self._version(path):
            return _failure(409, "the object has been modified")
        if text := body.pop("stringData", None):
            body["data"] = {
                name: base64.b64encode(value.encode()).decode() for name, value in text.items()
            }
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[path] = body
        return web.json_response(body)

    def _get(self, path: str) -> web.Response:
        if path in self.objects:
            return web.json_response(self.objects[path])
        *_, last = path.split("/")
        if last not in COLLECTIONS:
            return _failure(404, "not found")
        # A collection, of one namespace or of all.
        root = path.removesuffix(last)
        items = [
            one
            for name, one in self.objects.items()
            if name.startswith(root) and name.split("/")[-2] == last
        ]
        return web.json_response({"items": items})

    def _apply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        path = path.removesuffix("/status")
        if "status" in body:
            body = {**self.objects[path], **body}
        before = self.objects.get(path, {}).get("metadata", {})
        metadata = {"uid": f"uid-{len(self.objects)}", **before, **body["metadata"]}
        self.objects[path] = {**body, "metadata": metadata}
        return self.objects[path]

    def _version(self, path: str) -> str | None:
        found = self.objects.get(path, {}).get("metadata", {}).get("resourceVersion")
        return None if found is None else str(found)


def _merged(before: Any, patch: Any) -> Any:
    # RFC 7396
    if not isinstance(patch, dict):
        return patch
    after = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = _merged(after.get(name), value)
    return after


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
