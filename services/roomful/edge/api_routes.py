"""The routes of the HTTP API: one for each path, that names all its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from roomful.edge.api import Api, Handler, operations

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["build_routes"]


class _NameConvertor(Convertor[str]):
    """A name in a path: whatever it is, a handler says what is wrong with it."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("name", _NameConvertor())


def _by_method(handlers: dict[str, Handler]) -> Handler:
    """Give one handler for all methods of a path, so that an answer of 405 names them all."""

    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return handle


def build_routes(edge: Edge) -> list[Route]:
    """Give the routes of the API; conformance has only the probes."""
    api = Api(edge)
    calls: dict[str, dict[str, Handler]] = {}
    for one in operations(api):
        if edge.settings.conformance and not one.is_open:
            continue
        path = one.path.replace("{room}", "{room:name}").replace("{user}", "{user:name}")
        handler = api.guarded(one.handler, needs_service=not one.is_open)
        calls.setdefault(path, {})[one.method] = handler
    if edge.settings.dev:
        sign_in = api.guarded(api.post_dev_token, needs_service=False)
        calls["/api/dev/token"] = {"POST": sign_in}
    return [
        Route(path, _by_method(handlers), methods=list(handlers))
        for path, handlers in calls.items()
    ]
