"""The demo page: built files under roomful/web, served as they are."""

from __future__ import annotations

from pathlib import Path

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
        path = files[request.scope["path"]]
        # Names of built files carry a hash of what is in them.
        age = "public, max-age=31536000, immutable" if "assets" in path.parts else "no-cache"
        return FileResponse(path, headers={**HEADERS, "Cache-Control": age})

    # A route for each file that is there: no name that anyone asks for becomes a path.
    files = {f"/{one.relative_to(WEB)}": one for one in WEB.rglob("*") if one.is_file()}
    return [Route("/", page), *(Route(name, file) for name in files)]
