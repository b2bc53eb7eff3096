"""
The wiring: an edge, its Starlette application, and the uvicorn server that runs both.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from roomful.archive.base import Archive
from roomful.archive.embedded import EmbeddedArchive
from roomful.archive.settings import ArchiveSettings
from roomful.edge import conformance
from roomful.edge.api_answers import no_such_call
from roomful.edge.api_routes import build_routes
from roomful.edge.cluster_settings import build_shards
from roomful.edge.drain import drain
from roomful.edge.edge import Edge
from roomful.edge.encoding import Wire
from roomful.edge.endpoint import Endpoint
from roomful.edge.engine import Application, EngineConnection
from roomful.edge.front import FrontProtocol
from roomful.edge.pages import build_page_routes
from roomful.edge.peers import About, Address, advertised_address, new_edge_name
from roomful.edge.polling import Polling
from roomful.edge.settings import Settings
from roomful.edge.socketio_connection import SocketIoConnection
from roomful.edge.websocket import EdgeProtocol
from roomful.protocol.engineio import Handshake, Pace
from roomful.shard.snapshot import Snapshot
from roomful.telemetry.lasting import keep_going

if TYPE_CHECKING:
    from roomful.edge.tracing import Tracing

__all__ = ["EdgeServer", "build_app", "build_edge"]

logger = logging.getLogger("roomful.edge")

SOCKETIO_PATH = "/socket.io/"
METHODS = ["GET", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"]


def build_edge(settings: Settings) -> Edge:
    """
    Make the edge of *settings* with its endpoints; nothing runs yet.

    Raises:
        ValueError: a file that *settings* name cannot be read, or a package that they need.
    """
    address = advertised_address(settings.advertise, Address(settings.host, settings.port))
    about = About(new_edge_name(), str(address))
    shards = build_shards(settings, msgspec.json.encode(about).decode())
    edge = Edge(settings, shards=shards, name=about.name, tracing=_tracing(settings, about.name))
    if settings.archive.url and shards is not None:
        edge.archive = _postgres(settings.archive)
    if shards is not None:
        shards.on_swept = lambda shard: edge.rejoin(shard)
        shards.on_moved = lambda shard, bucket: edge.rejoin(shard, bucket)
    pace = Pace(
        int(settings.ping_interval_s * 1000),
        int(settings.ping_timeout_s * 1000),
        settings.limits.payload_bytes,
    )
    if settings.conformance:
        conformance.add_endpoints(edge, pace)
        return edge

    def begin(engine: EngineConnection, handshake: Handshake) -> Application:
        wants_cursor = settings.recovery and not handshake.is_strict_arity
        wire = Wire.CURSOR if wants_cursor else Wire.PLAIN
        connection = SocketIoConnection(edge, engine, wire, "")
        connection.follow(handshake.traceparent)
        return connection

    edge.endpoints[SOCKETIO_PATH] = Endpoint(edge, SOCKETIO_PATH, pace, begin)
    return edge


def _tracing(settings: Settings, name: str) -> Tracing | None:
    if not settings.tracing.endpoint:
        return None
    try:
        from roomful.edge.tracing import Tracing
    except ImportError as exc:
        raise ValueError(
            "tracing.endpoint needs OpenTelemetry, which is not installed: "
            "pip install 'roomful[tracing]'"
        ) from exc
    return Tracing(settings.tracing, name)


def _postgres(settings: ArchiveSettings) -> Archive:
    # Not needed, and perhaps not installed, where there is no cluster.
    from roomful.archive.postgres import PostgresArchive

    return PostgresArchive(
        settings.url, connections=settings.connections, timeout_s=settings.timeout_s
    )


def build_app(edge: Edge) -> Starlette:
    """Make the HTTP application of *edge*: polling, REST, probes, the page."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        edge.start()
        yield
        await edge.aclose()

    routes: list[Route] = []
    for path, endpoint in edge.endpoints.items():
        polling = Polling(edge, endpoint)
        routes += [
            Route(name, polling.answer, methods=METHODS) for name in (path, path.rstrip("/"))
        ]
    routes += build_routes(edge)
    routes += build_page_routes(edge.settings)
    cors = Middleware(
        _ApiCors,
        allow_origins=sorted(edge.origins.allowed),
        allow_methods=["*"],
        allow_headers=["*"],
    )
    handlers: Mapping[Any, Any] = {HTTPException: no_such_call}
    return Starlette(
        routes=routes, lifespan=lifespan, middleware=[cors], exception_handlers=handlers
    )


class _ApiCors(CORSMiddleware):
    """CORS for REST; Engine.IO paths answer for themselves, with credentials."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/api/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class EdgeServer(uvicorn.Server):
    """uvicorn with our own end: a signal begins the drain, and only then does uvicorn stop."""

    # Mutable state: the drain, once a signal came.
    def __init__(self, edge: Edge, on_started: Callable[[], None] = lambda: None) -> None:
        """
        Prepare to serve *edge*.

        Args:
            on_started: called once, when clients can connect.

        Raises:
            ArchiveUnavailable: its messages cannot be kept where they should be.
        """
        self._edge = edge
        self._on_started = on_started
        settings = edge.settings
        self._snapshot = Snapshot.of(settings.state_dir, settings.port)
        self._embedded: EmbeddedArchive | None = None
        if settings.state_dir and edge.memory is not None:
            self._embedded = EmbeddedArchive(Path(settings.state_dir), settings.port)
            edge.embedded, edge.archive = self._embedded, self._embedded.archive
            edge.control.keeper = self._embedded
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            build_app(edge),
            http=partial(FrontProtocol, edge),  # type: ignore[arg-type]  # called like a class
            ws=EdgeProtocol,
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            backlog=4096,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open, and let the edge settle what is under way."""
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn leaves its application as it is then: the lease would go on, and a traceback
            # of the lifespan, which the end of the loop cancels, would be in the log.
            await self.lifespan.shutdown()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """
        Run until a signal, the drain and the stop.

        Raises:
            RoomfulError: there is no shard to run with.
        """
        self._loop = asyncio.get_running_loop()
        memory = self._edge.memory
        if self._embedded is not None and self._snapshot is not None and memory is not None:
            settings = self._edge.settings
            self._embedded.take_over(memory, self._snapshot.take(), settings.log, settings.memory)
        await self._edge.shards.start()
        await self._edge.control.start()
        # What is alive now stays: it need not be looked at by every collection. And with tens of
        # thousands of live connections a full collection is a pause, so they are rare.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)
        async with self._keeping():
            await super().serve(sockets)
        if self._embedded is not None and self._snapshot is not None and memory is not None:
            self._embedded.close_journal()
            self._snapshot.write(memory)
            self._embedded.close()
        elif self._edge.archive is not None:
            await self._edge.archive.aclose()

    @asynccontextmanager
    async def _keeping(self) -> AsyncIterator[None]:
        """Let the embedded archive let go of what is old for the length of the block."""
        if self._embedded is None:
            yield
            return
        archive = self._edge.settings.archive
        keep = partial(self._embedded.keep, archive.rules, archive.retention_every_s)
        keeper = asyncio.ensure_future(keep_going("retention", keep))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain; at the second signal stop at once."""
        if self._drain is None and self._loop is not None and self.started:
            # A signal handler runs between two bytecodes of whatever runs.
            self._loop.call_soon_threadsafe(self._begin_drain, signal.Signals(sig).name)
        else:
            self.should_exit = True
            self.force_exit = self._drain is not None

    def _begin_drain(self, name: str) -> None:
        if self._drain is None:
            logger.info("signal came", extra={"signal": name})
            self._drain = asyncio.get_running_loop().create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        try:
            await drain(self._edge)
        finally:
            self.should_exit = True
