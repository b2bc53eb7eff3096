"""
WebSocket upgrade requests: which path, which checks, and the refusal where one fails.

Runs before the 101, so a refusal is an HTTP status with a JSON body {code, message}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import msgspec
import picows

from roomful.edge.handshake import Accepted, UpgradeRequest
from roomful.edge.json_connection import JsonConnection
from roomful.edge.peers import FORWARDED
from roomful.edge.websocket import Owner, Socket
from roomful.protocol.engineio import BadHandshake, Handshake, HandshakeFault, parse_handshake
from roomful.protocol.errors import RefusalCode, Refused

if TYPE_CHECKING:
    from roomful.edge.edge import Edge
    from roomful.edge.endpoint import Endpoint

__all__ = ["JSON_PATH", "Upgrade", "parse_query"]

JSON_PATH = "/ws"
SUBPROTOCOL = "roomful"
_SHORT_TARGET = 64
_TOKEN_SUBPROTOCOL = "bearer."  # noqa: S105 - a prefix, not a secret

Open = Callable[[Socket], Owner]


def parse_query(query: str) -> dict[str, str]:
    """
    Read a query string; of a name that comes twice the first counts.

    Raises:
        BadHandshake: more than 64 fields.
    """
    values: dict[str, str] = {}
    try:
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=64):
            values.setdefault(name, value)
    except ValueError as exc:
        raise BadHandshake(HandshakeFault.BAD_REQUEST, "too many fields") from exc
    return values


def _parse_target(target: str) -> tuple[str, Mapping[str, str]]:
    """
    Give the path of a request, and its query.

    Raises:
        BadHandshake: as parse_query().
        ValueError: it is no URL.
    """
    # Nearly all ask for the same; what is long may have a token in it.
    if len(target) <= _SHORT_TARGET:
        return _parse_short_target(target)
    url = urlsplit(target)
    return url.path, parse_query(url.query)


@lru_cache(maxsize=64)
def _parse_short_target(target: str) -> tuple[str, Mapping[str, str]]:
    url = urlsplit(target)
    return url.path, MappingProxyType(parse_query(url.query))


def _parse_handshake(target: str, query: Mapping[str, str], traceparent: str | None) -> Handshake:
    """
    Check the query of a request, as parse_handshake().

    Raises:
        BadHandshake: as parse_handshake().
    """
    if traceparent is None and len(target) <= _SHORT_TARGET:
        return _parse_short_handshake(target)
    return parse_handshake(query, traceparent)


@lru_cache(maxsize=64)
def _parse_short_handshake(target: str) -> Handshake:
    return parse_handshake(_parse_short_target(target)[1])


class Upgrade:
    """Answers upgrade requests of one edge: picows calls it with each."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def __call__(
        self, request: UpgradeRequest, address: str
    ) -> picows.WSUpgradeResponseWithListener:
        """Give the answer, and with a 101 the WebSocket's listener."""
        try:
            open_owner, protocol = self._admit(request)
        except BadHandshake as refused:
            return self._refuse(address, refused.status, refused.body)
        except Refused as refused:
            body = {"code": refused.code, "message": refused.sentence}
            status = 404 if refused.code is RefusalCode.NOT_FOUND else 503
            return self._refuse(address, status, msgspec.json.encode(body), {"Retry-After": "2"})
        except ValueError:
            bad = BadHandshake(HandshakeFault.BAD_REQUEST)
            return self._refuse(address, bad.status, bad.body)
        listener = Socket(self._edge, address, open_owner)
        return picows.WSUpgradeResponseWithListener(Accepted(protocol), listener)

    def owner_of(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Give the other edge that has the session which an upgrade request names, if one has."""
        try:
            url = urlsplit(target.decode("latin-1"))
            sid = parse_query(url.query).get("sid", "")
        except (BadHandshake, ValueError):
            return None
        if any(name == FORWARDED for name, _ in headers) or self._endpoint(url.path) is None:
            return None
        return self._edge.peers.owner_of(sid)

    def _endpoint(self, path: str) -> Endpoint | None:
        return self._edge.endpoints.get(path if path.endswith("/") else path + "/")

    def _refuse(
        self, address: str, status: int, body: bytes, more: Mapping[str, str] | None = None
    ) -> picows.WSUpgradeResponseWithListener:
        self._edge.statistics.refused_upgrades += 1
        self._edge.counts.leave(address)
        headers = {
            "Content-Type": "application/json",
            "Connection": "close",
            "Sec-WebSocket-Version": "13",
            **(more or {}),
        }
        response = picows.WSUpgradeResponse.create_error_response(status, body, headers)
        return picows.WSUpgradeResponseWithListener(response, None)

    def _admit(self, request: UpgradeRequest) -> tuple[Open, str | None]:
        """
        Check a request; gives what begins on the WebSocket, and its subprotocol.

        Raises:
            BadHandshake: the request is wrong.
            Refused: the edge takes nobody now.
        """
        edge = self._edge
        if request.headers.get("sec-websocket-version") != "13":
            raise BadHandshake(HandshakeFault.BAD_REQUEST, "Sec-WebSocket-Version is 13")
        path, query = _parse_target(request.target)
        edge.origins.check(request.headers.get("origin"), request.headers.get("host"))
        endpoint = self._endpoint(path)
        traceparent = request.headers.get("traceparent")
        if endpoint is not None:
            handshake = _parse_handshake(request.target, query, traceparent)
            if handshake.transport != "websocket":
                raise BadHandshake(HandshakeFault.BAD_REQUEST)
            if handshake.sid is not None:
                endpoint.find(handshake.sid)
            else:
                edge.take_handshake()
            return lambda socket: endpoint.open_socket(socket, handshake), None
        if path.rstrip("/") == JSON_PATH and edge.serves_json:
            edge.take_handshake()
            return self._json(request, query, query.get("traceparent", traceparent))
        raise Refused(RefusalCode.NOT_FOUND, "there is no WebSocket at this path")

    def _json(
        self,
        request: UpgradeRequest,
        query: Mapping[str, str],
        traceparent: str | None,
    ) -> tuple[Open, str | None]:
        edge = self._edge
        token: str | None = None
        protocol: str | None = None
        offered = request.headers.get("sec-websocket-protocol", "")
        for name in (one.strip() for one in offered.split(",")):
            if name.startswith(_TOKEN_SUBPROTOCOL):
                token = name.removeprefix(_TOKEN_SUBPROTOCOL)
            elif name == SUBPROTOCOL:
                protocol = SUBPROTOCOL
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = credentials.strip()
        elif token is None and edge.settings.auth_query_token:
            token = query.get("token")

        def open_owner(socket: Socket) -> Owner:
            connection = JsonConnection(edge, socket, "", token)
            connection.follow(traceparent)
            return connection

        return open_owner, protocol
