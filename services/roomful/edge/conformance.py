"""
The profile that the official protocol suites are run against (`roomful serve --conformance`).

`/engine.io/` echoes every message. `/socket.io/` has the namespaces / and /custom: each says
`auth` with the handshake's auth on connection, answers `message` with `message-back` and the
same arguments, and `message-with-ack` with an ack of the same arguments.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from roomful.edge.edge import Edge
from roomful.edge.endpoint import Endpoint
from roomful.edge.engine import Application, EngineConnection
from roomful.protocol import socketio
from roomful.protocol.engineio import Binary, Pace
from roomful.protocol.errors import BadPacket
from roomful.protocol.session import Connect, Event, Incoming, NamespaceState, SocketSession

__all__ = ["add_endpoints"]

NAMESPACES = ("/", "/custom")


def add_endpoints(edge: Edge, pace: Pace) -> None:
    """Give *edge* the two endpoints of the suites."""

    def add(path: str, make: Callable[[Edge, EngineConnection], Application]) -> None:
        edge.endpoints[path] = Endpoint(edge, path, pace, lambda engine, _: make(edge, engine))

    add("/engine.io/", EngineEcho)
    add("/socket.io/", SocketEcho)


class EngineEcho:
    """Sends every message back. Implements Application."""

    is_established = True

    def __init__(self, edge: Edge, engine: EngineConnection) -> None:
        self._engine = engine

    def on_text(self, payload: bytes) -> None:
        """Echo."""
        self._engine.send((b"4" + payload,))

    def on_binary(self, payload: bytes) -> None:
        """Echo."""
        self._engine.send((Binary(payload),))

    def on_upgraded(self) -> None:
        """Nothing changes."""

    def on_closed(self) -> None:
        """Nothing was kept."""


class SocketEcho:
    """Answers the events of the Socket.IO suite. Implements Application."""

    def __init__(self, edge: Edge, engine: EngineConnection) -> None:
        self._engine = engine
        self._session = SocketSession(edge.socket_limits)

    @property
    def is_established(self) -> bool:
        """Whether the client is in a namespace."""
        states = map(self._session.state, NAMESPACES)
        return any(state is NamespaceState.CONNECTED for state in states)

    def on_text(self, payload: bytes) -> None:
        """
        Take a text packet.

        Raises:
            ClientFault: the connection cannot go on.
        """
        self._answer(self._session.receive_text(payload))

    def on_binary(self, payload: bytes) -> None:
        """
        Take an attachment.

        Raises:
            ClientFault: the connection cannot go on.
        """
        self._answer(self._session.receive_binary(payload))

    def on_upgraded(self) -> None:
        """Nothing changes."""

    def on_closed(self) -> None:
        """Nothing was kept."""

    def _answer(self, incoming: Incoming | None) -> None:
        if isinstance(incoming, Connect):
            self._connect(incoming)
        elif isinstance(incoming, Event):
            self._event(incoming)

    def _connect(self, connect: Connect) -> None:
        namespace = connect.namespace
        if namespace not in NAMESPACES:
            self._session.refuse(namespace)
            error = socketio.encode_connect_error("Invalid namespace", namespace)
            self._engine.send((error,))
            return
        self._session.accept(namespace)
        body = b'["auth",%b]' % (connect.auth or b"{}")
        self._engine.send(
            (
                socketio.encode_connect(secrets.token_urlsafe(12), namespace=namespace),
                socketio.encode_event(body, namespace=namespace),
            )
        )

    def _event(self, event: Event) -> None:
        try:
            name, *arguments = msgspec.json.decode(event.body, type=list[msgspec.Raw])
            decoded = msgspec.json.decode(name, type=str)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise BadPacket("an event begins with its name") from exc
        count = len(event.attachments)
        joined = b",".join(map(bytes, arguments))
        if decoded == "message":
            body = b'["message-back"%b]' % (b"," + joined if arguments else b"")
            packet = socketio.encode_event(body, attachments=count, namespace=event.namespace)
        elif decoded == "message-with-ack" and event.ack_id is not None:
            packet = socketio.encode_ack(
                event.ack_id, b"[%b]" % joined, attachments=count, namespace=event.namespace
            )
        else:
            return
        self._engine.send((packet, *map(Binary, event.attachments)))
