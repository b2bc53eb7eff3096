"""
The operator's own HTTP port: whether it is well, and its metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from roomful.telemetry.metrics import CONTENT_TYPE
from roomful_operator.metrics import Statistics

__all__ = ["PORT", "serve"]

PORT: Final = 8081


async def serve(
    illness: Callable[[], str], statistics: Statistics, *, port: int = PORT
) -> web.AppRunner:
    """
    Serve `/healthz` and `/metrics`; the caller cleans the runner up.

    Args:
        illness: gives why the operator is not well; empty: it is.
    """

    async def healthz(_request: web.Request) -> web.Response:
        why = illness()
        return web.Response(status=503 if why else 200, text=(why or "ok") + "\n")

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=statistics.render(), headers={"content-type": CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
