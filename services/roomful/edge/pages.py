"""The demo page: built files under roomful/web, served as they are."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

import roomful
from roomful.edge.settings import Settings

__all__ = ["build_page_routes"]

WEB = Path(roomful.__file__).parent / "web"
# Nothing but itself: no foreign script, style, frame or connection.
POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def build_page_routes(settings: Settings) -> list[Route]:
    """Give the routes of the page; none under conformance or where the files are missing."""
    if settings.conformance or not (WEB / "index.html").is_file():
        return []

    async def page(request: Request) -> Response:
        return FileResponse(WEB / "index.html", headers={**HEADERS, "Cache-Control": "no-cache"})

    async def file(request: Request) -> Response:
        path = (WEB / request.url.path.lstrip("/")).resolve()
        if not path.is_relative_to(WEB) or not path.is_file():
            raise HTTPException(404)
        # Names of built files carry a hash of what is in them.
        age = "public, max-age=31536000, immutable" if "assets" in path.parts else "no-cache"
        return FileResponse(path, headers={**HEADERS, "Cache-Control": age})

    files = [Route(f"/{one.name}", file) for one in WEB.iterdir() if one.is_file()]
    return [Route("/", page), Route("/assets/{name:path}", file), *files]
