"""
HTTP long-polling: GET waits for packets, POST brings them.

Source: engine.io-protocol v4, "HTTP long-polling"; the faults are the reference server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from roomful.edge.engine import CLOSE
from roomful.edge.forward import Answer, Outgoing, PeerLost
from roomful.edge.peers import FORWARDED
from roomful.edge.request_body import BodyTooLarge, read_body
from roomful.edge.upgrade import parse_query
from roomful.protocol.engineio import (
    BadHandshake,
    HandshakeFault,
    decode_payload,
    parse_handshake,
)
from roomful.protocol.errors import (
    BadPacket,
    ClientFault,
    CloseCode,
    RefusalCode,
    Refused,
    TooLarge,
)
from roomful.protocol.session import Channel

if TYPE_CHECKING:
    from roomful.edge.edge import Edge
    from roomful.edge.endpoint import Endpoint
    from roomful.edge.engine import EngineConnection

__all__ = ["Polling"]

TEXT = "text/plain; charset=UTF-8"
FORWARDED_NAME = FORWARDED.decode()


class _PassingPoll:
    """A request that another edge answers. Implements Passing."""

    def __init__(self, gone: asyncio.Future[None]) -> None:
        self._gone = gone

    def close(self) -> None:
        """As if the client had hung up."""
        self._gone.cancel()


class Polling:
    """Answers the HTTP requests of one endpoint."""

    def __init__(self, edge: Edge, endpoint: Endpoint) -> None:
        self._edge = edge
        self._endpoint = endpoint

    async def answer(self, request: Request) -> Response:
        """Answer *request*, with CORS headers whatever the answer."""
        origin, host = request.headers.get("origin"), request.headers.get("host")
        try:
            self._edge.origins.check(origin, host)
            response = await self._dispatch(request)
        except BadHandshake as refused:
            response = Response(refused.body, refused.status, media_type="application/json")
        except Refused as refused:
            response = Response(
                BadHandshake(HandshakeFault.FORBIDDEN, refused.sentence).body,
                503,
                {"Retry-After": "2"},
                "application/json",
            )
        response.headers.update(self._edge.origins.headers(origin, host))
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _dispatch(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return _preflight(request)
        query = parse_query(request.url.query)
        handshake = parse_handshake(query, request.headers.get("traceparent"))
        if handshake.transport != "polling":
            # A websocket handshake that came without an upgrade.
            raise BadHandshake(HandshakeFault.BAD_REQUEST)
        if handshake.sid is None:
            if request.method != "GET":
                raise BadHandshake(HandshakeFault.BAD_HANDSHAKE_METHOD)
            self._edge.take_handshake()
            address = self._edge.address_of_host(request.client.host if request.client else "")
            _, payload = self._endpoint.open_polling(handshake, address)
            return Response(payload, media_type=TEXT)
        owner = self._edge.peers.owner_of(handshake.sid)
        if owner is not None and FORWARDED_NAME not in request.headers:
            return await self._forward(request, owner)
        engine = self._endpoint.find(handshake.sid)
        if request.method == "GET":
            return await self._poll(request, engine)
        if request.method == "POST":
            return await self._post(request, engine)
        raise BadHandshake(HandshakeFault.BAD_REQUEST)

    async def _poll(self, request: Request, engine: EngineConnection) -> Response:
        """Wait for packets; a client that hangs up meanwhile ends its session."""
        if engine.mailbox is not None and engine.mailbox.has_mail:
            # Nothing to wait for: no need to watch the client.
            return Response(await self._payload(engine), media_type=TEXT)
        poll = asyncio.ensure_future(self._payload(engine))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((poll, gone), return_when=asyncio.FIRST_COMPLETED)
            if not poll.done():
                engine.close(CloseCode.GOING_AWAY, "the client hung up")
            return Response(await poll, media_type=TEXT)
        finally:
            gone.cancel()
            poll.cancel()

    async def _payload(self, engine: EngineConnection) -> bytes:
        try:
            return await engine.poll(self._edge.settings.limits.payload_bytes)
        except ClientFault as fault:
            raise BadHandshake(HandshakeFault.BAD_REQUEST, fault.reason) from fault

    async def _post(self, request: Request, engine: EngineConnection) -> Response:
        try:
            packets = decode_payload(await self._body(request))
            for packet in packets:
                if engine.is_closed:
                    break
                if type(packet) is bytes and not packet.isascii():
                    _check_text(packet)
                engine.receive(Channel.POLL, packet)
        except ClientFault as fault:
            engine.fail(fault)
            return self._refuse_body(fault)
        return Response(b"ok", media_type="text/html")

    # Sessions of other edges ----------------------------------------------------------------

    async def _forward(self, request: Request, owner: str) -> Response:
        """
        Let the edge *owner* answer.

        Raises:
            BadHandshake: UNKNOWN_SID, that edge is not there.
            Refused: OVERLOADED, it does not answer; DRAINING, this one goes away.
        """
        edge = self._edge
        if request.method not in ("GET", "POST"):
            raise BadHandshake(HandshakeFault.BAD_REQUEST)
        fault: ClientFault | None = None
        body = b""
        if request.method == "POST":
            try:
                body = await self._body(request)
            except ClientFault as exc:
                # Here as there such a body ends the session.
                fault, body = exc, CLOSE
        address = await edge.peers.find(owner)
        if address is None:
            edge.statistics.forwards_failed += 1
            raise BadHandshake(HandshakeFault.UNKNOWN_SID)
        edge.statistics.forwards += 1
        target = request.scope["raw_path"] + b"?" + request.scope["query_string"]
        outgoing = Outgoing(request.method, target, request.headers.raw, body)
        client = request.client.host if request.client else ""
        timeout_s = edge.settings.ping_interval_s + edge.settings.ping_timeout_s
        exchange = edge.forwarder.send(address, outgoing, client=client, timeout_s=timeout_s)
        try:
            if request.method == "GET":
                answer = await self._while_there(request, exchange)
            else:
                answer = await exchange
        except PeerLost as exc:
            edge.statistics.forwards_failed += 1
            edge.peers.forget(owner)
            raise BadHandshake(HandshakeFault.UNKNOWN_SID) from exc
        except TimeoutError as exc:
            edge.statistics.forwards_failed += 1
            raise Refused(RefusalCode.OVERLOADED, "the session's edge does not answer") from exc
        if fault is not None:
            return self._refuse_body(fault)
        return Response(answer.body, answer.status, answer.headers)

    async def _while_there(self, request: Request, exchange: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for *exchange*; it ends when the client hangs up, or this edge goes away."""
        work = asyncio.ensure_future(exchange)
        gone = asyncio.ensure_future(_disconnected(request))
        passing = _PassingPoll(gone)
        self._edge.passing.add(passing)
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Refused(RefusalCode.DRAINING, "this edge is going away")
            return await work
        finally:
            self._edge.passing.discard(passing)
            gone.cancel()
            work.cancel()

    def _refuse_body(self, fault: ClientFault) -> Response:
        self._edge.statistics.client_faults += 1
        body = BadHandshake(HandshakeFault.BAD_REQUEST, fault.reason).body
        if isinstance(fault, TooLarge):
            # Open until the body has come or its time is over: a client that still writes would be
            # reset by a close, and lose the answer.
            return Response(body, 413, media_type="application/json")
        return Response(body, 400, {"Connection": "close"}, "application/json")

    async def _body(self, request: Request) -> bytes:
        """
        Read the body within its limits.

        Raises:
            TooLarge: above payload_bytes.
            BadPacket: not whole in time, or the client hung up.
        """
        limits = self._edge.settings.limits
        length = request.headers.get("content-length", "0")
        try:
            if length.isdigit() and int(length) > limits.payload_bytes:
                raise BodyTooLarge
            return await read_body(request, limits)
        except BodyTooLarge as exc:
            raise TooLarge(f"a body above {limits.payload_bytes} bytes") from exc
        except TimeoutError as exc:
            raise BadPacket("the body did not come in time") from exc
        except ClientDisconnect as exc:
            raise BadPacket("the client hung up") from exc


def _check_text(packet: bytes) -> None:
    try:
        packet.decode()
    except UnicodeDecodeError as exc:
        raise BadPacket("a text packet is UTF-8") from exc


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _preflight(request: Request) -> Response:
    wanted = request.headers.get("access-control-request-headers", "")
    headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": "600"}
    if wanted:
        headers["Access-Control-Allow-Headers"] = wanted
    return Response(status_code=204, headers=headers)
